#include "nibble/engine/block.h"

#include <algorithm>
#include <cmath>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Role;
using Rows = std::vector<float>;

MatrixView<float> view(Rows& rows, std::size_t cols) { return {rows.data(), rows.size() / cols, cols}; }

/// Sixteen sums side by side, so that the compiler can use vectors without reordering anything.
float dot(const float* a, const float* b, std::size_t n) {
  float sums[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (std::size_t j = 0; j < 16; ++j) sums[j] += a[i + j] * b[i + j];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (float s : sums) sum += s;
  return sum;
}

void add(MatrixView<float> to, MatrixView<const float> x) {
  for (std::size_t r = 0; r < to.rows; ++r)
    for (std::size_t c = 0; c < to.cols; ++c) to(r, c) += x(r, c);
}

/// Turns the pairs (i, i + half) of every head in a row by the angles of its position; rope holds cos then sin.
void rotate(float* row, std::size_t heads, std::size_t head_dim, const float* rope) {
  const std::size_t half = head_dim / 2;
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t i = 0; i < half; ++i) {
      float* x = row + h * head_dim;
      const float a = x[i], b = x[i + half], cosine = rope[i], sine = rope[half + i];
      x[i] = a * cosine - b * sine;
      x[i + half] = b * cosine + a * sine;
    }
}

/// What becomes of scores before the softmax.
struct ScoreRule {
  float scale, cap;  ///< cap·tanh(scale·score/cap); no cap where that is 0.

  [[nodiscard]] float operator()(float score) const {
    const float scaled = score * scale;
    return cap == 0 ? scaled : std::tanh(scaled / cap) * cap;
  }
};

/// What one head of one token sees: keys and values of positions [first, last), `stride` floats apart.
void attend(const float* query, const float* keys, const float* values, std::size_t stride, std::size_t first,
            std::size_t last, std::size_t head_dim, const ScoreRule& rule, float* scores, float* out) {
  float most = -INFINITY;
  for (std::size_t j = first; j < last; ++j) {
    scores[j] = rule(dot(query, keys + j * stride, head_dim));
    most = std::max(most, scores[j]);
  }
  float total = 0;
  for (std::size_t j = first; j < last; ++j) total += scores[j] = std::exp(scores[j] - most);
  std::fill_n(out, head_dim, 0.0f);
  for (std::size_t j = first; j < last; ++j) {
    const float weight = scores[j] / total;
    const float* v = values + j * stride;
    for (std::size_t i = 0; i < head_dim; ++i) out[i] += weight * v[i];
  }
}

void check_shape(const char* what, std::string_view of, std::size_t rows, std::size_t cols, std::size_t want_rows,
                 std::size_t want_cols) {
  if (rows == want_rows && cols == want_cols) return;
  throw Error(ErrorCode::shape_mismatch, std::string(of) + ": " + what + " is " + std::to_string(rows) + " × " +
                                             std::to_string(cols) + "; " + std::to_string(want_rows) + " × " +
                                             std::to_string(want_cols) + " is needed");
}

/// An error of a product, with the layer that it speaks of.
[[noreturn]] void rethrow_for(const Linear& linear, const Error& e) {
  throw Error(e.code(), "layer '" + linear.name + "': " + e.what());
}

}  // namespace

std::vector<float> rope_angles(std::span<const double> inverse_frequencies, std::size_t first, std::size_t count) {
  const std::size_t half = inverse_frequencies.size();
  Rows rope(count * 2 * half);
  for (std::size_t t = 0; t < count; ++t)
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(first + t) * inverse_frequencies[i];
      rope[t * 2 * half + i] = static_cast<float>(std::cos(angle));
      rope[t * 2 * half + half + i] = static_cast<float>(std::sin(angle));
    }
  return rope;
}

RopeAngles::RopeAngles(const model::Config& config, std::size_t first, std::size_t count)
    : full_(rope_angles(config.inverse_frequencies(), first, count)) {
  if (config.window_rope_theta != 0) windowed_ = rope_angles(config.inverse_frequencies(true), first, count);
}

