#include "nibble/format/modelopt.h"

#include "config_writer.h"
#include "float_layers.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

bool is_of_method(const TensorSource& source) {
  const QuantizationConfig* config = source.quantization();
  return config != nullptr && config->method().starts_with("modelopt");
}

FloatTensors names_of(const std::string& layer, bool nested) {
  return {layer + ".weight", layer + ".weight_scale", nested ? layer + ".weight_scale_2" : std::string(), false};
}

/// The spec, but for the scales' type, by what the tensors are.
QuantSpec spec_of(const NamedTensor& codes, const NamedTensor& scales) {
  const bool powers = scales.type == DType::u8 || scales.type == DType::f8_e8m0;
  if (codes.type == DType::u8 && !powers && scales.type != DType::f8_e4m3)
    throw Error(ErrorCode::unsupported, "tensor '" + codes.name + "' is ModelOpt's, with scales of type " +
                                            std::string(name_of(scales.type)) +
                                            ": its integers (INT4-AWQ, W4A8) are not read; its floats are");
  if (codes.type == DType::u8) return QuantSpec::parse(powers ? "mxfp4" : "nvfp4");
  if (powers) return QuantSpec::parse("mxfp8");
  if (scales.shape.empty() || scales.shape == std::vector<std::size_t>{1}) return QuantSpec::parse("e4m3-tensor");
  if (scales.shape.size() == 1 || (scales.shape.size() == 2 && scales.shape[1] == 1 && codes.shape.size() == 2 &&
                                   scales.shape[0] == codes.shape[0]))
    return QuantSpec::parse("e4m3-channel");
  return QuantSpec::parse("e4m3-t128");  // FP8_PB_WO
}

class ModeloptFormat final : public LayerFormat {
 public:
  bool holds(const TensorSource& source, const std::string& layer) const override {
    if (!is_of_method(source) || !source.contains(layer + ".weight_scale")) return false;
    const auto weight = source.describe(layer + ".weight");
    return weight && (weight->type == DType::u8 || weight->type == DType::f8_e4m3);
  }

  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    const FloatTensors plain = names_of(layer, false);
    const QuantSpec spec = spec_of(*source.describe(plain.codes), *source.describe(plain.scales));
    if (!spec.has_tensor_scale()) need_absent(source, layer + ".weight_scale_2");
    return read_floats(source, names_of(layer, spec.has_tensor_scale()), spec);
  }

  std::string obstacle(const LayerDescription& d) const override {
    const QuantSpec& s = d.spec;
    const bool nvfp4 = is_nvfp4(s);
    if (!nvfp4 && !(s.scheme == SchemeKind::e4m3 && s.scale_type == ScaleType::f32 &&
                    (s.granularity == Granularity::tensor || s.granularity == Granularity::channel)))
      return s.to_string() + "; the layout is written for nvfp4, e4m3-tensor and e4m3-channel";
    if (d.act_order) return "its groups are in act-order (g_idx), which nibble's layout alone has of floats";
    return whole_groups_obstacle(d, "ModelOpt's readers");
  }
  QuantSpec nearest(const LayerDescription& d) const override {
    return QuantSpec::parse(d.spec.bits <= 4                            ? "nvfp4"
                            : d.spec.granularity == Granularity::tensor ? "e4m3-tensor"
                                                                        : "e4m3-channel");
  }
  std::string value_loss(const QuantizedMatrix& q) const override {
    return reciprocal_obstacle(names_of("", q.spec.has_tensor_scale()), q);
  }
  std::string tolerated_loss(const QuantizedMatrix& q) const override {
    return reciprocal_loss(names_of("", q.spec.has_tensor_scale()), q);
  }

  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    std::vector<std::size_t> shape;
    if (d.spec.granularity == Granularity::channel) shape = {d.rows};
    if (d.spec.granularity == Granularity::group) shape = {d.rows, d.spec.groups_per_row(d.cols)};
    return declare_floats(names_of(layer, d.spec.has_tensor_scale()), d, dtype_of(d.spec.scale_type), shape);
  }
  void fill(const QuantizedMatrix& q, DType, std::vector<NamedTensor>& t) const override {
    fill_floats(names_of("", q.spec.has_tensor_scale()), q, t);
  }

  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun&) const override {
    return modelopt_config(layers, skipped);
  }

 private:
  static bool is_nvfp4(const QuantSpec& s) {
    return s.scheme == SchemeKind::e2m1 && s.scale_type == ScaleType::e4m3 && s.group_size == 16;
  }
};

constinit const ModeloptFormat kFormat;

}  // namespace

const LayerFormat& modelopt_format() { return kFormat; }

}  // namespace nibble::inline NIBBLE_ABI::format
