#include "nibble/format/fp8.h"

#include <algorithm>

#include "config_writer.h"
#include "float_layers.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

constexpr const char* kBlockScale = ".weight_scale_inv";
constexpr const char* kPlainScale = ".weight_scale";

bool is_of_method(const TensorSource& source) {
  const QuantizationConfig* config = source.quantization();
  return config != nullptr && (config->method() == "fp8" || config->method() == "fbgemm_fp8");
}

bool is_code_type(DType type) { return type == DType::f8_e4m3 || type == DType::f8_e5m2 || type == DType::i8; }

std::string scale_name(const TensorSource& source, const std::string& layer) {
  return layer + (source.contains(layer + kBlockScale) ? kBlockScale : kPlainScale);
}

/// What the shape of the scales says: one, one a row, or by what the configuration has for blocks.
void share_scales(const TensorSource& source, const std::string& layer, const NamedTensor& scales, std::size_t rows,
                  QuantSpec& spec) {
  const LayerQuantization& as = layer_quantization(source, layer);
  const bool in_blocks = as.granularity == Granularity::tile || as.granularity == Granularity::group;
  const bool is_single = std::all_of(scales.shape.begin(), scales.shape.end(), [](std::size_t d) { return d == 1; });
  const bool is_of_rows = scales.shape == std::vector{rows} || scales.shape == std::vector{rows, std::size_t{1}};
  spec.group_size = in_blocks ? as.group_size : 0;
  spec.granularity = in_blocks ? as.granularity : is_single ? Granularity::tensor : Granularity::channel;
  if (!in_blocks && !is_single && !is_of_rows)
    throw Error(ErrorCode::unsupported, "tensor '" + scales.name +
                                            "' has more than one scale and not one a row, and the configuration has "
                                            "no weight_block_size that says which weights share one");
}

class Fp8Format final : public LayerFormat {
 public:
  bool holds(const TensorSource& source, const std::string& layer) const override {
    if (!is_of_method(source)) return false;
    const auto weight = source.describe(layer + ".weight");
    return weight && is_code_type(weight->type) &&
           (source.contains(layer + kBlockScale) || source.contains(layer + kPlainScale));
  }

  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    const FloatTensors names{layer + ".weight", scale_name(source, layer)};
    if (names.scales.ends_with(kBlockScale)) need_absent(source, layer + kPlainScale);
    const auto codes = source.describe(names.codes), scales = source.describe(names.scales);
    const LayerQuantization& as = layer_quantization(source, layer);
    if (!as.obstacle.empty())
      throw Error(ErrorCode::unsupported, "tensor '" + names.codes + "' is in fp8: " + as.obstacle);
    QuantSpec spec = QuantSpec::parse(codes->type == DType::f8_e5m2 ? "e5m2" : "e4m3");
    if (codes->type == DType::i8) spec = QuantSpec::parse("mxfp4");  // experts, two E2M1 to a byte
    else share_scales(source, layer, *scales, float_shape(*codes, spec.bits).rows, spec);
    return read_floats(source, names, spec);
  }

  std::string obstacle(const LayerDescription& d) const override {
    const QuantSpec& s = d.spec;
    if (s.scheme != SchemeKind::e4m3) return s.to_string() + "; the layout holds E4M3";
    if (s.granularity != Granularity::tensor && s.granularity != Granularity::tile)
      return s.to_string() + "; here a tile of rows and columns has a scale, or the tensor";
    if (s.scale_type != ScaleType::f32 && s.scale_type != ScaleType::e8m0)
      return "its scales are " + std::string(name_of(s.scale_type)) + "; here they are F32 or powers of two";
    return {};
  }
  QuantSpec nearest(const LayerDescription& d) const override {
    const bool whole = d.spec.granularity == Granularity::tensor;
    return QuantSpec::parse(whole ? "e4m3-tensor" : "e4m3-t128");
  }

  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    std::vector<std::size_t> shape;
    if (d.spec.granularity == Granularity::tile) {
      const std::size_t per_row = d.spec.groups_per_row(d.cols);
      shape = {d.spec.group_count(d.rows, d.cols) / per_row, per_row};
    }
    return declare_floats(names_of(layer), d, dtype_of(d.spec.scale_type), shape);
  }
  void fill(const QuantizedMatrix& q, DType, std::vector<NamedTensor>& t) const override {
    fill_floats(names_of(""), q, t);
  }

  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun&) const override {
    return fp8_config(layers, skipped);
  }

 private:
  static FloatTensors names_of(const std::string& layer) { return {layer + ".weight", layer + kBlockScale}; }
};

constinit const Fp8Format kFormat;

}  // namespace

const LayerFormat& fp8_format() { return kFormat; }

}  // namespace nibble::inline NIBBLE_ABI::format
