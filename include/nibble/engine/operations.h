// What a decoder block computes beside its linear layers, each operation with its gradient: the reference engine's
// forward pass is made of the first, training of both.
//
// Matrices are [tokens, features], fp32. A gradient is that of Σ grad_y·y with respect to an input; it is added to what
// the result holds, unless its place is empty and nobody wants it. Sums are in one order whatever the threads, so an
// operation that is done again, to save the memory of its results, gives the same bits. The backend whose kernels are
// used (null: default_backend()) shows in no bit either.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "nibble/backend/gated.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// y = x / √(mean(x²) + epsilon) · weight, row by row (Zhang and Sennrich 2019, RMSNorm); y may be x.
/// Error{shape_mismatch}.
void rms_norm(MatrixView<const float> x, std::span<const float> weight, double epsilon, MatrixView<float> y);
void rms_norm_gradient(MatrixView<const float> x, std::span<const float> weight, double epsilon,
                       MatrixView<const float> grad_y, MatrixView<float> grad_x, std::span<float> grad_weight);

enum class Turn { forward, back };
/// What of a head is turned by its position.
struct Rotary {
  std::size_t head_dim = 0;
  std::size_t width = 0;  ///< The first values of a head, which are turned in pairs; the others stay.
  model::RopePairs pairs = model::RopePairs::halves;
};
/// Turns the pairs of every head in place by the angles of its token (Su et al. 2021, RoPE): `rope` is [tokens, width],
/// the cosines of a token's width/2 angles and then their sines. The gradient is the same turned back.
/// Error{shape_mismatch}.
void rotate(MatrixView<float> rows, const Rotary& heads, std::span<const float> rope, Turn turn = Turn::forward);

/// Causal attention of grouped queries: what query t of head h sees are the keys first … offset + t of head
/// h/(heads/kv_heads), with weights softmax(score(scale·q·k)), where score(s) = cap·tanh(s/cap) unless the cap is 0.
struct Attention {
  MatrixView<const float> queries;       ///< [n, heads·head_dim]
  MatrixView<const float> keys, values;  ///< [offset + n, kv_heads·head_dim]
  std::size_t head_dim = 0;
  std::size_t offset = 0;                   ///< Keys of tokens before the first query's.
  std::size_t window = 0;                   ///< A query sees so many keys at most, its own the last; 0: all.
  std::span<const std::size_t> first = {};  ///< [n]: a query sees no key before it, as of another document; empty: 0.
  float scale = 1;                          ///< Above 0.
  float cap = 0;

  [[nodiscard]] std::size_t heads() const { return queries.cols / head_dim; }
  [[nodiscard]] std::size_t kv_heads() const { return keys.cols / head_dim; }
  /// The first key that query t sees.
  [[nodiscard]] std::size_t begin(std::size_t t) const;
  /// Error{shape_mismatch} says what does not fit; invalid_argument for a scale that is not above 0, or a query that
  /// would see nothing.
  void validate() const;
};
/// out [n, heads·head_dim]. A query's result is the same bits alone, among others and behind another document; keys and
/// values that it does not see may be anything.
void attention(const Attention& a, MatrixView<float> out, Executor& executor, const Backend* backend = nullptr);
/// `out` is what attention() gave. The weights are computed anew, so that nothing of n² elements is kept.
void attention_gradient(const Attention& a, MatrixView<const float> out, MatrixView<const float> grad_out,
                        MatrixView<float> grad_queries, MatrixView<float> grad_keys, MatrixView<float> grad_values,
                        Executor& executor, const Backend* backend = nullptr);

/// The gradients of y = activation(gate)·up (backend/gated.h), element by element. Error{shape_mismatch} unless all are
/// equally long.
void gate_gradient(GatedActivation activation, std::span<const float> gate, std::span<const float> up,
                   std::span<const float> grad_y, std::span<float> grad_gate, std::span<float> grad_up,
                   const Backend* backend = nullptr);

/// The target of a row that nothing is to be predicted from.
inline constexpr std::size_t kNoTarget = static_cast<std::size_t>(-1);
struct CrossEntropy {
  double loss = 0;
  std::size_t targets = 0;  ///< Rows that have one.
};
/// −log softmax(logits)[target], summed over the rows of `logits` [n, vocabulary] whose target is not kNoTarget, in
/// fp64 and in the order of the rows. If grad_scale is not 0, logits become the gradient of grad_scale times that sum:
/// that of a row without a target is 0. Error{invalid_argument} for a target beyond the vocabulary.
CrossEntropy cross_entropy(MatrixView<float> logits, std::span<const std::size_t> targets, float grad_scale,
                           Executor& executor, const Backend* backend = nullptr);

}  // namespace nibble::inline NIBBLE_ABI::engine
