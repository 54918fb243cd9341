// Exact int32 sums of products of interleaved integer codes with signed activations, for gemm_int8.h and
// gemm_fixed.h.
//
// Activations lie so that one 32-bit word of them, in every lane, meets
// a few columns of codes. A Form (byte_forms.h, pair_forms.h) says which, and the instruction that multiplies them.

/// Products of `steps` steps added to `sum`. Inlined whatever its length: out of line the sums would lie in memory,
/// since bytes of activations may be those of a sum for all that the compiler knows.
template <class Form, size_t Tokens, size_t Vectors>
inline __attribute__((always_inline)) void dot_steps(const uint32_t* from, size_t steps, const char* x, size_t x_stride,
                                                     vec::I (&sum)[Tokens][Form::digits][Vectors]) {
  using Words = CodeWords<Form::bits>;
  for (size_t i = 0; i < steps; ++i, from += Words::stride, x += Form::parts * Form::digits * 4) {
    // One stream of whole panels, into the second level: the lines of as many words ahead as were fastest.
    constexpr size_t ahead = Form::digits == 1 ? 16 : 32;
    for (size_t w = 0; w < Words::words; ++w)
      for (size_t line = 0; line < Vectors * vec::lanes; line += 16)
        __builtin_prefetch(from + (ahead + w) * kInterleavedRows + line, 0, 2);
    vec::I word[Vectors][Words::words];
    // All words at once where there is room for them, in the order of memory; else each where it is needed.
    if constexpr (Tokens == 1) load_step<Form::bits>(from, word);
    unroll<Form::parts>([&](auto part) __attribute__((always_inline)) {
      constexpr size_t parts_of_four = Form::parts / Words::parts;  // a form may take four columns in two parts
      if constexpr (Tokens > 1 && decltype(part)::value % parts_of_four == 0)
        load_part<Form::bits, decltype(part)::value / parts_of_four>(from, word);
      vec::I codes[Vectors];
      for (size_t v = 0; v < Vectors; ++v) codes[v] = Form::template codes<decltype(part)::value>(word[v]);
      for (size_t t = 0; t < Tokens; ++t)
        for (size_t d = 0; d < Form::digits; ++d) {
          const vec::I four = vec::set_bytes(x + t * x_stride + (decltype(part)::value * Form::digits + d) * 4);
          for (size_t v = 0; v < Vectors; ++v) sum[t][d][v] = Form::add(sum[t][d][v], codes[v], four);
        }
    });
  }
}

/// The same for a form whose partial sums hold run_columns columns: each run from zero, then widened.
template <class Form, size_t Tokens, size_t Vectors>
inline __attribute__((always_inline)) void dot_columns(const uint32_t* from, size_t columns, const char* x,
                                                       size_t x_stride, vec::I (&sum)[Tokens][Form::digits][Vectors]) {
  using Words = CodeWords<Form::bits>;
  if constexpr (Form::run_columns == 0) {
    dot_steps<Form, Tokens, Vectors>(from, columns / Words::columns, x, x_stride, sum);
  } else {
    for (size_t k = 0; k < columns; k += Form::run_columns) {
      const size_t run = columns - k < Form::run_columns ? columns - k : Form::run_columns;
      vec::I part[Tokens][Form::digits][Vectors];
      for (size_t t = 0; t < Tokens; ++t)
        for (size_t d = 0; d < Form::digits; ++d)
          for (size_t v = 0; v < Vectors; ++v) part[t][d][v] = vec::set_int(0);
      dot_steps<Form, Tokens, Vectors>(from + k / Words::columns * Words::stride, run / Words::columns,
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
/// Calls kernel(Width<bits>()) for the panel's width.
template <class Kernel>
inline void for_width(const InterleavedPanel& p, Kernel kernel) {
  switch (p.code_bits) {
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
/// what they need of registers would slow all others down. GGUF has offsets for codes of 4 and 5 bits.
template <class Kernel>
inline void for_form(const InterleavedPanel& p, Kernel kernel) {
  if (p.offsets == nullptr) return for_width(p, [&](auto bits) { kernel(bits, Width<0>()); });
  if (p.code_bits == 5) return kernel(Width<5>(), Width<1>());
  return kernel(Width<4>(), Width<1>());
}

/// Calls pass(Index<tokens>, first token) for as many tokens at once as there are, up to `Most`.
template <size_t Most, class Pass>
inline void for_tokens(size_t tokens, Pass pass) {
  size_t t = 0;
  if constexpr (Most >= 4)
    for (; tokens - t >= 4; t += 4) pass(Index<4>(), t);
  if constexpr (Most >= 2)
    for (; tokens - t >= 2; t += 2) pass(Index<2>(), t);
  for (; t < tokens; ++t) pass(Index<1>(), t);
}