void scale_embedded(const model::Config& config, MatrixView<float> x) {
  if (!config.architecture().scaled_embedding) return;
  const float scale = std::sqrt(static_cast<float>(config.hidden));
  for (std::size_t r = 0; r < x.rows; ++r)
    for (float& value : x.row(r)) value *= scale;
}

void BlockPass::norm(MatrixView<const float> x, std::span<const float> weight, MatrixView<float> y) const {
  check_shape("the weight", "norm", 1, weight.size(), 1, x.cols);
  check_shape("y", "norm", y.rows, y.cols, x.rows, x.cols);
  for (std::size_t r = 0; r < x.rows; ++r) {
    const double mean = static_cast<double>(dot(&x(r, 0), &x(r, 0), x.cols)) / static_cast<double>(x.cols);
    const auto scale = static_cast<float>(1 / std::sqrt(mean + config_.rms_eps));
    for (std::size_t c = 0; c < x.cols; ++c) y(r, c) = x(r, c) * scale * weight[c];
  }
}

void BlockPass::norm_heads(MatrixView<float> rows, std::span<const float> weight) const {
  if (weight.empty()) return;
  const MatrixView<float> heads(rows.data, rows.rows * (rows.cols / weight.size()), weight.size());
  norm(heads, weight, heads);
}

void BlockPass::apply(MatrixView<const float> x, std::initializer_list<Output> outputs) const {
  std::vector<Projection> projections;
  for (const Output& out : outputs) {
    listen(out.linear, x);
    projections.push_back({out.linear.weight.get(), out.y, out.linear.bias});
  }
  const Linear& first = outputs.begin()->linear;
  try {
    first.weight->backend().matmul_fused(x, projections, activations_, executor_);
  } catch (const Error& e) {
    rethrow_for(first, e);
  }
}

void BlockPass::attention(const Block& block, MatrixView<const float> normed, std::span<const float> rope,
                          const KeyValues& cache, MatrixView<float> mixed) const {
  const std::size_t n = normed.rows, dim = config_.head_dim, width = config_.kv_heads * dim, start = cache.seen;
  const Linear &query = block[Role::query], &key = block[Role::key], &value = block[Role::value];
  check_shape("mixed", block[Role::attention_output].name, mixed.rows, mixed.cols, n, config_.heads * dim);
  check_shape("the table of angles", query.name, 1, rope.size(), 1, n * dim);
  check_shape("the keys' cache", key.name, cache.keys.rows, cache.keys.stride, cache.values.rows, width);
  check_shape("the values' cache", value.name, cache.values.rows, cache.values.stride, cache.keys.rows, width);
  if (start > cache.keys.rows || n > cache.keys.rows - start)
    throw Error(ErrorCode::shape_mismatch, "layer '" + key.name + "': " + std::to_string(n) +
                                               " tokens do not fit a cache of " + std::to_string(cache.keys.rows) +
                                               ", of which " + std::to_string(start) + " are used");
  Rows queries(n * config_.heads * dim);
  const auto q = view(queries, config_.heads * dim);
  // Keys and values go straight to their place in the cache.
  const MatrixView<float> k = cache.keys.row_range(start, n), v = cache.values.row_range(start, n);
  apply(normed, {{query, q}, {key, k}, {value, v}});
  norm_heads(q, block.norm(Role::query_norm));
  norm_heads(k, block.norm(Role::key_norm));
  for (std::size_t t = 0; t < n; ++t) {
    rotate(&q(t, 0), config_.heads, dim, rope.data() + t * dim);
    rotate(&k(t, 0), config_.kv_heads, dim, rope.data() + t * dim);
  }
  const std::size_t group = config_.heads / config_.kv_heads;
  const ScoreRule rule{config_.attention_scale(), static_cast<float>(config_.attention_cap)};
  parallel_for(executor_, n * config_.heads, 1 + 16384 / (start + n), [&](std::size_t begin, std::size_t end) {
    std::vector<float> scores(start + n);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / config_.heads, h = i % config_.heads, last = start + t + 1;
      const std::size_t first = block.window != 0 && last > block.window ? last - block.window : 0;
      const std::size_t at = h / group * dim;
      attend(&q(t, h * dim), cache.keys.data + at, cache.values.data + at, width, first, last, dim, rule, scores.data(),
             &mixed(t, h * dim));
    }
  });
}

