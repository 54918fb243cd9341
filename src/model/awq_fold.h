// A block's weights in fp32, and AWQ's scales folded into them so that the block computes what it did.
#pragma once

#include <string>
#include <vector>

#include "nibble/model/calibrated_block.h"

namespace nibble::inline NIBBLE_ABI::model {

struct DenseBlock {
  struct DenseMatrix {
    std::size_t rows = 0, cols = 0;
    std::vector<float> weights;  ///< [rows, cols]
    [[nodiscard]] MatrixView<float> view() { return {weights.data(), rows, cols}; }
  };
  std::vector<LayerGroup> groups;                 ///< With the biases and norms that folding changes.
  std::vector<std::vector<DenseMatrix>> linears;  ///< By group and layer.

  [[nodiscard]] DenseMatrix& operator[](LayerId id) { return linears.at(id.group).at(id.layer); }
  [[nodiscard]] CalibratedLayer& layer(LayerId id) { return groups.at(id.group).layers.at(id.layer); }
  static DenseBlock load(CalibratedBlock& block);
};

/// What an input of linear layers is divided by; both empty: it stays.
struct InputScales {
  std::vector<float> scales;  ///< By channel of the input.
  /// By row of the layer that they fold into, where that is not the same: heads that share a value. Else empty.
  std::vector<float> source;
};
using BlockScales = std::vector<InputScales>;  ///< By group.

/// Divides what comes before each input and multiplies the columns of the layers that see it. A norm is stored in its
/// tensor's type, so the scales that fold into one are first changed to what the rounded norm really divides by:
/// nothing is lost but rounding of fp32 (and of a norm's bias in its type).
void fold(DenseBlock& block, BlockScales& scales);

}  // namespace nibble::inline NIBBLE_ABI::model
