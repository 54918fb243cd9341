// How codes lie in the words of an interleaved panel (InterleavedPanel in kernels.h), for each width.
//
// A step is the fewest columns that fill whole words. Its codes come out four columns at a time, a "part": lane r holds
// the codes of row r, columns 4i … 4i + 3, a byte each. Each byte of a word holds as many codes of b bits as it has
// room for, which makes 8/b whole parts a word, and 8 % b spare bits above them. Parts that are left over are spread
// over the spare bits: those of word 0, from the lowest, then those of word 1, and so on, are the bits of the first
// such part, then of the second.
//
//   8 bits   1 word,   4 columns: a whole part
//   4 bits   1 word,   8 columns: part 0 in the low nibbles, part 1 in the high ones
//   2 bits   1 word,  16 columns: part i in bits 2i, 2i + 1 of each byte
//   3 bits   3 words, 32 columns: parts 0 to 5 whole, two a word; two spread over three words' two spare bits
//   5 bits   5 words, 32 columns: parts 0 to 4 whole; three spread over five words' three
//   6 bits   3 words, 16 columns: parts 0 to 2 whole; one spread over three words' two
//   7 bits   7 words, 32 columns: parts 0 to 6 whole; one spread over seven words' one
//
// So most parts cost one operation or two, where a plane of bits for each power of two would cost four to six.
// Codes of kTableBits lie as those of 4 bits do, and come out as the bytes that they stand for.

template <int Bits>
struct CodeWords {
  static constexpr int held = held_bits(Bits);
  static constexpr size_t columns = 32 / (held & -held);
  static constexpr size_t words = columns * held / 32;
  static constexpr size_t parts = columns / 4;
  static constexpr size_t stride = words * kInterleavedRows;  ///< From a step to the next, in words.
  static constexpr int whole = 8 / held, spare = 8 % held;    ///< Whole parts of a word, spare bits of each byte.
  static constexpr size_t spread = parts - words * whole;     ///< Parts that are spread, numbered after the whole ones.
};

/// What `Word` holds of a spread part: bits From … of each byte are bits To … of the codes; Count is 0 for nothing.
template <int Bits, size_t Spread, size_t Word>
struct CodePiece {
  using Words = CodeWords<Bits>;
  // As bits of a byte of all spread parts, one after the other.
  static constexpr int part_first = Spread * Words::held, part_last = part_first + Words::held;
  static constexpr int word_first = Word * Words::spare, word_last = word_first + Words::spare;
  static constexpr int first = part_first > word_first ? part_first : word_first;
  static constexpr int last = part_last < word_last ? part_last : word_last;
  static constexpr int count = last > first ? last - first : 0;
  static constexpr int from = Words::whole * Words::held + first - word_first, to = first - part_first;
  static constexpr bool completes = count > 0 && last == part_last;  ///< No later word holds any of the part.
};

/// Adds a piece of x to codes: to those of the lowest byte whose piece is `Byte`'s (Ones is 1), or to those of every
/// byte (Ones is 0x01010101). Other bits of x may be anything. The first piece begins the codes.
template <class Piece, int Ones, int Byte>
inline void add_piece(vec::I& codes, vec::I x) {
  if constexpr (Piece::count > 0) {
    constexpr int from = Piece::from + 8 * Byte, to = Piece::to;
    const vec::I mask = vec::set_int((((1 << Piece::count) - 1) << to) * Ones);
    if constexpr (to == 0) codes = vec::and_int(vec::shift_right<from>(x), mask);
    else if constexpr (from >= to) codes = vec::or_and(codes, vec::shift_right<from - to>(x), mask);
    else codes = vec::or_and(codes, vec::shift_left<to - from>(x), mask);
  }
}
template <class Piece>
inline void add_piece_bytes(vec::I& codes, vec::I word) {
  add_piece<Piece, 0x01010101, 0>(codes, word);
}

/// What codes of kTableBits stand for; nothing for all others, which stand for themselves.
template <int Bits>
struct CodeTable {
  explicit CodeTable(const InterleavedPanel&) {}
};
template <>
struct CodeTable<kTableBits> {
  explicit CodeTable(const InterleavedPanel& p) : bytes(vec::load_bytes16(p.table)) {}
  vec::Bytes16 bytes;
};

/// Whole part `Part` of a word.
template <int Bits, size_t Part>
inline vec::I whole_bytes(vec::I word, const CodeTable<Bits>& table) {
  if constexpr (Bits == 8) {
    return word;
  } else {
    constexpr int held = CodeWords<Bits>::held, mask = ((1 << held) - 1) * 0x01010101;
    const vec::I codes = vec::and_int(vec::shift_right<Part * held>(word), vec::set_int(mask));
    if constexpr (Bits == kTableBits) return vec::look_up_bytes(table.bytes, codes);
    else return codes;
  }
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

/// Any part of a step.
template <int Bits, size_t Part>
inline vec::I code_bytes(const vec::I (&word)[CodeWords<Bits>::words], const CodeTable<Bits>& table) {
  using Words = CodeWords<Bits>;
  constexpr size_t wholes = Words::words * Words::whole;
  if constexpr (Part < wholes) {
    return whole_bytes<Bits, Part % Words::whole>(word[Part / Words::whole], table);
  } else {
    vec::I codes = vec::set_int(0);
    unroll<Words::words>([&](auto w) __attribute__((always_inline)) {
      add_piece_bytes<CodePiece<Bits, Part - wholes, decltype(w)::value>>(codes, word[decltype(w)::value]);
    });
    return codes;
  }
}

/// The code of one column, as it lies, in the low bits of each lane. Above them anything where Bits is 2, 4 or 8.
template <int Bits, size_t Column>
inline vec::I code_of(const vec::I (&word)[CodeWords<Bits>::words]) {
  using Words = CodeWords<Bits>;
  constexpr size_t part = Column / 4, wholes = Words::words * Words::whole;
  constexpr int byte = Column % 4;
  if constexpr (part < wholes) {
    const vec::I code = vec::shift_right<8 * byte + part % Words::whole * Words::held>(word[part / Words::whole]);
    if constexpr (Words::spare == 0) return code;
    else return vec::and_int(code, vec::set_int((1 << Words::held) - 1));
  } else {
    vec::I code = vec::set_int(0);
    unroll<Words::words>([&](auto w) __attribute__((always_inline)) {
      add_piece<CodePiece<Bits, part - wholes, decltype(w)::value>, 1, byte>(code, word[decltype(w)::value]);
    });
    return code;
  }
}

/// One word of `Vectors` vectors of rows.
template <size_t Vectors>
inline void load_word(const uint32_t* from, vec::I (&word)[Vectors]) {
  for (size_t v = 0; v < Vectors; ++v) word[v] = vec::load_words(from + v * vec::lanes);
}
/// The words of a step, as [vector][word].
template <int Bits, size_t Vectors>
inline void load_step(const uint32_t* from, vec::I (&word)[Vectors][CodeWords<Bits>::words]) {
  for (size_t w = 0; w < CodeWords<Bits>::words; ++w)
    for (size_t v = 0; v < Vectors; ++v) word[v][w] = vec::load_words(from + w * kInterleavedRows + v * vec::lanes);
}
