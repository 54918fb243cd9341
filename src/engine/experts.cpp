// The feed-forward layers of a mixture of experts. Rows are gathered, so that each expert multiplies its tokens in one
// product by the kernels of a dense block; since no row of a product depends on the others, neither does what a token
// gets depend on the tokens beside it.
#include <algorithm>

#include "matrix.h"
#include "nibble/engine/block.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Role;

/// An expert's rows, of all that lie as the routing orders them.
template <class T>
MatrixView<T> part(MatrixView<T> rows, const Routing& routing, std::size_t expert) {
  return rows.row_range(routing.begins[expert], routing.count(expert));
}

/// What a hook is shown for an expert's layer: a row for each token.
void show(const LinearHook* hook, const Linear& linear, const Routing& routing, std::size_t expert,
          MatrixView<const float> rows, std::size_t tokens) {
  if (hook == nullptr || !*hook || !linear) return;
  Matrix all = Matrix::zeros(tokens, rows.cols);
  for (std::size_t r = 0; r < rows.rows; ++r)
    std::ranges::copy(rows.row(r), all.view().row(routing.tokens[routing.begins[expert] + r]).begin());
  (*hook)(linear.name, all.view());
}

}  // namespace

std::size_t BlockPass::expert_width() const { return config_.elements(config_.architecture().module(Role::down).in); }

Routing BlockPass::route(const Block& block, MatrixView<const float> normed) const {
  Matrix logits(normed.rows, config_.experts);
  linear(block.router, normed, logits.view());
  return engine::route(logits.view(), config_.experts_per_token, config_.normalizes_experts);
}

void BlockPass::gather(const Routing& routing, MatrixView<const float> normed, MatrixView<float> rows) const {
  each_row(executor_, routing.places(),
           [&](std::size_t place) { std::ranges::copy(normed.row(routing.tokens[place]), rows.row(place).begin()); });
}

void BlockPass::experts_gated(const Block& block, const Routing& routing, MatrixView<const float> rows,
                              MatrixView<float> gated) const {
  const BlockPass silent(config_, executor_, activations_, nullptr);
  const std::size_t tokens = routing.places() / config_.experts_per_token;
  for (std::size_t e = 0; e < routing.experts(); ++e) {
    const Linears& layers = block.experts.at(e);
    const auto input = part(rows, routing, e);
    for (const Role role : {Role::gate, Role::up}) show(hook_, layers[role], routing, e, input, tokens);
    if (routing.count(e) > 0) silent.feed_forward_gated(block, layers, input, part(gated, routing, e));
  }
}

void BlockPass::experts_down(const Block& block, const Routing& routing, MatrixView<const float> gated,
                             MatrixView<float> out) const {
  const BlockPass silent(config_, executor_, activations_, nullptr);
  for (std::size_t r = 0; r < out.rows; ++r) std::ranges::fill(out.row(r), 0.0f);
  for (std::size_t e = 0; e < routing.experts(); ++e) {
    const Linear& down = block.experts.at(e)[Role::down];
    const auto input = part(gated, routing, e);
    show(hook_, down, routing, e, input, out.rows);
    if (routing.count(e) == 0) continue;
    Matrix given(input.rows, out.cols);
    silent.linear(down, input, given.view());
    each_row(executor_, input.rows, [&](std::size_t r) {  // of one expert no two rows are one token's
      const std::size_t place = routing.begins[e] + r;
      const std::span<float> to = out.row(routing.tokens[place]);
      for (std::size_t c = 0; c < to.size(); ++c) to[c] += given(r, c) * routing.weights[place];
    });
  }
}

void BlockPass::ffn_of_experts(const Block& block, MatrixView<const float> normed, MatrixView<float> out) const {
  const Routing routing = route(block, normed);
  Matrix rows(routing.places(), normed.cols), gated(routing.places(), expert_width());
  gather(routing, normed, rows.view());
  experts_gated(block, routing, rows.view(), gated.view());
  experts_down(block, routing, gated.view(), out);
}

}  // namespace nibble::inline NIBBLE_ABI::engine
