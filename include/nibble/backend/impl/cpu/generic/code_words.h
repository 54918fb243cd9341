// How codes lie in the words of an interleaved panel (InterleavedPanel in kernels.h), for each width.
//
// A step is the fewest columns that fill whole words. Its codes come out four columns at a time, as "bytes": lane r
// holds the codes of row r, columns 4i … 4i + 3, a byte each.
//
//   8 bits   1 word,   4 columns: the bytes themselves
//   4 bits   1 word,   8 columns: bytes 0 in the low nibbles, bytes 1 in the high ones
//   2 bits   1 word,  16 columns: bytes i in bits 2i, 2i + 1 of each byte
//   3 bits   3 words, 32 columns: words 0 and 1 hold the two low bits as above, bit i of each byte of word 2 the third

template <int Bits>
struct CodeWords {
  static constexpr size_t words = Bits == 3 ? 3 : 1;
  static constexpr size_t columns = Bits == 3 ? 32 : 32 / Bits;
  static constexpr size_t parts = columns / 4;
  static constexpr size_t stride = words * kInterleavedRows;  ///< From a step to the next, in words.
};

template <int Bits, size_t Part>
inline vec::I code_bytes(const vec::I (&word)[CodeWords<Bits>::words]) {
  if constexpr (Bits == 8) {
    return word[0];
  } else if constexpr (Bits == 4) {
    return vec::and_int(vec::shift_right<4 * Part>(word[0]), vec::set_int(0x0F0F0F0F));
  } else if constexpr (Bits == 2) {
    return vec::and_int(vec::shift_right<2 * Part>(word[0]), vec::set_int(0x03030303));
  } else {
    const vec::I low = vec::and_int(vec::shift_right<2 * (Part % 4)>(word[Part / 4]), vec::set_int(0x03030303));
    const vec::I third = vec::and_int(vec::shift_right<Part>(word[2]), vec::set_int(0x01010101));
    return vec::add_int(low, vec::shift_left<2>(third));
  }
}

/// The code of one column in the low four bits of each lane. Above them anything; bits 2 and 3 too where Bits is 2.
template <int Bits, size_t Column>
inline vec::I code_of(const vec::I (&word)[CodeWords<Bits>::words]) {
  constexpr int part = Column / 4, byte = 8 * (Column % 4);
  if constexpr (Bits == 3) {
    const vec::I low = vec::and_int(vec::shift_right<byte + 2 * (part % 4)>(word[part / 4]), vec::set_int(3));
    return vec::add_int(low, vec::shift_left<2>(vec::and_int(vec::shift_right<byte + part>(word[2]), vec::set_int(1))));
  } else {
    return vec::shift_right<byte + part * Bits>(word[0]);
  }
}

/// The words of `Vectors` vectors of rows, as [vector][word].
template <int Bits, size_t Vectors>
inline void load_step(const uint32_t* from, vec::I (&word)[Vectors][CodeWords<Bits>::words]) {
  for (size_t w = 0; w < CodeWords<Bits>::words; ++w)
    for (size_t v = 0; v < Vectors; ++v) word[v][w] = vec::load_words(from + w * kInterleavedRows + v * vec::lanes);
}

/// body(std::integral_constant-like index) for 0 … N − 1, unrolled, without a std header.
template <size_t I>
struct Index {
  static constexpr size_t value = I;
};
template <size_t N, size_t I = 0, class Body>
inline __attribute__((always_inline)) void unroll(Body body) {
  if constexpr (I < N) {
    body(Index<I>());
    unroll<N, I + 1>(body);
  }
}
