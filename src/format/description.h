// "<spec> <rows>x<cols>": how a file's metadata describes a layer of ours.
#pragma once

#include <optional>
#include <string>

#include "nibble/format/quantized_tensors.h"

namespace nibble::inline NIBBLE_ABI::format {

struct Description {
  QuantSpec spec;
  std::size_t rows = 0, cols = 0;
};

/// The metadata "nibble.L"; nothing if there is none. Error{corrupt_file} names the layer and quotes a bad one.
std::optional<Description> read_description(const TensorSource& source, const std::string& layer);

}  // namespace nibble::inline NIBBLE_ABI::format
