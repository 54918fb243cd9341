#include "block_gradient.h"

#include <algorithm>

#include "nibble/engine/operations.h"
#include "rotary.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Role;

/// The rows of a table of angles that the positions ask for.
std::vector<float> take(const std::vector<float>& table, std::size_t width, std::span<const std::size_t> first) {
  std::vector<float> out(first.size() * width);
  for (std::size_t t = 0; t < first.size(); ++t)
    std::copy_n(table.begin() + static_cast<std::ptrdiff_t>((t - first[t]) * width), width,
                out.begin() + static_cast<std::ptrdiff_t>(t * width));
  return out;
}

constexpr std::size_t place(Role role) { return static_cast<std::size_t>(role); }

/// Numbers a block's layers for their masks: one of several in one has the number of the first of them, which the block
/// then has not.
constexpr std::size_t mask_of(Role role) {
  return place(role == Role::query_key_value ? Role::query : role == Role::gate_up ? Role::gate : role);
}

}  // namespace

RowLayout::RowLayout(const model::Config& config, std::span<const std::size_t> starts, std::size_t tokens)
    : first_(tokens) {
  std::size_t longest = 0;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const std::size_t end = i + 1 < starts.size() ? starts[i + 1] : tokens;
    std::fill(first_.begin() + static_cast<std::ptrdiff_t>(starts[i]),
              first_.begin() + static_cast<std::ptrdiff_t>(end), starts[i]);
    longest = std::max(longest, end - starts[i]);
  }
  full_ = take(rope_angles(config.inverse_frequencies(), 0, longest), config.turned_dim(), first_);
  if (config.window_rope_theta != 0)
    windowed_ = take(rope_angles(config.inverse_frequencies(true), 0, longest), config.turned_dim(), first_);
}

train::Dropout BlockTraining::dropout(std::size_t index, Role role) const {
  train::Dropout out = dropout_;
  out.stream =
      ((out.stream << 20) + index) * 8 + mask_of(role);  // no two layers of a run, nor two passes, share a mask
  return out;
}

void BlockTraining::apply(const Block& block, std::size_t index, Role fused, MatrixView<const float> x,
                          std::initializer_list<Output> outputs) const {
  if (const Linear& linear = block[fused]) {
    return split_product(outputs, executor_, [&](MatrixView<float> y) {
      const LinearOutput all[] = {{linear, y, dropout(index, fused)}};
      apply_linears(x, all, Activations::fp32, executor_);
    });
  }
  std::vector<LinearOutput> all;
  for (const Output& out : outputs) all.push_back({block[out.role], out.y, dropout(index, out.role)});
  apply_linears(x, all, Activations::fp32, executor_);
}

void BlockTraining::apply_back(const Block& block, std::size_t index, Role fused, MatrixView<const float> x,
                               std::initializer_list<OutputGradient> gradients, const BlockGradients& to,
                               MatrixView<float> grad_x) const {
  if (const Linear& linear = block[fused]) {
    std::vector<MatrixView<const float>> parts;
    for (const OutputGradient& g : gradients) parts.push_back(g.grad_y);
    const Matrix joined = join(parts, executor_);
    const LinearGradient all[] = {{linear, joined.view(), to[place(fused)], dropout(index, fused)}};
    return linear_gradients(x, all, grad_x, executor_);
  }
  std::vector<LinearGradient> all;
  for (const OutputGradient& g : gradients)
    all.push_back({block[g.role], g.grad_y, to[place(g.role)], dropout(index, g.role)});
  linear_gradients(x, all, grad_x, executor_);
}

void BlockTraining::norm(MatrixView<const float> x, std::span<const float> weight, MatrixView<float> y) const {
  row_ranges(executor_, x.rows, [&](std::size_t first, std::size_t count) {
    rms_norm(x.row_range(first, count), weight, config_.rms_eps, y.row_range(first, count));
  });
}

void BlockTraining::norm_gradient(MatrixView<const float> x, std::span<const float> weight,
                                  MatrixView<const float> grad_y, MatrixView<float> grad_x) const {
  row_ranges(executor_, x.rows, [&](std::size_t first, std::size_t count) {
    rms_norm_gradient(x.row_range(first, count), weight, config_.rms_eps, grad_y.row_range(first, count),
                      grad_x.row_range(first, count), {});
  });
}

void BlockTraining::norm_heads(const std::vector<float>& weight, Matrix& heads, Matrix& raw) const {
  if (weight.empty()) return;
  raw = heads;
  const MatrixView<float> m = heads.view();
  const MatrixView<float> rows(m.data, m.rows * (m.cols / weight.size()), weight.size());
  norm(rows, weight, rows);
}

