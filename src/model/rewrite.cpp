#include "rewrite.h"

namespace nibble::inline NIBBLE_ABI::model {

std::string Rewrite::quantized_layer(const TensorInfo& t) const {
  const auto layer = layer_of_tensor(t.name);
  return layer && layout_of(in, *layer) ? *layer : std::string();
}

std::vector<float> Rewrite::decoded(const QuantizedMatrix& q) const {
  std::vector<float> values(q.rows * q.cols);
  backend().dequantize(q, 0, {values.data(), q.rows, q.cols}, executor());
  return values;
}

void Rewrite::declare_quantized(const LinearTensor& linear, const QuantSpec& spec, DType type) {
  const auto& shape = linear.matrices == 0 ? in.matrix_info(linear.tensor).shape : in.stack_info(linear.tensor).shape;
  const std::size_t rows = shape[shape.size() - 2], cols = shape.back();
  for (const std::string& layer : linear.layers()) {
    for (const NamedTensor& n : nibble::declare_quantized(layer, spec, rows, cols, type))
      declare(n.name, n.type, n.shape);
    metadata.insert(quantized_metadata(layer, spec, rows, cols));
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
