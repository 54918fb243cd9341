// Products of activations in 24-bit fixed point (backend/fixed_point.h) with interleaved integer codes: exact integer
// sums within a chunk of columns, rounded once to fp32, then one fused multiply-add with the scales, in the order of
// the chunks; an offset, which is no integer, meets the activations' own sum, rounded once as well. How the integers
// are split into digits is a Form's own affair, since no digit is ever rounded: every ISA gives the same bits.

/// FixedPoint24::factor of the scheme, which units cannot include.
inline float fixed_factor(float most) {
  uint32_t bits;
  __builtin_memcpy(&bits, &most, sizeof bits);
  int32_t k = 149 - static_cast<int32_t>(bits >> 23);
  if (k > 126) k = 126;
  const auto power = [](int32_t exponent) {
    const uint32_t to = static_cast<uint32_t>(exponent + 127) << 23;
    float out;
    __builtin_memcpy(&out, &to, sizeof out);
    return out;
  };
  return most * power(k) > static_cast<float>(0x7F7F7F) ? power(k - 1) : power(k);
}

/// A chunk's columns: the power of two, the digits, their sums and that of the activations.
template <class Form>
inline void encode_chunk(const float* x, size_t n, char* digits, int32_t* sums, float* total, float* scale) {
  const float most = absmax(x, n);
  const bool finite = most - most == 0.0f;
  const float factor = finite ? fixed_factor(most) : 0.0f;
  *scale = finite ? 1.0f / factor : __builtin_nanf("");  // so that every result is NaN
  vec::I by_lane[Form::digits];
  for (vec::I& t : by_lane) t = vec::set_int(0);
  const vec::F multiplier = vec::set(factor);
  const auto encode = [&](const float* from, size_t column, char* to) {
    vec::I q = vec::to_int(vec::mul(vec::load(from), multiplier));
    if (!finite) q = vec::set_int(0);
    Form::split(q, column, to, by_lane);
  };
  size_t k = 0;
  for (; k + vec::lanes <= n; k += vec::lanes) encode(x + k, k, digits);
  if (k < n) {  // whole parts of four columns remain
    float padded[vec::lanes] = {};
    char last[(vec::lanes < 4 ? 4 : vec::lanes) * Form::bytes_per_column];
    for (size_t j = k; j < n; ++j) padded[j - k] = x[j];
    encode(padded, 0, last);
    __builtin_memcpy(digits + k * Form::bytes_per_column, last, (n - k) * Form::bytes_per_column);
  }
  vec::I of_all[Form::digits];
  for (size_t d = 0; d < Form::digits; ++d) {
    sums[d] = vec::reduce_add(by_lane[d]);
    of_all[d] = vec::set_int(sums[d]);
  }
  float rounded[vec::lanes];
  vec::store(rounded, Form::round(of_all, n));
  *total = rounded[0];
}

NIBBLE_KERNEL void encode_fixed(const float* x, const ChunkLayout& layout, void* digits, int32_t* sums, float* totals,
                                float* scales) {
  const auto encode = [&](auto form) {
    using Form = decltype(form);
    for_each_chunk(layout, [&](size_t k, size_t columns, size_t, size_t chunk) {
      encode_chunk<Form>(x + k, columns, static_cast<char*>(digits) + k * Form::bytes_per_column, sums + 3 * chunk,
                         totals + chunk, scales + chunk);
    });
  };
  if (are_bytes(layout.code_bits)) encode(FixedForm<8>());
  else encode(FixedForm<4>());
}

