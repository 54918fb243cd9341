// Exact int32 sums of products of interleaved integer codes with signed activations, for gemm_int8.h and
// gemm_fixed.h.
//
// Activations lie so that one 32-bit word of them, in every lane, meets
// a few columns of codes. A Form (byte_forms.h, pair_forms.h) says which, and the instruction that multiplies them.

/// Products of one part of a step added to `sum`; x is where the step's activations begin.
template <class Form, size_t Part, size_t Tokens, size_t Vectors>
inline __attribute__((always_inline)) void dot_part(const vec::I (&bytes)[Vectors], const char* x, size_t x_stride,
                                                    vec::I (&sum)[Tokens][Form::digits][Vectors]) {
  unroll<Form::splits>([&](auto split) __attribute__((always_inline)) {
    vec::I codes[Vectors];
    for (size_t v = 0; v < Vectors; ++v) codes[v] = Form::template codes<decltype(split)::value>(bytes[v]);
    for (size_t t = 0; t < Tokens; ++t)
      for (size_t d = 0; d < Form::digits; ++d) {
        constexpr size_t before = Part * Form::splits + decltype(split)::value;
        const vec::I four = vec::set_bytes(x + t * x_stride + (before * Form::digits + d) * 4);
        for (size_t v = 0; v < Vectors; ++v) sum[t][d][v] = Form::add(sum[t][d][v], codes[v], four);
      }
  });
}

/// Products of a step added to `sum`: of each word its whole parts as it is loaded, and a spread part with the word
/// that completes it.
template <class Form, size_t Tokens, size_t Vectors>
inline __attribute__((always_inline)) void dot_step(const uint32_t* from, const CodeTable<Form::bits>& table,
                                                    const char* x, size_t x_stride,
                                                    vec::I (&sum)[Tokens][Form::digits][Vectors]) {
  using Words = CodeWords<Form::bits>;
  vec::I spread[Words::spread + 1][Vectors];  // and one, since there is no array of none
  unroll<Words::words>([&](auto index) __attribute__((always_inline)) {
    constexpr size_t w = decltype(index)::value;
    vec::I word[Vectors];
    load_word(from + w * kInterleavedRows, word);
    unroll<Words::whole>([&](auto part) __attribute__((always_inline)) {
      vec::I bytes[Vectors];
      for (size_t v = 0; v < Vectors; ++v) bytes[v] = whole_bytes<Form::bits, decltype(part)::value>(word[v], table);
      dot_part<Form, w * Words::whole + decltype(part)::value>(bytes, x, x_stride, sum);
    });
    unroll<Words::spread>([&](auto part) __attribute__((always_inline)) {
      constexpr size_t s = decltype(part)::value;
      using Piece = CodePiece<Form::bits, s, w>;
      for (size_t v = 0; v < Vectors; ++v) add_piece_bytes<Piece>(spread[s][v], word[v]);
      if constexpr (Piece::completes) dot_part<Form, Words::words * Words::whole + s>(spread[s], x, x_stride, sum);
    });
  });
}

/// Products of `steps` steps added to `sum`. Inlined whatever its length: out of line the sums would lie in memory,
/// since bytes of activations may be those of a sum for all that the compiler knows.
template <class Form, size_t Tokens, size_t Vectors>
inline __attribute__((always_inline)) void dot_steps(const uint32_t* from, size_t steps,
                                                     const CodeTable<Form::bits>& table, const char* x, size_t x_stride,
                                                     vec::I (&sum)[Tokens][Form::digits][Vectors]) {
  using Words = CodeWords<Form::bits>;
  for (size_t i = 0; i < steps; ++i, from += Words::stride, x += Words::columns * Form::bytes_per_column) {
    // One stream of whole panels, into the second level: the lines of as many words ahead as were fastest.
    constexpr size_t ahead = Form::digits == 1 ? 16 : 32;
    for (size_t w = 0; w < Words::words; ++w)
      for (size_t line = 0; line < Vectors * vec::lanes; line += 16)
        __builtin_prefetch(from + (ahead + w) * kInterleavedRows + line, 0, 2);
    dot_step<Form, Tokens, Vectors>(from, table, x, x_stride, sum);
  }
}

