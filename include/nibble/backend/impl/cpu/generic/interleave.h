// Codes a byte each into the words of an interleaved panel: what CodeLayout (backend/impl/code_layout.h) says of each
// code, a word at a time.

/// As many parts of four columns of `lanes` rows as fill vectors: part i of all rows in out[i].
template <size_t Parts>
inline void load_parts(const uint8_t* codes, size_t stride, vec::I (&out)[Parts]) {
  static_assert(Parts % vec::lanes == 0);
  for (size_t first = 0; first < Parts; first += vec::lanes) {
    vec::F block[vec::lanes];
    for (size_t r = 0; r < vec::lanes; ++r)
      block[r] = vec::as_float(vec::load_words(reinterpret_cast<const uint32_t*>(codes + r * stride + 4 * first)));
    vec::transpose(block);
    for (size_t i = 0; i < vec::lanes; ++i) out[first + i] = vec::bits_of(block[i]);
  }
}

/// Word `Word` of a step whose parts begin at `part`.
template <int Bits, size_t Word>
inline vec::I word_of(const vec::I* part) {
  using Words = CodeWords<Bits>;
  vec::I word = part[Word * Words::whole];
  unroll<Words::whole - 1>([&](auto index) __attribute__((always_inline)) {
    constexpr size_t p = decltype(index)::value + 1;
    word = vec::add_int(word, vec::shift_left<static_cast<int>(p) * Words::held>(part[Word * Words::whole + p]));
  });
  unroll<Words::spread>([&](auto index) __attribute__((always_inline)) {
    using Piece = CodePiece<Bits, decltype(index)::value, Word>;
    if constexpr (Piece::count > 0) {
      const vec::I codes = part[Words::words * Words::whole + decltype(index)::value];
      const vec::I mask = vec::set_int(((1 << Piece::count) - 1) * 0x01010101);
      word = vec::add_int(word, vec::shift_left<Piece::from>(vec::and_int(vec::shift_right<Piece::to>(codes), mask)));
    }
  });
  return word;
}

template <int Bits>
NIBBLE_KERNEL void interleave_codes(const uint8_t* codes, size_t stride, size_t columns, uint32_t* words) {
  using Words = CodeWords<Bits>;
  constexpr size_t parts = Words::parts < vec::lanes ? vec::lanes : Words::parts;
  for (size_t row = 0; row < kInterleaveRows; row += vec::lanes)
    for (size_t first = 0; first < columns; first += 4 * parts) {
      vec::I part[parts];
      load_parts(codes + row * stride + first, stride, part);
      const size_t left = columns - first < 4 * parts ? columns - first : 4 * parts;
      for (size_t k = 0; k < left; k += Words::columns)
        unroll<Words::words>([&](auto w) __attribute__((always_inline)) {
          constexpr size_t word = decltype(w)::value;
          vec::store_words(words + (first + k) / Words::columns * Words::stride + word * kInterleavedRows + row,
                           word_of<Bits, word>(part + k / 4));
        });
    }
}

NIBBLE_KERNEL void interleave(const uint8_t* codes, size_t stride, size_t columns, int32_t code_bits, uint32_t* words) {
  for_width(code_bits, [&](auto bits) { interleave_codes<decltype(bits)::value>(codes, stride, columns, words); });
}