/// One chunk of a pass, inlined as dot_steps is: its exact sums, and what they add to `out`; with offsets [Vectors],
/// what those add after it.
template <int Bits, size_t Tokens, bool HasOffsets, size_t Vectors>
inline __attribute__((always_inline)) void add_fixed_chunk(const uint32_t* words, size_t columns,
                                                           const CodeTable<Bits>& table, const char* digits,
                                                           const FixedTokens& x, size_t token, size_t chunk,
                                                           const vec::F (&scale)[Vectors],
                                                           const vec::I (&minus_zero)[Vectors], const vec::F* offset,
                                                           float* out) {
  using Form = FixedForm<Bits>;
  vec::I sum[Tokens][Form::digits][Vectors];
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t d = 0; d < Form::digits; ++d)
      for (size_t v = 0; v < Vectors; ++v)
        sum[t][d][v] = Form::begin(minus_zero[v], x.sums[((token + t) * x.chunks + chunk) * 3 + d]);
  dot_columns<Form, Tokens, Vectors>(words, columns, table, digits, x.stride, sum);
  for (size_t t = 0; t < Tokens; ++t) {
    const size_t i = (token + t) * x.chunks + chunk;
    const vec::F x_scale = vec::set(x.scales[i]), total = vec::set(HasOffsets ? x.totals[i] : 0.0f);
    for (size_t v = 0; v < Vectors; ++v) {
      vec::I of_vector[Form::digits];
      for (size_t d = 0; d < Form::digits; ++d) of_vector[d] = sum[t][d][v];
      const vec::F exact = Form::round(of_vector, columns), factor = vec::mul(scale[v], x_scale);
      float* const to = out + t * kInterleavedRows + v * vec::lanes;
      vec::F y = chunk == 0 ? vec::mul(exact, factor) : vec::fma(exact, factor, vec::load(to));
      if constexpr (HasOffsets) y = vec::fma(total, vec::mul(offset[v], x_scale), y);
      vec::store(to, y);
    }
  }
}

template <int Bits, size_t Tokens, bool HasOffsets>
NIBBLE_KERNEL void gemm_fixed_tokens(const InterleavedPanel& p, const FixedTokens& x, size_t token, float* out) {
  using Form = FixedForm<Bits>;
  constexpr size_t most = vec::fixed_sums / (Tokens * Form::digits), fit = most >= 4 ? 4 : most >= 2 ? 2 : 1;
  // One token's words and spread parts of 7 bits need as many registers as the sums.
  constexpr size_t vectors = Tokens == 1 && CodeWords<Bits>::words > 5 && fit > 2 ? 2 : fit;
  const char* const digits = static_cast<const char*>(x.digits) + token * x.stride;
  const CodeTable<Bits> table(p);
  for (size_t row = 0; row < kInterleavedRows; row += vectors * vec::lanes) {
    size_t group = 0, chunk = 0;
    for (size_t begin = 0; begin < p.depth; begin += p.group_size, ++group) {
      const size_t end = begin + p.group_size < p.depth ? begin + p.group_size : p.depth;
      vec::F scale[vectors], offset[vectors];
      vec::I minus_zero[vectors];
      load_scales(p, group, row, scale);
      load_zeros(p, group, row, minus_zero);
      if constexpr (HasOffsets) load_offsets(p, group, row, offset);
      for (size_t v = 0; v < vectors; ++v) minus_zero[v] = vec::sub_int(vec::set_int(0), minus_zero[v]);
      for (size_t k = begin; k < end; k += x.layout.chunk, ++chunk)
        add_fixed_chunk<Bits, Tokens, HasOffsets>(words_at<Bits>(p, k, row),
                                                  end - k < x.layout.chunk ? end - k : x.layout.chunk, table,
                                                  digits + k * Form::bytes_per_column, x, token, chunk, scale,
                                                  minus_zero, offset, out + token * kInterleavedRows + row);
    }
  }
}

NIBBLE_KERNEL void gemm_fixed(const InterleavedPanel& p, const FixedTokens& x, size_t tokens, float* out) {
  for_form(p, [&](auto bits, auto has_offsets) {
    for_tokens<vec::fixed_tokens>(tokens, [&](auto count, size_t t) {
      gemm_fixed_tokens<decltype(bits)::value, decltype(count)::value, decltype(has_offsets)::value != 0>(p, x, t, out);
    });
  });
}