/// The same for a form whose partial sums hold run_columns columns: each run from zero, then widened.
template <class Form, size_t Tokens, size_t Vectors>
inline __attribute__((always_inline)) void dot_columns(const uint32_t* from, size_t columns,
                                                       const CodeTable<Form::bits>& table, const char* x,
                                                       size_t x_stride, vec::I (&sum)[Tokens][Form::digits][Vectors]) {
  using Words = CodeWords<Form::bits>;
  if constexpr (Form::run_columns == 0) {
    dot_steps<Form, Tokens, Vectors>(from, columns / Words::columns, table, x, x_stride, sum);
  } else {
    for (size_t k = 0; k < columns; k += Form::run_columns) {
      const size_t run = columns - k < Form::run_columns ? columns - k : Form::run_columns;
      vec::I part[Tokens][Form::digits][Vectors];
      for (size_t t = 0; t < Tokens; ++t)
        for (size_t d = 0; d < Form::digits; ++d)
          for (size_t v = 0; v < Vectors; ++v) part[t][d][v] = vec::set_int(0);
      dot_steps<Form, Tokens, Vectors>(from + k / Words::columns * Words::stride, run / Words::columns, table,
                                       x + k * Form::bytes_per_column, x_stride, part);
      for (size_t t = 0; t < Tokens; ++t)
        for (size_t d = 0; d < Form::digits; ++d)
          for (size_t v = 0; v < Vectors; ++v) sum[t][d][v] = Form::widen(sum[t][d][v], part[t][d][v]);
    }
  }
}

/// Where the words of column k of a panel's pass begin.
template <int Bits>
inline const uint32_t* words_at(const InterleavedPanel& p, size_t k, size_t row) {
  return p.codes + k / CodeWords<Bits>::columns * CodeWords<Bits>::stride + row;
}

template <int Value>
struct Width {
  static constexpr int value = Value;
};
/// Calls kernel(Width<bits>()) for the width of a panel's codes.
template <class Kernel>
inline void for_width(int32_t code_bits, Kernel kernel) {
  switch (code_bits) {
    case kTableBits: return kernel(Width<kTableBits>());
    case 2: return kernel(Width<2>());
    case 3: return kernel(Width<3>());
    case 4: return kernel(Width<4>());
    case 5: return kernel(Width<5>());
    case 6: return kernel(Width<6>());
    case 7: return kernel(Width<7>());
    default: return kernel(Width<8>());
  }
}

/// Calls kernel(Width<bits>(), Width<whether there are offsets>()): products with offsets are compiled apart, since
/// what they need of registers would slow all others down. GGUF has offsets for codes of 2, 4 and 5 bits.
template <class Kernel>
inline void for_form(const InterleavedPanel& p, Kernel kernel) {
  if (p.offsets == nullptr) return for_width(p.code_bits, [&](auto bits) { kernel(bits, Width<0>()); });
  switch (p.code_bits) {
    case 2: return kernel(Width<2>(), Width<1>());
    case 5: return kernel(Width<5>(), Width<1>());
    default: return kernel(Width<4>(), Width<1>());
  }
}

/// Calls pass(Index<tokens>, first token) for as many tokens at once as there are, up to `Most`.
template <size_t Most, class Pass>
inline void for_tokens(size_t tokens, Pass pass) {
  size_t t = 0;
  if constexpr (Most >= 8)
    for (; tokens - t >= 8; t += 8) pass(Index<8>(), t);
  if constexpr (Most >= 4)
    for (; tokens - t >= 4; t += 4) pass(Index<4>(), t);
  if constexpr (Most >= 2)
    for (; tokens - t >= 2; t += 2) pass(Index<2>(), t);
  for (; t < tokens; ++t) pass(Index<1>(), t);
}
