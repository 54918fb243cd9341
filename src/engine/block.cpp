#include "nibble/engine/block.h"

#include <algorithm>
#include <cmath>

#include "linear.h"
#include "matrix.h"
#include "nibble/core/error.h"
#include "nibble/engine/operations.h"
#include "rotary.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Role;
using Rows = std::vector<float>;

MatrixView<float> view(Rows& rows, std::size_t cols) { return {rows.data(), rows.size() / cols, cols}; }

void add(MatrixView<float> to, MatrixView<const float> x) {
  for (std::size_t r = 0; r < to.rows; ++r)
    for (std::size_t c = 0; c < to.cols; ++c) to(r, c) += x(r, c);
}

void check_shape(const char* what, std::string_view of, std::size_t rows, std::size_t cols, std::size_t want_rows,
                 std::size_t want_cols) {
  if (rows == want_rows && cols == want_cols) return;
  throw Error(ErrorCode::shape_mismatch, std::string(of) + ": " + what + " is " + std::to_string(rows) + " × " +
                                             std::to_string(cols) + "; " + std::to_string(want_rows) + " × " +
                                             std::to_string(want_cols) + " is needed");
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
  rms_norm(x, weight, config_.rms_eps, y);
}

void BlockPass::norm_heads(MatrixView<float> rows, std::span<const float> weight) const {
  if (weight.empty()) return;
  const MatrixView<float> heads(rows.data, rows.rows * (rows.cols / weight.size()), weight.size());
  norm(heads, weight, heads);
}

void BlockPass::apply(MatrixView<const float> x, std::initializer_list<Output> outputs) const {
  std::vector<LinearOutput> all;
  for (const Output& out : outputs) {
    listen(out.linear, x);
    all.push_back({out.linear, out.y});
  }
  apply_linears(x, all, activations_, executor_);
}

void BlockPass::apply(const Linear& fused, MatrixView<const float> x, std::initializer_list<Output> outputs) const {
  if (!fused) return apply(x, outputs);
  split_product(outputs, executor_, [&](MatrixView<float> y) { apply(x, {{fused, y}}); });
}

void BlockPass::attention(const Block& block, MatrixView<const float> normed, std::span<const float> rope,
                          const KeyValues& cache, MatrixView<float> mixed) const {
  const std::size_t n = normed.rows, dim = config_.head_dim, width = config_.kv_heads * dim, start = cache.seen;
  const Linear& fused = block[Role::query_key_value];
  const auto name = [&](Role role) -> const std::string& { return fused ? fused.name : block[role].name; };
  check_shape("mixed", block[Role::attention_output].name, mixed.rows, mixed.cols, n, config_.heads * dim);
  check_shape("the table of angles", name(Role::query), 1, rope.size(), 1, n * config_.turned_dim());
  check_shape("the keys' cache", name(Role::key), cache.keys.rows, cache.keys.stride, cache.values.rows, width);
  check_shape("the values' cache", name(Role::value), cache.values.rows, cache.values.stride, cache.keys.rows, width);
  if (start > cache.keys.rows || n > cache.keys.rows - start)
    throw Error(ErrorCode::shape_mismatch, "layer '" + name(Role::key) + "': " + std::to_string(n) +
                                               " tokens do not fit a cache of " + std::to_string(cache.keys.rows) +
                                               ", of which " + std::to_string(start) + " are used");
  Rows queries(n * config_.heads * dim);
  const auto q = view(queries, config_.heads * dim);
  // Keys and values go straight to their place in the cache.
  const MatrixView<float> k = cache.keys.row_range(start, n), v = cache.values.row_range(start, n);
  apply(fused, normed, {{block[Role::query], q}, {block[Role::key], k}, {block[Role::value], v}});
  attend(block, q, rope, cache, mixed);
}

