// A block's weights in fp32, and AWQ's scales folded into them so that the block computes what it did.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

struct DenseBlock {
  struct Linear {
    std::string name;
    std::size_t rows = 0, cols = 0;
    std::vector<float> weights, bias;  ///< [rows, cols]; [rows] or empty.
    DType type = DType::f32;           ///< Of the checkpoint's tensor.
    [[nodiscard]] MatrixView<float> view() { return {weights.data(), rows, cols}; }
  };
  struct Norm {
    std::string name;
    std::vector<float> weight;
    DType type = DType::f32;
  };
  std::array<Linear, kLinearRoles> linears;  ///< By role.
  std::map<Role, Norm> norms;                ///< Those that an input's scales fold into.

  [[nodiscard]] Linear& operator[](Role role) { return linears.at(static_cast<std::size_t>(role)); }
  static DenseBlock load(const Checkpoint& checkpoint, const Architecture& architecture, std::size_t index);
};

/// What an input of linear layers is divided by; both empty: it stays.
struct InputScales {
  std::vector<float> scales;  ///< By channel of the input.
  /// By channel of what comes before it, where that is not the same: heads that share a value. Else empty.
  std::vector<float> source;
};
using BlockScales = std::array<InputScales, kInputs>;  ///< By Input.

/// Divides what comes before each input and multiplies the columns of the layers that see it. A norm is stored in its
/// tensor's type, so the scales that fold into one are first changed to what the rounded norm really divides by:
/// nothing is lost but rounding of fp32.
void fold(const Architecture& architecture, DenseBlock& block, BlockScales& scales);

}  // namespace nibble::inline NIBBLE_ABI::model
