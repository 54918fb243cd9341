// How codes lie in the words of an interleaved panel (InterleavedPanel in kernels.h), for each width.
//
// A step is the fewest columns that fill whole words. Its codes come out four columns at a time, as "bytes": lane r
// holds the codes of row r, columns 4i … 4i + 3, a byte each. A width is a sum of powers of two, and a code lies in as
// many planes, the widest first with its lowest bits: 8, 4, 2, 2 + 1 (3 bits), 4 + 1, 4 + 2 and 4 + 2 + 1. In the words
// of a plane of p bits, bytes i are bits p·(i % (8/p)) … of word i / (8/p).
//
//   8 bits   1 word,   4 columns: the bytes themselves
//   4 bits   1 word,   8 columns: bytes 0 in the low nibbles, bytes 1 in the high ones
//   2 bits   1 word,  16 columns: bytes i in bits 2i, 2i + 1 of each byte
//   3 bits   3 words, 32 columns: words 0 and 1 hold the two low bits as above, bit i of each byte of word 2 the third
//   5 bits   5 words, 32 columns: words 0 to 3 as for 4 bits, bit i of each byte of word 4 the fifth
//   6 bits   3 words, 16 columns: words 0 and 1 as for 4 bits, word 2 as for 2 bits
//   7 bits   7 words, 32 columns: words 0 to 3 as for 4 bits, 4 and 5 as for 2 bits, word 6 the seventh bits

//
// Codes of kTableBits lie as those of 4 bits do, and come out as the bytes that they stand for.

template <int Bits>
struct CodeWords {
  static constexpr int held = held_bits(Bits);
  static constexpr size_t columns = 32 / (held & -held);
  static constexpr size_t words = columns * held / 32;
  static constexpr size_t parts = columns / 4;
  static constexpr size_t stride = words * kInterleavedRows;  ///< From a step to the next, in words.
};

/// The plane of `Plane` bits in the words of a step.
template <int Bits, int Plane>
struct CodePlane {
  static constexpr int before =
      CodeWords<Bits>::held & ~(2 * Plane - 1);  ///< The bits of a code in the planes before it.
  static constexpr size_t word = CodeWords<Bits>::columns * before / 32, parts_of_word = 8 / Plane;
};

/// `plane`'s bits of the codes in x, which begin at bit From of each byte or lane, moved to where they belong in a code
/// and added to `codes`. Other bits of x may be anything.
template <int From, int To, int Mask>
inline vec::I add_bits(vec::I codes, vec::I x) {
  if constexpr (From >= To) return vec::or_and(codes, vec::shift_right<From - To>(x), vec::set_int(Mask));
  else return vec::or_and(codes, vec::shift_left<To - From>(x), vec::set_int(Mask));
}

template <int Bits, size_t Part, int Plane>
inline vec::I add_plane_bytes(vec::I codes, const vec::I (&word)[CodeWords<Bits>::words]) {
  using P = CodePlane<Bits, Plane>;
  constexpr int mask = ((1 << Plane) - 1) * 0x01010101 << P::before;
  return add_bits<Plane*(Part % P::parts_of_word), P::before, mask>(codes, word[P::word + Part / P::parts_of_word]);
}

template <int Bits, size_t Part>
inline vec::I code_bytes(const vec::I (&word)[CodeWords<Bits>::words]) {
  if constexpr (Bits == 8) {
    return word[0];
  } else if constexpr (Bits == kTableBits) {
    return vec::look_up_bytes(vec::load_bytes16(kTableCodes), code_bytes<4, Part>(word));
  } else {
    constexpr int first = (Bits & 4) != 0 ? 4 : 2;  // the first plane, which is added to nothing
    constexpr size_t parts = 8 / first;
    constexpr int mask = ((1 << first) - 1) * 0x01010101;
    vec::I codes = vec::and_int(vec::shift_right<first*(Part % parts)>(word[Part / parts]), vec::set_int(mask));
    if constexpr (first == 4 && (Bits & 2) != 0) codes = add_plane_bytes<Bits, Part, 2>(codes, word);
    if constexpr ((Bits & 1) != 0) codes = add_plane_bytes<Bits, Part, 1>(codes, word);
    return codes;
  }
}

template <int Bits, size_t Column, int Plane>
inline vec::I add_plane_code(vec::I code, const vec::I (&word)[CodeWords<Bits>::words]) {
  using P = CodePlane<Bits, Plane>;
  constexpr size_t part = Column / 4;
  constexpr int from = 8 * (Column % 4) + Plane * (part % P::parts_of_word);
  return add_bits<from, P::before, ((1 << Plane) - 1) << P::before>(code, word[P::word + part / P::parts_of_word]);
}

/// The code of one column, as it lies, in the low bits of each lane. Above them anything where Bits is 2, 4 or 8.
template <int Bits, size_t Column>
inline vec::I code_of(const vec::I (&word)[CodeWords<Bits>::words]) {
  constexpr int held = CodeWords<Bits>::held;
  if constexpr ((held & (held - 1)) == 0) {
    return vec::shift_right<8 * (Column % 4) + Column / 4 * held>(word[0]);
  } else {
    vec::I code = vec::set_int(0);
    if constexpr ((Bits & 4) != 0) code = add_plane_code<Bits, Column, 4>(code, word);
    if constexpr ((Bits & 2) != 0) code = add_plane_code<Bits, Column, 2>(code, word);
    if constexpr ((Bits & 1) != 0) code = add_plane_code<Bits, Column, 1>(code, word);
    return code;
  }
}

/// The words of `Vectors` vectors of rows, as [vector][word].
template <int Bits, size_t Vectors>
inline void load_step(const uint32_t* from, vec::I (&word)[Vectors][CodeWords<Bits>::words]) {
  for (size_t w = 0; w < CodeWords<Bits>::words; ++w)
    for (size_t v = 0; v < Vectors; ++v) word[v][w] = vec::load_words(from + w * kInterleavedRows + v * vec::lanes);
}

template <int Bits, int Plane, size_t Part, size_t Vectors>
inline void load_plane(const uint32_t* from, vec::I (&word)[Vectors][CodeWords<Bits>::words]) {
  using P = CodePlane<Bits, Plane>;
  if constexpr ((CodeWords<Bits>::held & Plane) != 0 && Part % P::parts_of_word == 0) {
    constexpr size_t w = P::word + Part / P::parts_of_word;
    for (size_t v = 0; v < Vectors; ++v) word[v][w] = vec::load_words(from + w * kInterleavedRows + v * vec::lanes);
  }
}
/// Those words of a step that its part is the first to need: all at once would fill the registers.
template <int Bits, size_t Part, size_t Vectors>
inline void load_part(const uint32_t* from, vec::I (&word)[Vectors][CodeWords<Bits>::words]) {
  load_plane<Bits, 8, Part>(from, word);
  load_plane<Bits, 4, Part>(from, word);
  load_plane<Bits, 2, Part>(from, word);
  load_plane<Bits, 1, Part>(from, word);
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
