// Products with weights that are decoded in registers, over the interleaved layout of kernels.h (InterleavedPanel).
//
// A lane is an output row, so a row's products are added in the order of k whatever the vector width, and a weight is
// decoded by the scheme's own arithmetic, (code − zero_point)·scale or codebook[code]·scale: the result is
// bit-identical to decoding first and multiplying by multiply_panel.

// A pass keeps the sums of `Vectors` vectors of rows for `Tokens` tokens in registers: enough additions in flight to
// hide their latency, and no more than the registers hold.

/// Eight 4-bit codes in a word: the low nibbles of its bytes, then the high ones.
struct NibbleCodes {
  static constexpr size_t per_word = 8;
  vec::Table16 values;
  explicit NibbleCodes(const InterleavedPanel& p) : values(vec::load_table16(p.values)) {}
  template <int Index>
  inline vec::F value(vec::I word) const {
    return vec::table16(values, vec::shift_right<Index % 4 * 8 + Index / 4 * 4>(word));
  }
};

/// Four 8-bit codes in a word, the first in the lowest byte.
struct ByteCodes {
  static constexpr size_t per_word = 4;
  explicit ByteCodes(const InterleavedPanel&) {}
  template <int Index>
  inline vec::F value(vec::I word) const {
    return vec::to_float(vec::low_byte(vec::shift_right<Index * 8>(word)));
  }
};

/// What a pass's rows share a group with: scales, and zero points where there are any.
template <size_t Vectors>
struct GroupParams {
  vec::F scale[Vectors], zero[Vectors];
};

template <bool HasZero, size_t Vectors>
static inline void load_group(const InterleavedPanel& p, size_t group, size_t row, GroupParams<Vectors>& out) {
  const size_t at = group * kInterleavedRows + row;
  for (size_t v = 0; v < Vectors; ++v) {
    const size_t i = at + v * vec::lanes;
    if (p.scale_type == 1) out.scale[v] = vec::load_f16(static_cast<const uint16_t*>(p.scales) + i);
    else if (p.scale_type == 2) out.scale[v] = vec::load_bf16(static_cast<const uint16_t*>(p.scales) + i);
    else out.scale[v] = vec::load(static_cast<const float*>(p.scales) + i);
    if (HasZero) out.zero[v] = vec::to_float(vec::load_codes(p.zeros + i));
  }
}

template <bool HasZero, int Index, class Codes, size_t Vectors>
static inline vec::F decode(const Codes& codes, vec::I word, const GroupParams<Vectors>& g, size_t v) {
  vec::F value = codes.template value<Index>(word);
  if (HasZero) value = vec::sub(value, g.zero[v]);
  return vec::mul(value, g.scale[v]);
}

template <size_t Tokens, bool HasZero, int Index, class Codes, size_t Vectors>
static inline void multiply_code(const Codes& codes, const vec::I* words, const GroupParams<Vectors>& g, const float* x,
                                 size_t x_stride, vec::F (&sum)[Tokens][Vectors]) {
  for (size_t v = 0; v < Vectors; ++v) {
    const vec::F w = decode<HasZero, Index>(codes, words[v], g, v);
    for (size_t t = 0; t < Tokens; ++t) sum[t][v] = vec::fma(vec::set(x[t * x_stride + Index]), w, sum[t][v]);
  }
}

/// The products of words [first, last), which share a group, added to `sum`.
template <size_t Tokens, bool HasZero, class Codes, size_t Vectors>
static inline void multiply_group(const Codes& codes, const uint32_t* from, size_t words, const GroupParams<Vectors>& g,
                                  const float* x, size_t x_stride, vec::F (&sum)[Tokens][Vectors]) {
  for (size_t i = 0; i < words; ++i, from += kInterleavedRows, x += Codes::per_word) {
    // One stream of whole panels: the lines of eight steps ahead, into the second level.
    for (size_t line = 0; line < Vectors * vec::lanes; line += 16)
      __builtin_prefetch(from + 8 * kInterleavedRows + line, 0, 2);
    vec::I word[Vectors];
    for (size_t v = 0; v < Vectors; ++v) word[v] = vec::load_words(from + v * vec::lanes);
    multiply_code<Tokens, HasZero, 0>(codes, word, g, x, x_stride, sum);
    multiply_code<Tokens, HasZero, 1>(codes, word, g, x, x_stride, sum);
    multiply_code<Tokens, HasZero, 2>(codes, word, g, x, x_stride, sum);
    multiply_code<Tokens, HasZero, 3>(codes, word, g, x, x_stride, sum);
    if constexpr (Codes::per_word == 8) {
      multiply_code<Tokens, HasZero, 4>(codes, word, g, x, x_stride, sum);
      multiply_code<Tokens, HasZero, 5>(codes, word, g, x, x_stride, sum);
      multiply_code<Tokens, HasZero, 6>(codes, word, g, x, x_stride, sum);
      multiply_code<Tokens, HasZero, 7>(codes, word, g, x, x_stride, sum);
    }
  }
}