void BlockTraining::norm_heads_gradient(const std::vector<float>& weight, const Matrix& raw, Matrix& grad) const {
  if (weight.empty()) return;
  const MatrixView<const float> m = raw.view();
  Matrix out = Matrix::zeros(m.rows, m.cols);
  const std::size_t rows = m.rows * (m.cols / weight.size());
  norm_gradient({m.data, rows, weight.size()}, weight, {grad.view().data, rows, weight.size()},
                {out.view().data, rows, weight.size()});
  grad = std::move(out);
}

void BlockTraining::add_output(const Block& block, Role post_norm, Matrix y, MatrixView<float> x, Matrix& raw) const {
  if (const auto& weight = block.norm(post_norm); !weight.empty()) {
    raw = y;
    norm(raw.view(), weight, y.view());
  }
  add(y.view(), x, executor_);
}

MatrixView<const float> BlockTraining::output_gradient(const Block& block, Role post_norm, const Matrix& raw,
                                                       MatrixView<const float> grad, Matrix& own) const {
  const auto& weight = block.norm(post_norm);
  if (weight.empty()) return grad;
  own = Matrix::zeros(grad.rows, grad.cols);
  norm_gradient(raw.view(), weight, grad, own.view());
  return own.view();
}

Attention BlockTraining::attention_of(const Block& block, const BlockTrace& trace) const {
  return {.queries = trace.query.view(),
          .keys = trace.key.view(),
          .values = trace.value.view(),
          .head_dim = config_.head_dim,
          .window = block.window,
          .first = layout_.first(),
          .scale = config_.attention_scale(),
          .cap = static_cast<float>(config_.attention_cap)};
}

void BlockTraining::forward_attention(const Block& block, std::size_t index, MatrixView<float> x,
                                      BlockTrace& trace) const {
  const std::size_t n = x.rows, dim = config_.head_dim, width = config_.heads * dim, kv_width = config_.kv_heads * dim;
  trace.x = Matrix(x);
  trace.normed = Matrix(n, x.cols);
  norm(x, block.norm(Role::attention_norm), trace.normed.view());
  trace.query = Matrix(n, width);
  trace.key = Matrix(n, kv_width);
  trace.value = Matrix(n, kv_width);
  apply(block, index, Role::query_key_value, trace.normed.view(),
        {{Role::query, trace.query.view()}, {Role::key, trace.key.view()}, {Role::value, trace.value.view()}});
  norm_heads(block.norm(Role::query_norm), trace.query, trace.query_raw);
  norm_heads(block.norm(Role::key_norm), trace.key, trace.key_raw);
  const Rotary heads = rotary_of(config_);
  rotate(trace.query.view(), heads, layout_.rope(block));
  rotate(trace.key.view(), heads, layout_.rope(block));
  trace.mixed = Matrix(n, width);
  attention(attention_of(block, trace), trace.mixed.view(), executor_, block.backend());
  Matrix attended(n, x.cols);
  const LinearOutput output[] = {
      {block[Role::attention_output], attended.view(), dropout(index, Role::attention_output)}};
  apply_linears(trace.mixed.view(), output, Activations::fp32, executor_);
  add_output(block, Role::attention_post_norm, std::move(attended), x, trace.attended);
}

void BlockTraining::forward_ffn(const Block& block, std::size_t index, MatrixView<float> x, BlockTrace& trace) const {
  const std::size_t n = x.rows;
  trace.middle = Matrix(x);
  trace.ffn_normed = Matrix(n, x.cols);
  norm(x, block.norm(Role::ffn_norm), trace.ffn_normed.view());
  trace.gate = Matrix(n, config_.intermediate);
  trace.up = Matrix(n, config_.intermediate);
  apply(block, index, Role::gate_up, trace.ffn_normed.view(),
        {{Role::gate, trace.gate.view()}, {Role::up, trace.up.view()}});
  trace.gated = Matrix(n, config_.intermediate);
  each_row(executor_, n, [&](std::size_t r) {
    apply_gate(config_.architecture().activation, trace.gate.view().row(r), trace.up.view().row(r),
               trace.gated.view().row(r), block.backend());
  });
  Matrix expanded(n, x.cols);
  const LinearOutput output[] = {{block[Role::down], expanded.view(), dropout(index, Role::down)}};
  apply_linears(trace.gated.view(), output, Activations::fp32, executor_);
  add_output(block, Role::ffn_post_norm, std::move(expanded), x, trace.expanded);
}

