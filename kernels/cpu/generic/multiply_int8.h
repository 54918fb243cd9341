// Products of 8-bit activations with interleaved integer codes: exact int32 sums within a group, one fused multiply-add
// of each sum with the group's scale, in the order of the groups. Bit-identical on every ISA by construction.
//
// dot4 (dot4_nibbles where codes are below 16) takes unsigned by signed bytes, and codes are unsigned: Σ(code − zero)·x
// = Σ code·x − zero·Σx, the last sum made once a token, so that sums begin at −zero·Σx.

template <size_t Tokens, size_t Vectors, int Bits>
static inline void dot_words(const uint32_t* from, size_t words, const int8_t* x, size_t x_stride,
                             vec::I (&sum)[Tokens][Vectors]) {
  const vec::I nibbles = vec::set_int(0x0F0F0F0F);
  constexpr size_t per_word = Bits == 4 ? 8 : 4;
  for (size_t i = 0; i < words; ++i, from += kInterleavedRows, x += per_word) {
    for (size_t line = 0; line < Vectors * vec::lanes; line += 16)
      __builtin_prefetch(from + 16 * kInterleavedRows + line, 0, 2);
    vec::I low[Vectors], high[Vectors];
    for (size_t v = 0; v < Vectors; ++v) {
      low[v] = vec::load_words(from + v * vec::lanes);
      if constexpr (Bits == 4) {
        high[v] = vec::and_int(vec::shift_right<4>(low[v]), nibbles);
        low[v] = vec::and_int(low[v], nibbles);
      }
    }
    for (size_t t = 0; t < Tokens; ++t) {
      const vec::I first = vec::set_bytes(x + t * x_stride);
      if constexpr (Bits == 4) {
        const vec::I second = vec::set_bytes(x + t * x_stride + 4);
        for (size_t v = 0; v < Vectors; ++v) sum[t][v] = vec::dot4_nibbles(sum[t][v], low[v], first);
        for (size_t v = 0; v < Vectors; ++v) sum[t][v] = vec::dot4_nibbles(sum[t][v], high[v], second);
      } else {
        for (size_t v = 0; v < Vectors; ++v) sum[t][v] = vec::dot4(sum[t][v], low[v], first);
      }
    }
  }
}

/// −zero·Σx of one group: where its sums begin.
template <size_t Tokens, size_t Vectors>
static inline void begin_group(const InterleavedPanel& p, size_t group, size_t row, const int32_t* x_sums,
                               size_t x_sums_stride, vec::I (&sum)[Tokens][Vectors]) {
  for (size_t t = 0; t < Tokens; ++t) {
    const int32_t x_sum = x_sums[t * x_sums_stride + group];
    for (size_t v = 0; v < Vectors; ++v) {
      if (p.zeros == nullptr) {
        sum[t][v] = vec::set_int(-p.zero_point * x_sum);
      } else {
        const vec::I zero = vec::load_codes(p.zeros + group * kInterleavedRows + row + v * vec::lanes);
        sum[t][v] = vec::mul_int(zero, vec::set_int(-x_sum));
      }
    }
  }
}

/// Adds scale·sum of one group to `out`.
template <size_t Tokens, size_t Vectors>
static inline void end_group(const InterleavedPanel& p, size_t group, size_t row, const float* x_scales,
                             size_t x_groups, const vec::I (&sum)[Tokens][Vectors], float* out) {
  GroupParams<Vectors> g = {};
  load_group<false>(p, group, row, g);
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < Vectors; ++v) {
      const vec::F exact = vec::to_float(sum[t][v]);
      vec::F scale = g.scale[v];
      if (x_scales != nullptr) scale = vec::mul(scale, vec::set(x_scales[t * x_groups + group]));
      float* to = out + t * kInterleavedRows + row + v * vec::lanes;
      vec::store(to, group == 0 ? vec::mul(exact, scale) : vec::fma(exact, scale, vec::load(to)));
    }
}

template <size_t Tokens, int Bits>
static void multiply_int8_tokens(const InterleavedPanel& p, const Int8Tokens& x, size_t token, float* out) {
  constexpr size_t vectors = vec::int8_sums / Tokens < 4 ? vec::int8_sums / Tokens : 4;
  constexpr size_t per_word = Bits == 4 ? 8 : 4;
  const float* scales = x.scales == nullptr ? nullptr : x.scales + token * x.groups;
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes) {
    size_t group = 0;
    for (size_t k = 0; k < p.depth; k += p.group_size, ++group) {
      const size_t end = k + p.group_size < p.depth ? k + p.group_size : p.depth;
      vec::I sum[Tokens][vectors];
      begin_group<Tokens, vectors>(p, group, row, x.sums + token * x.groups, x.groups, sum);
      dot_words<Tokens, vectors, Bits>(p.codes + k / per_word * kInterleavedRows + row, (end - k) / per_word,
                                       x.codes + token * x.stride + k, x.stride, sum);
      end_group<Tokens, vectors>(p, group, row, scales, x.groups, sum, out + token * kInterleavedRows);
    }
  }
}

template <size_t Tokens>
static void multiply_int8_kind(const InterleavedPanel& p, const Int8Tokens& x, size_t token, float* out) {
  if (p.code_bits == 4) multiply_int8_tokens<Tokens, 4>(p, x, token, out);
  else multiply_int8_tokens<Tokens, 8>(p, x, token, out);
}

static void multiply_int8(const InterleavedPanel& p, const Int8Tokens& x, size_t tokens, float* out) {
  for (size_t t = 0; t < tokens;) {
    const size_t left = tokens - t;
    if (left >= 4) multiply_int8_kind<4>(p, x, t, out);
    else if (left >= 2) multiply_int8_kind<2>(p, x, t, out);
    else multiply_int8_kind<1>(p, x, t, out);
    t += left >= 4 ? 4 : left >= 2 ? 2 : 1;
  }
}
