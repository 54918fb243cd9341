// A block's weights in fp32, and AWQ's scales folded into them so that the block computes what it did.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "nibble/model/architecture.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

/// In the order of block_linear_names().
struct DenseBlock {
  struct Linear {
    std::string name;
    std::size_t rows = 0, cols = 0;
    std::vector<float> weights, bias;  ///< [rows, cols]; [rows] or empty.
    DType type = DType::f32;           ///< Of the checkpoint's tensor.
    [[nodiscard]] MatrixView<float> view() { return {weights.data(), rows, cols}; }
  };
  std::vector<float> input_norm, post_norm;
  DType norm_type = DType::f32;
  std::array<Linear, 7> linears;

  static DenseBlock load(const Checkpoint& checkpoint, std::size_t index);
};

/// What the inputs of each group of linears are divided by; empty: they stay.
struct BlockScales {
  std::vector<float> attention;  ///< [hidden]: input norm → q, k, v
  std::vector<float> values;     ///< [kv_heads·head_dim]: v → o, by channel of v
  std::vector<float> mixed;      ///< [heads·head_dim]: the same by channel of o's input
  std::vector<float> mlp;        ///< [hidden]: post-attention norm → gate, up
  std::vector<float> down;       ///< [intermediate]: up → down
};

/// Divides the operations before and multiplies the consumers' columns. A norm is stored in its tensor's type, so the
/// scales of `attention` and `mlp` are first changed to what the rounded norm really divides by: nothing is lost but
/// rounding of fp32.
void fold(DenseBlock& block, BlockScales& scales);

}  // namespace nibble::inline NIBBLE_ABI::model