void BlockPass::attend(const Block& block, MatrixView<float> queries, std::span<const float> rope,
                       const KeyValues& cache, MatrixView<float> mixed) const {
  const std::size_t dim = config_.head_dim, start = cache.seen, n = queries.rows;
  const MatrixView<float> keys = cache.keys.row_range(start, n);
  norm_heads(queries, block.norm(Role::query_norm));
  norm_heads(keys, block.norm(Role::key_norm));
  const Rotary heads = rotary_of(config_);
  rotate(queries, heads, rope);
  rotate(keys, heads, rope);
  engine::attention({.queries = queries,
                     .keys = cache.keys.row_range(0, start + n),
                     .values = cache.values.row_range(0, start + n),
                     .head_dim = dim,
                     .offset = start,
                     .window = block.window,
                     .scale = config_.attention_scale(),
                     .cap = static_cast<float>(config_.attention_cap)},
                    mixed, executor_, block.backend());
}

void BlockPass::feed_forward_gated(const Block& block, const Linears& layers, MatrixView<const float> normed,
                                   MatrixView<float> gated) const {
  const Linear &fused = layers[Role::gate_up], &gate = layers[Role::gate], &up = layers[Role::up];
  const GatedActivation activation = config_.architecture().activation;
  if (fused) {
    const std::size_t width = gated.cols;
    Matrix joined(normed.rows, 2 * width);
    apply(normed, {{fused, joined.view()}});
    return each_row(executor_, normed.rows, [&](std::size_t r) {
      const std::span<float> row = joined.view().row(r);
      apply_gate(activation, row.first(width), row.subspan(width), gated.row(r), block.backend());
    });
  }
  if (gate.bias.empty() && up.bias.empty() && !gate.adapter && !up.adapter) {
    listen(gate, normed);
    listen(up, normed);
    try {
      gate.weight->backend().matmul_gated(normed, *gate.weight, *up.weight, activation, gated, activations_, executor_);
    } catch (const Error& e) {
      rethrow_for(gate, e);
    }
    return;
  }
  Rows values(normed.rows * gated.cols);
  const auto ups = view(values, gated.cols);
  apply(normed, {{gate, gated}, {up, ups}});
  for (std::size_t t = 0; t < normed.rows; ++t)
    apply_gate(activation, gated.row(t), ups.row(t), gated.row(t), block.backend());
}

void BlockPass::ffn_gated(const Block& block, MatrixView<const float> normed, MatrixView<float> gated) const {
  feed_forward_gated(block, block.linears, normed, gated);
}

void BlockPass::attention_layer(const Block& block, MatrixView<const float> normed, std::span<const float> rope,
                                const KeyValues& cache, MatrixView<float> out) const {
  Rows mixed(normed.rows * config_.heads * config_.head_dim);
  const auto m = view(mixed, config_.heads * config_.head_dim);
  attention(block, normed, rope, cache, m);
  linear(block[Role::attention_output], m, out);
}

void BlockPass::ffn(const Block& block, MatrixView<const float> normed, MatrixView<float> out) const {
  if (block.router) return ffn_of_experts(block, normed, out);
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
  add_normed(block, post_norm, d, x);
}

void BlockPass::add_normed(const Block& block, Role post_norm, MatrixView<float> out, MatrixView<float> x) const {
  if (const auto& weight = block.norm(post_norm); !weight.empty()) norm(out, weight, out);
  add(x, out);
}

void BlockPass::add_attention_output(const Block& block, MatrixView<const float> mixed, MatrixView<float> x,
                                     Scratch& scratch) const {
  add_output(block, Role::attention_output, Role::attention_post_norm, mixed, x, scratch);
}

void BlockPass::add_down(const Block& block, MatrixView<const float> gated, MatrixView<float> x,
                         Scratch& scratch) const {
  add_output(block, Role::down, Role::ffn_post_norm, gated, x, scratch);
}

void BlockPass::add_ffn_output(const Block& block, MatrixView<float> out, MatrixView<float> x) const {
  add_normed(block, Role::ffn_post_norm, out, x);
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
  const auto y = view(scratch.normed, x.cols);
  norm(x, block.norm(Role::ffn_norm), y);
  if (block.router) {
    scratch.delta.resize(x.rows * x.cols);
    const auto out = view(scratch.delta, x.cols);
    ffn_of_experts(block, y, out);
    return add_ffn_output(block, out, x);
  }
  scratch.inner.resize(x.rows * config_.intermediate);
  const auto gated = view(scratch.inner, config_.intermediate);
  ffn_gated(block, y, gated);
  add_down(block, gated, x, scratch);
}

}  // namespace nibble::inline NIBBLE_ABI::engine