/// All columns for the rows of one pass: blocks of kPanelDepth summed from zero, then added up, as matmul defines it.
template <size_t Tokens, bool HasZero, class Codes, size_t Vectors>
static inline void multiply_rows(const InterleavedPanel& p, size_t row, const float* x, size_t x_stride, float* out) {
  const Codes codes(p);
  GroupParams<Vectors> g = {};
  size_t group_end = 0, group = 0;
  for (size_t block = 0; block < p.depth; block += kPanelDepth) {
    const size_t block_end = block + kPanelDepth < p.depth ? block + kPanelDepth : p.depth;
    vec::F sum[Tokens][Vectors];
    for (size_t t = 0; t < Tokens; ++t)
      for (size_t v = 0; v < Vectors; ++v) sum[t][v] = vec::set(0.0f);
    for (size_t k = block; k < block_end;) {
      if (k == group_end) {
        load_group<HasZero>(p, group++, row, g);
        group_end = k + p.group_size < p.depth ? k + p.group_size : p.depth;
      }
      const size_t end = group_end < block_end ? group_end : block_end;
      multiply_group<Tokens, HasZero>(codes, p.codes + k / Codes::per_word * kInterleavedRows + row,
                                      (end - k) / Codes::per_word, g, x + k, x_stride, sum);
      k = end;
    }
    for (size_t t = 0; t < Tokens; ++t)
      for (size_t v = 0; v < Vectors; ++v) {
        float* to = out + t * kInterleavedRows + row + v * vec::lanes;
        vec::store(to, block == 0 ? sum[t][v] : vec::add(vec::load(to), sum[t][v]));
      }
  }
}

template <size_t Tokens, bool HasZero, class Codes>
static void multiply_passes(const InterleavedPanel& p, const float* x, size_t x_stride, float* out) {
  constexpr size_t vectors = vec::code_sums / Tokens < 4 ? vec::code_sums / Tokens : 4;
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes)
    multiply_rows<Tokens, HasZero, Codes, vectors>(p, row, x, x_stride, out);
}

template <size_t Tokens>
static void multiply_kind(const InterleavedPanel& p, const float* x, size_t x_stride, float* out) {
  if (p.code_bits == 8) return multiply_passes<Tokens, true, ByteCodes>(p, x, x_stride, out);
  if (p.zeros != nullptr) return multiply_passes<Tokens, true, NibbleCodes>(p, x, x_stride, out);
  multiply_passes<Tokens, false, NibbleCodes>(p, x, x_stride, out);
}

static void multiply_codes(const InterleavedPanel& p, const float* x, size_t x_stride, size_t tokens, float* out) {
  for (size_t t = 0; t < tokens;) {
    const size_t left = tokens - t;
    const float* from = x + t * x_stride;
    float* to = out + t * kInterleavedRows;
    if (left >= 4) multiply_kind<4>(p, from, x_stride, to);
    else if (left >= 2) multiply_kind<2>(p, from, x_stride, to);
    else multiply_kind<1>(p, from, x_stride, to);
    t += left >= 4 ? 4 : left >= 2 ? 2 : 1;
  }
}

/// One code of every row of a pass into a panel.
template <bool HasZero, int Index, class Codes, size_t Vectors>
static inline void decode_code(const Codes& codes, const vec::I* words, const GroupParams<Vectors>& g, size_t row,
                               float* panel) {
  for (size_t v = 0; v < Vectors; ++v) {
    const size_t r = row + v * vec::lanes, half = r / kPanelWidth;
    vec::store(panel + half * kPanelWidth * kPanelDepth + Index * kPanelWidth + r % kPanelWidth,
               decode<HasZero, Index>(codes, words[v], g, v));
  }
}

template <bool HasZero, class Codes, size_t Vectors>
static inline void decode_pass(const InterleavedPanel& p, size_t row, size_t first, size_t last, float* panel) {
  const Codes codes(p);
  GroupParams<Vectors> g = {};
  for (size_t k = first; k < last;) {
    const size_t group = k / p.group_size, group_end = (group + 1) * p.group_size;
    const size_t end = group_end < last ? group_end : last;
    load_group<HasZero>(p, group, row, g);
    for (; k < end; k += Codes::per_word) {
      const uint32_t* from = p.codes + k / Codes::per_word * kInterleavedRows + row;
      vec::I word[Vectors];
      for (size_t v = 0; v < Vectors; ++v) word[v] = vec::load_words(from + v * vec::lanes);
      float* to = panel + (k - first) * kPanelWidth;
      decode_code<HasZero, 0>(codes, word, g, row, to);
      decode_code<HasZero, 1>(codes, word, g, row, to);
      decode_code<HasZero, 2>(codes, word, g, row, to);
      decode_code<HasZero, 3>(codes, word, g, row, to);
      if constexpr (Codes::per_word == 8) {
        decode_code<HasZero, 4>(codes, word, g, row, to);
        decode_code<HasZero, 5>(codes, word, g, row, to);
        decode_code<HasZero, 6>(codes, word, g, row, to);
        decode_code<HasZero, 7>(codes, word, g, row, to);
      }
    }
  }
}

static void decode_codes(const InterleavedPanel& p, size_t first, size_t last, float* panels) {
  constexpr size_t vectors = 2;
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes) {
    if (p.code_bits == 8) decode_pass<true, ByteCodes, vectors>(p, row, first, last, panels);
    else if (p.zeros != nullptr) decode_pass<true, NibbleCodes, vectors>(p, row, first, last, panels);
    else decode_pass<false, NibbleCodes, vectors>(p, row, first, last, panels);
  }
}
