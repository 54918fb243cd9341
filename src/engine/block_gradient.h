// A decoder block in training: the forward pass of engine/block.h over samples side by side, and the way back through
// it.
//
// Both are made of the operations of engine/operations.h, in the same order, so a forward pass that is done again gives
// the same bits: of a block's trace nothing need be kept but its input.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "linear.h"
#include "matrix.h"
#include "nibble/engine/block.h"
#include "nibble/engine/operations.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Where the tokens of a row stand.
class RowLayout {
 public:
  /// `starts`: the first token of each sample, ascending from 0.
  RowLayout(const model::Config& config, std::span<const std::size_t> starts, std::size_t tokens);
  /// For each token the first one that it sees.
  [[nodiscard]] std::span<const std::size_t> first() const { return first_; }
  /// The angles of each token's position in its sample.
  [[nodiscard]] std::span<const float> rope(const Block& block) const {
    return block.window != 0 && !windowed_.empty() ? windowed_ : full_;
  }

 private:
  std::vector<std::size_t> first_;
  std::vector<float> full_, windowed_;
};

/// What the way back needs. Matrices are empty where the architecture has no such norm.
struct BlockTrace {
  Matrix x, normed, query_raw, key_raw, query, key, value, mixed, attended;
  Matrix middle, ffn_normed, gate, up, gated, expanded;
};

/// Of a block's linear layers, by role.
using BlockGradients = std::array<PartGradients, model::kLinearRoles>;

class BlockTraining {
 public:
  /// Keeps references. `dropout` is that of every adapter's input; its stream numbers the pass.
  BlockTraining(const model::Config& config, const RowLayout& layout, train::Dropout dropout, Executor& executor)
      : config_(config), layout_(layout), dropout_(dropout), executor_(executor) {}

  /// x [tokens, hidden] becomes what block `index` gives.
  BlockTrace forward(const Block& block, std::size_t index, MatrixView<float> x) const;
  /// The gradient of what the block gave becomes that of its input; if nothing before the block is trained, that is not
  /// computed, and `grad` left as it may be. What is not needed any more of the trace makes room for what is.
  void backward(const Block& block, std::size_t index, BlockTrace trace, const BlockGradients& to, bool input_wanted,
                MatrixView<float> grad) const;

 private:
  [[nodiscard]] train::Dropout dropout(std::size_t index, model::Role role) const;
  /// One of the layers with the same input.
  struct Output {
    model::Role role;
    MatrixView<float> y;
  };
  struct OutputGradient {
    model::Role role;
    MatrixView<const float> grad_y;
  };
  /// All of them, or `fused` in their place where the block has it.
  void apply(const Block& block, std::size_t index, model::Role fused, MatrixView<const float> x,
             std::initializer_list<Output> outputs) const;
  void apply_back(const Block& block, std::size_t index, model::Role fused, MatrixView<const float> x,
                  std::initializer_list<OutputGradient> gradients, const BlockGradients& to,
                  MatrixView<float> grad_x) const;
  void norm(MatrixView<const float> x, std::span<const float> weight, MatrixView<float> y) const;
  void norm_gradient(MatrixView<const float> x, std::span<const float> weight, MatrixView<const float> grad_y,
                     MatrixView<float> grad_x) const;
  [[nodiscard]] Attention attention_of(const Block& block, const BlockTrace& trace) const;
  void forward_attention(const Block& block, std::size_t index, MatrixView<float> x, BlockTrace& trace) const;
  void forward_ffn(const Block& block, std::size_t index, MatrixView<float> x, BlockTrace& trace) const;
  void backward_attention(const Block& block, std::size_t index, const BlockTrace& trace, const BlockGradients& to,
                          bool input_wanted, MatrixView<float> grad) const;
  void backward_ffn(const Block& block, std::size_t index, BlockTrace& trace, const BlockGradients& to,
                    MatrixView<float> grad) const;
  /// The gate and what is multiplied by it become their gradients.
  void gate_gradients(MatrixView<const float> grad_gated, MatrixView<float> gate, MatrixView<float> up,
                      const Backend* backend) const;
  /// x += post_norm(y), or y where the block has no such norm; `raw` keeps y for the way back through the norm.
  void add_output(const Block& block, model::Role post_norm, Matrix y, MatrixView<float> x, Matrix& raw) const;
  /// The gradient of y in that: `grad`, or what `own` then holds.
  [[nodiscard]] MatrixView<const float> output_gradient(const Block& block, model::Role post_norm, const Matrix& raw,
                                                        MatrixView<const float> grad, Matrix& own) const;
  /// Norms each head; what went in is kept in `raw`. Without a weight nothing is done.
  void norm_heads(const std::vector<float>& weight, Matrix& heads, Matrix& raw) const;
  void norm_heads_gradient(const std::vector<float>& weight, const Matrix& raw, Matrix& grad) const;

  const model::Config& config_;
  const RowLayout& layout_;
  train::Dropout dropout_;
  Executor& executor_;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
