// Layers whose codes are small floats, wherever a layout keeps their tensors.
//
// Codes of 8 bits are a tensor F8_E4M3 or F8_E5M2 [N, K]; narrower ones U8 (or I8) [N, row bytes], each row the
// canonical LSB-first stream: two E2M1 to a byte, four E2M3 to three. Scales: F32, F16 or BF16; U8 or F8_E8M0 (powers
// of two); F8_E4M3, with one more of the tensor.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "layer_format.h"

namespace nibble::inline NIBBLE_ABI::format {

/// The names of a layer's tensors in a layout, and how it has the scale of the whole tensor.
struct FloatTensors {
  std::string codes, scales;
  std::string tensor_scale = {};  ///< Empty: the layout has none.
  bool divides = true;            ///< TensorScale::divides
};

/// Rows and columns that a tensor of such codes holds, by its shape. Error{corrupt_file} if it can be none.
struct FloatShape {
  std::size_t rows, cols;
};
FloatShape float_shape(const NamedTensor& codes, int bits);

/// The type of a tensor of scales as a spec has it; nothing for a type that holds none.
std::optional<ScaleType> float_scale_type(DType type);

/// The layer: `spec` but for its scale type, which the tensor says. A scale for each row may be [N] or [N, 1], one for
/// the tensor [], [1] or [1, 1].
QuantizedMatrix read_floats(const TensorSource& source, const FloatTensors& names, QuantSpec spec);

/// The same tensors to be written; `scale_type` and `scale_shape` as the layout has them.
std::vector<NamedTensor> declare_floats(const FloatTensors& names, const LayerDescription& d, DType scale_type,
                                        std::vector<std::size_t> scale_shape);
/// Fills what declare_floats gave. A tensor's scale of the other kind is written as its reciprocal.
void fill_floats(const FloatTensors& names, const QuantizedMatrix& q, std::vector<NamedTensor>& tensors);

/// Error{unsupported} where there is a tensor that a layer of this form has no use for: what is read without it would
/// be another weight.
void need_absent(const TensorSource& source, const std::string& tensor);
/// The same unless all its bytes are 0.
void need_zeros(const TensorSource& source, const std::string& tensor);

/// Why the scale of the whole tensor cannot be written as its reciprocal; empty if it can or need not.
std::string reciprocal_obstacle(const FloatTensors& names, const QuantizedMatrix& q);
/// Why scales do not come back as they are; empty if they do: a reciprocal is rounded.
std::string reciprocal_loss(const FloatTensors& names, const QuantizedMatrix& q);
/// Why groups cannot be stored where readers ask for whole ones; empty if they can.
std::string whole_groups_obstacle(const LayerDescription& d, const char* readers);

}  // namespace nibble::inline NIBBLE_ABI::format
