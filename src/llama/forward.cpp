#include <algorithm>
#include <cmath>
#include <cstring>

#include "nibble/core/error.h"
#include "nibble/llama/model.h"

namespace nibble::llama {

namespace {

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

/// y = x / rms(x) · weight, row by row (Zhang and Sennrich 2019).
void rms_norm(MatrixView<const float> x, std::span<const float> weight, double eps, MatrixView<float> y) {
  for (std::size_t r = 0; r < x.rows; ++r) {
    const double mean = static_cast<double>(dot(&x(r, 0), &x(r, 0), x.cols)) / static_cast<double>(x.cols);
    const auto scale = static_cast<float>(1 / std::sqrt(mean + eps));
    for (std::size_t c = 0; c < x.cols; ++c) y(r, c) = x(r, c) * scale * weight[c];
  }
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

/// What one head of one token sees: keys and values of positions [first, last), `stride` floats apart.
void attend(const float* query, const float* keys, const float* values, std::size_t stride, std::size_t first,
            std::size_t last, std::size_t head_dim, float* scores, float* out) {
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
  float most = -INFINITY;
  for (std::size_t j = first; j < last; ++j) {
    scores[j] = dot(query, keys + j * stride, head_dim) * scale;
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

}  // namespace

void Model::apply(MatrixView<const float> x, std::initializer_list<Output> outputs) const {
  std::vector<Projection> projections;
  for (const Output& out : outputs) {
    if (hook_) hook_(out.linear.name, x);
    projections.push_back({out.linear.weight.get(), out.y, out.linear.bias});
  }
  outputs.begin()->linear.weight->backend().matmul_fused(x, projections, activations_, *executor_);
}

void Model::attention(const Layer& layer, std::size_t index, MatrixView<const float> x, std::span<const float> rope,
                      KvCache& cache, MatrixView<float> out) const {
  const std::size_t n = x.rows, dim = config_.head_dim, width = cache.width_, start = cache.size_;
  Rows queries(n * config_.heads * dim), mixed(queries.size());
  const auto q = view(queries, config_.heads * dim);
  // Keys and values go straight to their place in the cache.
  const MatrixView<float> k(cache.keys_[index].data() + start * width, n, width),
      v(cache.values_[index].data() + start * width, n, width);
  apply(x, {{layer.q, q}, {layer.k, k}, {layer.v, v}});
  for (std::size_t t = 0; t < n; ++t) {
    rotate(&q(t, 0), config_.heads, dim, rope.data() + t * dim);
    rotate(&k(t, 0), config_.kv_heads, dim, rope.data() + t * dim);
  }
  const std::size_t group = config_.heads / config_.kv_heads;
  parallel_for(*executor_, n * config_.heads, 1 + 16384 / (start + n), [&](std::size_t begin, std::size_t end) {
    std::vector<float> scores(start + n);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / config_.heads, h = i % config_.heads, last = start + t + 1;
      const std::size_t first =
          config_.sliding_window != 0 && last > config_.sliding_window ? last - config_.sliding_window : 0;
      const std::size_t at = h / group * dim;
      attend(&q(t, h * dim), cache.keys_[index].data() + at, cache.values_[index].data() + at, width, first, last, dim,
             scores.data(), mixed.data() + (t * config_.heads + h) * dim);
    }
  });
  apply(view(mixed, config_.heads * dim), {{layer.o, out}});
}

void Model::mlp(const Layer& layer, MatrixView<const float> x, MatrixView<float> out) const {
  Rows gated(x.rows * config_.intermediate);
  const auto inner = view(gated, config_.intermediate);
  if (layer.gate.bias.empty() && layer.up.bias.empty()) {
    for (const Linear* l : {&layer.gate, &layer.up})
      if (hook_) hook_(l->name, x);
    layer.gate.weight->backend().matmul_swiglu(x, *layer.gate.weight, *layer.up.weight, inner, activations_,
                                               *executor_);
  } else {
    Rows ups(gated.size());
    apply(x, {{layer.gate, inner}, {layer.up, view(ups, config_.intermediate)}});
    for (std::size_t i = 0; i < gated.size(); ++i) gated[i] = gated[i] / (1 + std::exp(-gated[i])) * ups[i];
  }
  apply(inner, {{layer.down, out}});
}

std::vector<float> Model::forward(std::span<const std::int32_t> ids, KvCache& cache, bool last_only) const {
  if (ids.empty()) throw Error(ErrorCode::invalid_argument, "forward: no tokens were given");
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= config_.vocab)
      throw Error(ErrorCode::invalid_argument, "token " + std::to_string(t) + " is " + std::to_string(ids[t]) +
                                                   "; the vocabulary has ids 0 to " +
                                                   std::to_string(config_.vocab - 1));
  if (cache.keys_.size() != config_.layers || cache.width_ != config_.kv_heads * config_.head_dim)
    throw Error(ErrorCode::shape_mismatch, "the cache was made for another model");
  const std::size_t n = ids.size();
  if (n > cache.capacity_ - cache.size_)
    throw Error(ErrorCode::invalid_argument, std::to_string(n) +
                                                 " tokens do not fit the cache: " + std::to_string(cache.size_) +
                                                 " of " + std::to_string(cache.capacity_) + " are used");

  Rows rope(n * config_.head_dim);
  for (std::size_t t = 0; t < n; ++t)
    for (std::size_t i = 0; i < config_.head_dim / 2; ++i) {
      const double angle = static_cast<double>(cache.size_ + t) * inverse_frequency_[i];
      rope[t * config_.head_dim + i] = static_cast<float>(std::cos(angle));
      rope[t * config_.head_dim + config_.head_dim / 2 + i] = static_cast<float>(std::sin(angle));
    }

  Rows stream(n * config_.hidden), normed(stream.size()), delta(stream.size());
  const auto x = view(stream, config_.hidden), y = view(normed, config_.hidden), d = view(delta, config_.hidden);
  for (std::size_t t = 0; t < n; ++t) embedding_.decode_row(static_cast<std::size_t>(ids[t]), &x(t, 0));
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    rms_norm(x, layer.input_norm, config_.rms_eps, y);
    attention(layer, i, y, rope, cache, d);
    add(x, d);
    rms_norm(x, layer.post_norm, config_.rms_eps, y);
    mlp(layer, y, d);
    add(x, d);
  }
  cache.size_ += n;
  const auto wanted = last_only ? x.row_range(n - 1, 1) : x;
  const auto out_norm = y.row_range(0, wanted.rows);
  rms_norm(wanted, norm_, config_.rms_eps, out_norm);
  Rows logits(wanted.rows * config_.vocab);
  apply(out_norm, {{head_, view(logits, config_.vocab)}});
  return logits;
}

}  // namespace nibble::llama