BlockTrace BlockTraining::forward(const Block& block, std::size_t index, MatrixView<float> x) const {
  BlockTrace trace;
  forward_attention(block, index, x, trace);
  forward_ffn(block, index, x, trace);
  return trace;
}

void BlockTraining::gate_gradients(MatrixView<const float> grad_gated, MatrixView<float> gate, MatrixView<float> up,
                                   const Backend* backend) const {
  row_ranges(executor_, gate.rows, [&](std::size_t first, std::size_t count) {
    std::vector<float> grad_gate(gate.cols), grad_up(gate.cols);
    for (std::size_t r = first; r < first + count; ++r) {
      std::ranges::fill(grad_gate, 0.0f);
      std::ranges::fill(grad_up, 0.0f);
      gate_gradient(config_.architecture().activation, gate.row(r), up.row(r), grad_gated.row(r), grad_gate, grad_up,
                    backend);
      std::ranges::copy(grad_gate, gate.row(r).begin());
      std::ranges::copy(grad_up, up.row(r).begin());
    }
  });
}

void BlockTraining::backward_ffn(const Block& block, std::size_t index, BlockTrace& trace, const BlockGradients& to,
                                 MatrixView<float> grad) const {
  const std::size_t n = grad.rows;
  {
    Matrix own, grad_gated(n, config_.intermediate);
    const MatrixView<const float> grad_down = output_gradient(block, Role::ffn_post_norm, trace.expanded, grad, own);
    const LinearGradient down[] = {{block[Role::down], grad_down, to[place(Role::down)], dropout(index, Role::down)}};
    linear_gradients(trace.gated.view(), down, grad_gated.view(), executor_);
    trace.gated = {};
    gate_gradients(grad_gated.view(), trace.gate.view(), trace.up.view(), block.backend());
  }
  Matrix grad_normed(n, grad.cols);
  apply_back(block, index, Role::gate_up, trace.ffn_normed.view(),
             {{Role::gate, trace.gate.view()}, {Role::up, trace.up.view()}}, to, grad_normed.view());
  norm_gradient(trace.middle.view(), block.norm(Role::ffn_norm), grad_normed.view(), grad);
}

void BlockTraining::backward_attention(const Block& block, std::size_t index, const BlockTrace& trace,
                                       const BlockGradients& to, bool input_wanted, MatrixView<float> grad) const {
  const std::size_t n = grad.rows, dim = config_.head_dim, width = config_.heads * dim,
                    kv_width = config_.kv_heads * dim;
  Matrix own, grad_mixed(n, width);
  const MatrixView<const float> grad_output =
      output_gradient(block, Role::attention_post_norm, trace.attended, grad, own);
  const LinearGradient output[] = {{block[Role::attention_output], grad_output, to[place(Role::attention_output)],
                                    dropout(index, Role::attention_output)}};
  linear_gradients(trace.mixed.view(), output, grad_mixed.view(), executor_);
  Matrix grad_query = Matrix::zeros(n, width), grad_key = Matrix::zeros(n, kv_width),
         grad_value = Matrix::zeros(n, kv_width);
  attention_gradient(attention_of(block, trace), trace.mixed.view(), grad_mixed.view(), grad_query.view(),
                     grad_key.view(), grad_value.view(), executor_, block.backend());
  const Rotary heads = rotary_of(config_);
  rotate(grad_query.view(), heads, layout_.rope(block), Turn::back);
  rotate(grad_key.view(), heads, layout_.rope(block), Turn::back);
  norm_heads_gradient(block.norm(Role::query_norm), trace.query_raw, grad_query);
  norm_heads_gradient(block.norm(Role::key_norm), trace.key_raw, grad_key);
  Matrix grad_normed(input_wanted ? n : 0, grad.cols);
  apply_back(block, index, Role::query_key_value, trace.normed.view(),
             {{Role::query, grad_query.view()}, {Role::key, grad_key.view()}, {Role::value, grad_value.view()}}, to,
             input_wanted ? grad_normed.view() : MatrixView<float>());
  if (input_wanted) norm_gradient(trace.x.view(), block.norm(Role::attention_norm), grad_normed.view(), grad);
}

void BlockTraining::backward(const Block& block, std::size_t index, BlockTrace trace, const BlockGradients& to,
                             bool input_wanted, MatrixView<float> grad) const {
  backward_ffn(block, index, trace, to, grad);
  for (Matrix* done : {&trace.middle, &trace.ffn_normed, &trace.gate, &trace.up, &trace.expanded}) *done = {};
  backward_attention(block, index, trace, to, input_wanted, grad);
}

}  // namespace nibble::inline NIBBLE_ABI::engine
