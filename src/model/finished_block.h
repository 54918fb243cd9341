// A block as a calibration run leaves it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nibble/matrix/quantized_matrix.h"
#include "nibble/model/calibrate.h"

namespace nibble::inline NIBBLE_ABI::model {

/// What is written of a block instead of the tensors that it had.
struct FinishedBlock {
  struct Layer {
    LayerReport report;
    QuantizedMatrix matrix;
    DType dtype = DType::bf16;  ///< Of the weights before.
  };
  std::vector<Layer> layers;
  std::map<std::string, std::vector<float>> vectors;  ///< Norms and biases that changed.
};

}  // namespace nibble::inline NIBBLE_ABI::model