void BlockPass::ffn_gated(const Block& block, MatrixView<const float> normed, MatrixView<float> gated) const {
  const Linear &gate = block[Role::gate], &up = block[Role::up];
  const GatedActivation activation = config_.architecture().activation;
  if (gate.bias.empty() && up.bias.empty()) {
    listen(gate, normed);
    listen(up, normed);
    try {
      gate.weight->backend().matmul_gated(normed, *gate.weight, *up.weight, activation, gated, activations_, executor_);
    } catch (const Error& e) {
      rethrow_for(gate, e);
    }
    return;
  }
  Rows values(normed.rows * config_.intermediate);
  const auto ups = view(values, config_.intermediate);
  apply(normed, {{gate, gated}, {up, ups}});
  for (std::size_t t = 0; t < normed.rows; ++t) apply_gate(activation, gated.row(t), ups.row(t), gated.row(t));
}

void BlockPass::attention_layer(const Block& block, MatrixView<const float> normed, std::span<const float> rope,
                                const KeyValues& cache, MatrixView<float> out) const {
  Rows mixed(normed.rows * config_.heads * config_.head_dim);
  const auto m = view(mixed, config_.heads * config_.head_dim);
  attention(block, normed, rope, cache, m);
  linear(block[Role::attention_output], m, out);
}

void BlockPass::ffn(const Block& block, MatrixView<const float> normed, MatrixView<float> out) const {
  Rows gated(normed.rows * config_.intermediate);
  const auto g = view(gated, config_.intermediate);
  ffn_gated(block, normed, g);
  linear(block[Role::down], g, out);
}

void BlockPass::add_output(const Block& block, Role linear, Role post_norm, MatrixView<const float> input,
                           MatrixView<float> x, Scratch& scratch) const {
  scratch.delta.resize(x.rows * x.cols);
  const auto d = view(scratch.delta, x.cols);
  this->linear(block[linear], input, d);
  if (const auto& weight = block.norm(post_norm); !weight.empty()) norm(d, weight, d);
  add(x, d);
}

void BlockPass::add_attention_output(const Block& block, MatrixView<const float> mixed, MatrixView<float> x,
                                     Scratch& scratch) const {
  add_output(block, Role::attention_output, Role::attention_post_norm, mixed, x, scratch);
}

void BlockPass::add_down(const Block& block, MatrixView<const float> gated, MatrixView<float> x,
                         Scratch& scratch) const {
  add_output(block, Role::down, Role::ffn_post_norm, gated, x, scratch);
}

void BlockPass::add_attention(const Block& block, MatrixView<float> x, std::span<const float> rope,
                              const KeyValues& cache, Scratch& scratch) const {
  scratch.normed.resize(x.rows * x.cols);
  scratch.inner.resize(x.rows * config_.heads * config_.head_dim);
  const auto y = view(scratch.normed, x.cols), mixed = view(scratch.inner, config_.heads * config_.head_dim);
  norm(x, block.norm(Role::attention_norm), y);
  attention(block, y, rope, cache, mixed);
  add_attention_output(block, mixed, x, scratch);
}

void BlockPass::add_ffn(const Block& block, MatrixView<float> x, Scratch& scratch) const {
  scratch.normed.resize(x.rows * x.cols);
  scratch.inner.resize(x.rows * config_.intermediate);
  const auto y = view(scratch.normed, x.cols), gated = view(scratch.inner, config_.intermediate);
  norm(x, block.norm(Role::ffn_norm), y);
  ffn_gated(block, y, gated);
  add_down(block, gated, x, scratch);
}

}  // namespace nibble::inline NIBBLE_ABI::engine
