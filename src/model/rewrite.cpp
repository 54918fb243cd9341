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

LayerDescription Rewrite::described(const LinearTensor& linear, const QuantSpec& spec) const {
  const auto& shape = linear.matrices == 0 ? in.matrix_info(linear.tensor).shape : in.stack_info(linear.tensor).shape;
  return {spec, shape[shape.size() - 2], shape.back()};
}

std::string Rewrite::choose_layout(const QuantSpec& spec, const std::map<std::string, LinearTensor>& linears) {
  layout_ = default_layout(spec);
  for (const auto& [tensor, linear] : linears) {
    described_ = described(linear, spec);
    const std::string why = loss_in(layout_, described_);
    if (why.empty()) continue;
    const std::string home(name_of(layout_));
    layout_ = CheckpointLayout::nibble;
    return "layer '" + linear.layer + "' cannot be stored in the layout " + home + " (" + why +
           "); the model is in nibble's own layout, which other programs do not read";
  }
  return {};
}

void Rewrite::declare_quantized(const LinearTensor& linear, DType type) {
  LayerDescription d = described(linear, described_.spec);
  d.dtype = type;
  for (const std::string& layer : linear.layers()) {
    for (const NamedTensor& n : nibble::declare_quantized(layout_, layer, d)) declare(n.name, n.type, n.shape);
    if (const auto entry = quantized_metadata(layout_, layer, d)) metadata.insert(*entry);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
