// Products of 8-bit activations with interleaved integer codes: exact int32 sums within a group, one fused multiply-add
// of each sum with the group's scale, in the order of the groups. Bit-identical on every ISA by construction.
//
// Codes are unsigned: Σ(code − zero)·x = Σ code·x − zero·Σx, the last sum made once a token, so that sums begin at
// −zero·Σx. An offset, which is no integer, meets Σx in a second fused multiply-add.

/// The sum of a token's codes in a group.
inline int32_t sum_of(const Int8Tokens& x, size_t token, size_t group) { return x.sums[token * x.groups + group]; }

template <size_t Tokens, size_t Vectors>
inline void begin_group(const InterleavedPanel& p, size_t group, size_t row, const Int8Tokens& x, size_t token,
                        vec::I (&sum)[Tokens][1][Vectors]) {
  if (p.zeros == nullptr) {
    for (size_t t = 0; t < Tokens; ++t)
      for (size_t v = 0; v < Vectors; ++v) sum[t][0][v] = vec::set_int(-p.zero_point * sum_of(x, token + t, group));
    return;
  }
  vec::I zero[Vectors];
  load_zeros(p, group, row, zero);
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < Vectors; ++v)
      sum[t][0][v] = vec::mul_int(zero[v], vec::set_int(-sum_of(x, token + t, group)));
}

/// Adds scale·sum of one group to `out` [token][64], and offset·(the sum of its activations).
template <bool HasOffsets, size_t Tokens, size_t Vectors>
inline void end_group(const InterleavedPanel& p, size_t group, size_t row, const Int8Tokens& x, size_t token,
                      const vec::I (&sum)[Tokens][1][Vectors], float* out) {
  vec::F scales[Vectors], offsets[Vectors];
  load_scales(p, group, row, scales);
  if constexpr (HasOffsets) load_offsets(p, group, row, offsets);
  for (size_t t = 0; t < Tokens; ++t) {
    const auto scaled = [&](vec::F value) {
      return x.scales == nullptr ? value : vec::mul(value, vec::set(x.scales[(token + t) * x.groups + group]));
    };
    for (size_t v = 0; v < Vectors; ++v) {
      const vec::F exact = vec::to_float(sum[t][0][v]), scale = scaled(scales[v]);
      float* const to = out + t * kInterleavedRows + row + v * vec::lanes;
      vec::F y = group == 0 ? vec::mul(exact, scale) : vec::fma(exact, scale, vec::load(to));
      if constexpr (HasOffsets)
        y = vec::fma(vec::to_float(vec::set_int(sum_of(x, token + t, group))), scaled(offsets[v]), y);
      vec::store(to, y);
    }
  }
}

template <class Form, size_t Tokens, bool HasOffsets>
NIBBLE_KERNEL void gemm_int8_tokens(const InterleavedPanel& p, const Int8Tokens& x, size_t token, float* out) {
  constexpr size_t vectors = vec::int8_sums / Tokens < 4 ? vec::int8_sums / Tokens : 4;
  const CodeTable<Form::bits> table(p);
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes) {
    size_t group = 0;
    for (size_t k = 0; k < p.depth; k += p.group_size, ++group) {
      const size_t end = k + p.group_size < p.depth ? k + p.group_size : p.depth;
      vec::I sum[Tokens][1][vectors];
      begin_group(p, group, row, x, token, sum);
      dot_columns<Form, Tokens, vectors>(words_at<Form::bits>(p, k, row), end - k, table,
                                         reinterpret_cast<const char*>(x.codes + token * x.stride + k), x.stride, sum);
      end_group<HasOffsets>(p, group, row, x, token, sum, out + token * kInterleavedRows);
    }
  }
}

NIBBLE_KERNEL void gemm_int8(const InterleavedPanel& p, const Int8Tokens& x, size_t tokens, float* out) {
  for_form(p, [&](auto bits, auto has_offsets) {
    for_tokens<vec::int8_tokens>(tokens, [&](auto count, size_t t) {
      gemm_int8_tokens<IntegerForm<decltype(bits)::value, 1>, decltype(count)::value,
                       decltype(has_offsets)::value != 0>(p, x, t, out);
    });
  });
}
