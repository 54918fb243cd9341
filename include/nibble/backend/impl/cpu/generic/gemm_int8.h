// Products of 8-bit activations with interleaved integer codes: exact int32 sums within a group, one fused multiply-add
// of each sum with the group's scale, in the order of the groups. Bit-identical on every ISA by construction.
//
// Codes are unsigned: Σ(code − zero)·x = Σ code·x − zero·Σx, the last sum made once a token, so that sums begin at
// −zero·Σx.

template <size_t Tokens, size_t Vectors>
inline void begin_group(const InterleavedPanel& p, size_t group, size_t row, const int32_t* x_sums,
                        size_t x_sums_stride, vec::I (&sum)[Tokens][1][Vectors]) {
  if (p.zeros == nullptr) {
    for (size_t t = 0; t < Tokens; ++t)
      for (size_t v = 0; v < Vectors; ++v)
        sum[t][0][v] = vec::set_int(-p.zero_point * x_sums[t * x_sums_stride + group]);
    return;
  }
  vec::I zero[Vectors];
  load_zeros(p, group, row, zero);
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < Vectors; ++v)
      sum[t][0][v] = vec::mul_int(zero[v], vec::set_int(-x_sums[t * x_sums_stride + group]));
}

/// Adds scale·sum of one group to `out`.
template <size_t Tokens, size_t Vectors>
inline void end_group(const InterleavedPanel& p, size_t group, size_t row, const float* x_scales, size_t x_groups,
                      const vec::I (&sum)[Tokens][1][Vectors], float* out) {
  vec::F scales[Vectors];
  load_scales(p, group, row, scales);
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < Vectors; ++v) {
      const vec::F exact = vec::to_float(sum[t][0][v]);
      vec::F scale = scales[v];
      if (x_scales != nullptr) scale = vec::mul(scale, vec::set(x_scales[t * x_groups + group]));
      float* to = out + t * kInterleavedRows + row + v * vec::lanes;
      vec::store(to, group == 0 ? vec::mul(exact, scale) : vec::fma(exact, scale, vec::load(to)));
    }
}

template <class Form, size_t Tokens>
NIBBLE_KERNEL void gemm_int8_tokens(const InterleavedPanel& p, const Int8Tokens& x, size_t token, float* out) {
  constexpr size_t vectors = vec::int8_sums / Tokens < 4 ? vec::int8_sums / Tokens : 4;
  const float* scales = x.scales == nullptr ? nullptr : x.scales + token * x.groups;
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes) {
    size_t group = 0;
    for (size_t k = 0; k < p.depth; k += p.group_size, ++group) {
      const size_t end = k + p.group_size < p.depth ? k + p.group_size : p.depth;
      vec::I sum[Tokens][1][vectors];
      begin_group(p, group, row, x.sums + token * x.groups, x.groups, sum);
      dot_columns<Form, Tokens, vectors>(words_at<Form::bits>(p, k, row), end - k,
                                         reinterpret_cast<const char*>(x.codes + token * x.stride + k), x.stride, sum);
      end_group(p, group, row, scales, x.groups, sum, out + token * kInterleavedRows);
    }
  }
}

NIBBLE_KERNEL void gemm_int8(const InterleavedPanel& p, const Int8Tokens& x, size_t tokens, float* out) {
  for_width(p, [&](auto bits) {
    for_tokens<4>(tokens, [&](auto count, size_t t) {
      gemm_int8_tokens<IntegerForm<decltype(bits)::value, 1>, decltype(count)::value>(p, x, t, out);
    });
  });
}
