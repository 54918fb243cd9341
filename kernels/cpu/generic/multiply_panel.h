// The fp32 matmul micro-kernel over the vector layer: a tile of tokens × 32 columns held in registers, one
// fused multiply-add per product in the order of k.

template <size_t Tokens>
static inline void multiply_tile(const float* x, size_t x_stride, const float* panel, size_t depth, float* out) {
  constexpr size_t vectors = kPanelWidth / vec::lanes;
  vec::F sum[Tokens][vectors];
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < vectors; ++v) sum[t][v] = vec::set(0.0f);
  for (size_t k = 0; k < depth; ++k) {
    vec::F w[vectors];
    for (size_t v = 0; v < vectors; ++v) w[v] = vec::load(panel + k * kPanelWidth + v * vec::lanes);
    for (size_t t = 0; t < Tokens; ++t) {
      const vec::F value = vec::set(x[t * x_stride + k]);
      for (size_t v = 0; v < vectors; ++v) sum[t][v] = vec::fma(value, w[v], sum[t][v]);
    }
  }
  for (size_t t = 0; t < Tokens; ++t)
    for (size_t v = 0; v < vectors; ++v) vec::store(out + t * kPanelWidth + v * vec::lanes, sum[t][v]);
}

/// Calls the tile of exactly `tokens`, so that no remainder runs at the latency of one token's additions.
template <size_t Tokens>
static inline void multiply_remainder(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t depth,
                                      float* out) {
  if constexpr (Tokens > 0) {
    if (tokens == Tokens) return multiply_tile<Tokens>(x, x_stride, panel, depth, out);
    multiply_remainder<Tokens - 1>(x, x_stride, tokens, panel, depth, out);
  }
}

static void multiply_panel(const float* x, size_t x_stride, size_t tokens, const float* panel, size_t depth,
                           float* out) {
  size_t t = 0;
  for (; t + vec::tile_tokens <= tokens; t += vec::tile_tokens)
    multiply_tile<vec::tile_tokens>(x + t * x_stride, x_stride, panel, depth, out + t * kPanelWidth);
  multiply_remainder<vec::tile_tokens - 1>(x + t * x_stride, x_stride, tokens - t, panel, depth, out + t * kPanelWidth);
}
