// The fp32 matmul micro-kernel over the vector layer: a tile of tokens × 32 columns held in registers, one
// fused multiply-add per product in the order of k.

/// finish(sum, token, column) takes each vector of sums.
template <size_t Tokens, class Finish>
inline void gemm_tile(const float* x, size_t x_stride, const float* panel, size_t panel_stride, size_t depth,
                      Finish finish) {
  constexpr size_t vectors = kPanelWidth / vec::lanes;
  vec::F sum[Tokens][vectors];
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < vectors; ++v) sum[t][v] = vec::set(0.0f);
  for (size_t k = 0; k < depth; ++k, panel += panel_stride) {
    vec::F w[vectors];
    for (size_t v = 0; v < vectors; ++v) w[v] = vec::load(panel + v * vec::lanes);
    for (size_t t = 0; t < Tokens; ++t) {
      const vec::F value = vec::set(x[t * x_stride + k]);
      for (size_t v = 0; v < vectors; ++v) sum[t][v] = vec::fma(value, w[v], sum[t][v]);
    }
  }
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < vectors; ++v) finish(sum[t][v], t, v * vec::lanes);
}

/// Calls the tile of exactly `tokens`, so that no remainder runs at the latency of one token's additions.
template <size_t Tokens, class Finish>
inline void gemm_remainder(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t panel_stride,
                           size_t depth, Finish finish) {
  if constexpr (Tokens > 0) {
    if (tokens == Tokens) return gemm_tile<Tokens>(x, x_stride, panel, panel_stride, depth, finish);
    gemm_remainder<Tokens - 1>(x, x_stride, tokens, panel, panel_stride, depth, finish);
  }
}

template <class Finish>
inline void gemm_tiles(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t panel_stride,
                       size_t depth, Finish finish) {
  const auto from = [&](size_t first) {
    return [=](vec::F sum, size_t t, size_t column) { finish(sum, first + t, column); };
  };
  size_t t = 0;
  for (; t + vec::tile_tokens <= tokens; t += vec::tile_tokens) {
    // The next tile's rows: short pieces far apart, which no hardware foresees.
    for (size_t next = t + vec::tile_tokens; next < t + 2 * vec::tile_tokens && next < tokens; ++next)
      for (size_t k = 0; k < depth; k += 16) __builtin_prefetch(x + next * x_stride + k);
    gemm_tile<vec::tile_tokens>(x + t * x_stride, x_stride, panel, panel_stride, depth, from(t));
  }
  gemm_remainder<vec::tile_tokens - 1>(x + t * x_stride, x_stride, tokens - t, panel, panel_stride, depth, from(t));
}

NIBBLE_KERNEL void gemm_panel(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t depth,
                              float* out) {
  gemm_tiles(x, x_stride, tokens, panel, kPanelWidth, depth,
             [=](vec::F sum, size_t t, size_t column) { vec::store(out + t * kPanelWidth + column, sum); });
}

NIBBLE_KERNEL void gemm_panel_add(const float* x, size_t x_stride, size_t tokens, const float* panel,
                                  size_t panel_stride, size_t depth, const float* scales, bool first, float* out,
                                  size_t out_stride) {
  if (scales == nullptr) {
    gemm_tiles(x, x_stride, tokens, panel, panel_stride, depth, [=](vec::F sum, size_t t, size_t column) {
      float* const y = out + t * out_stride + column;
      vec::store(y, first ? sum : vec::add(vec::load(y), sum));
    });
  } else {
    gemm_tiles(x, x_stride, tokens, panel, panel_stride, depth, [=](vec::F sum, size_t t, size_t column) {
      float* const y = out + t * out_stride + column;
      const vec::F scale = vec::load(scales + column);
      vec::store(y, first ? vec::mul(sum, scale) : vec::fma(sum, scale, vec::load(y)));
    });
  }
}
