#include "nibble/format/quantized_tensors.h"

#include <algorithm>
#include <array>

#include "layer_format.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "undecoded.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

struct Entry {
  CheckpointLayout layout;
  std::string_view name;
};

constexpr std::array<Entry, 10> kLayouts{{{CheckpointLayout::nibble, "nibble"},
                                          {CheckpointLayout::bitsandbytes, "bitsandbytes"},
                                          {CheckpointLayout::gptq, "gptq"},
                                          {CheckpointLayout::gptq_v2, "gptq-v2"},
                                          {CheckpointLayout::awq_gemm, "awq"},
                                          {CheckpointLayout::awq_gemv, "awq-gemv"},
                                          {CheckpointLayout::awq_gemv_fast, "awq-gemv-fast"},
                                          {CheckpointLayout::compressed_tensors, "compressed-tensors"},
                                          {CheckpointLayout::fp8, "fp8"},
                                          {CheckpointLayout::modelopt, "modelopt"}}};

[[noreturn]] void cannot_hold(CheckpointLayout layout, const std::string& layer, const std::string& why) {
  throw Error(ErrorCode::unsupported,
              "layer '" + layer + "' cannot be stored in the layout " + std::string(name_of(layout)) + ": " + why);
}

}  // namespace

const format::LayerFormat& format::format_of(CheckpointLayout layout) {
  switch (layout) {
    case CheckpointLayout::nibble: break;
    case CheckpointLayout::bitsandbytes: return bitsandbytes_format();
    case CheckpointLayout::gptq: return gptq_format(false);
    case CheckpointLayout::gptq_v2: return gptq_format(true);
    case CheckpointLayout::awq_gemm: return awq_format(AwqKind::gemm);
    case CheckpointLayout::awq_gemv: return awq_format(AwqKind::gemv);
    case CheckpointLayout::awq_gemv_fast: return awq_format(AwqKind::gemv_fast);
    case CheckpointLayout::compressed_tensors: return compressed_tensors_format();
    case CheckpointLayout::fp8: return fp8_format();
    case CheckpointLayout::modelopt: return modelopt_format();
  }
  return nibble_format();
}

std::string_view name_of(CheckpointLayout layout) {
  for (const Entry& e : kLayouts)
    if (e.layout == layout) return e.name;
  return "?";
}

CheckpointLayout parse_checkpoint_layout(std::string_view name) {
  std::string known;
  for (const Entry& e : kLayouts) {
    if (e.name == name) return e.layout;
    known += (known.empty() ? "" : ", ") + std::string(e.name);
  }
  throw Error(ErrorCode::invalid_argument, "there is no layout '" + std::string(name) + "'; there are " + known);
}

std::span<const CheckpointLayout> checkpoint_layouts() {
  static constexpr auto all = [] {
    std::array<CheckpointLayout, kLayouts.size()> out{};
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = kLayouts[i].layout;
    return out;
  }();
  return all;
}

LayerDescription LayerDescription::of(const QuantizedMatrix& q, DType dtype) {
  return {q.spec, q.rows, q.cols, format::is_reordered(q), dtype};
}

namespace {

/// One row of whole groups.
LayerDescription a_layer_of(const QuantSpec& spec) { return {spec, 1, std::max<std::size_t>(spec.group_size, 1)}; }

}  // namespace

CheckpointLayout default_layout(const QuantSpec& spec) {
  if (spec.has_float_codes())
    return format::compressed_tensors_format().obstacle(a_layer_of(spec)).empty() ? CheckpointLayout::compressed_tensors
                                                                                  : CheckpointLayout::nibble;
  const bool there = format::bitsandbytes_format().obstacle({spec, 1, 1}).empty();
  const bool narrow_scales = spec.is_affine() && spec.scale_type != ScaleType::f32;
  return there && !narrow_scales ? CheckpointLayout::bitsandbytes : CheckpointLayout::nibble;
}

std::optional<CheckpointLayout> layout_of(const TensorSource& source, const std::string& layer) {
  std::optional<CheckpointLayout> held;
  if (!format::is_only_weight(source, layer))
    for (const CheckpointLayout layout : checkpoint_layouts())
      if (!held && format::format_of(layout).holds(source, layer)) held = layout;
  const QuantizationConfig* config = source.quantization();
  if (!held && (config == nullptr || config->method().empty()) && source.contains(layer + ".qweight"))
    throw Error(ErrorCode::not_found, "tensor '" + layer +
                                          ".qweight' is GPTQ's or AWQ's, and no quantize_config.json, "
                                          "quant_config.json or quantization_config in config.json says which");
  format::check_decoded(source, layer, held);
  return held;
}

std::optional<QuantizedMatrix> decode_quantized(const TensorSource& source, const std::string& layer) {
  const auto layout = layout_of(source, layer);
  if (!layout) return std::nullopt;
  return format::format_of(*layout).decode(source, layer);
}

std::optional<std::string> layer_of_tensor(std::string_view tensor) {
  constexpr std::string_view inside = ".weight.";  // bitsandbytes' and our own parts of a weight
  if (const std::size_t at = tensor.rfind(inside); at != std::string_view::npos)
    return std::string(tensor.substr(0, at));
  if (auto layer = format::layer_of_part(tensor)) return layer;
  constexpr std::string_view weight = ".weight";
  if (tensor.ends_with(weight)) return std::string(tensor.substr(0, tensor.size() - weight.size()));
  return std::nullopt;
}

std::string loss_in(CheckpointLayout layout, const LayerDescription& d) {
  const auto& format = format::format_of(layout);
  if (std::string why = format.obstacle(d); !why.empty()) return why;
  const QuantSpec nearest = format.nearest(d);
  if (nearest.scale_type == d.spec.scale_type || scale_bytes(nearest.scale_type) == 4) return {};
  return "its scales are " + std::string(name_of(dtype_of(d.spec.scale_type))) + "; the layout has " +
         std::string(name_of(dtype_of(nearest.scale_type)));
}

std::string loss_in(CheckpointLayout layout, const QuantizedMatrix& q) {
  q.validate_layout("matrix");
  const auto& format = format::format_of(layout);
  if (std::string why = format.obstacle(LayerDescription::of(q)); !why.empty()) return why;
  if (std::string why = format.value_loss(q); !why.empty()) return why;
  return format.tolerated_loss(q);
}

QuantSpec nearest_spec(CheckpointLayout layout, const LayerDescription& d) {
  if (loss_in(layout, d).empty()) return d.spec;
  return format::format_of(layout).nearest(d);
}

QuantizedMatrix with_scale_type(QuantizedMatrix q, ScaleType type, const std::string& name) {
  q.validate(name);
  if (type == q.spec.scale_type) return q;
  if (type == ScaleType::e8m0 || type == ScaleType::e4m3)
    throw Error(ErrorCode::invalid_argument, "layer '" + name + "': scales of type " + std::string(name_of(type)) +
                                                 " are fitted together with the codes; quantize anew");
  q.scales = format::scales_in(q, type);
  q.spec.scale_type = type;
  q.spec.scale_rule = q.spec.default_scale_rule();
  q.tensor_scale = {};
  for (std::size_t g = 0; g < q.group_count(); ++g)
    if (!is_finite(q.scale(g)))
      throw Error(ErrorCode::non_finite, "layer '" + name + "': the scale of group " + std::to_string(g) +
                                             " is beyond the range of " + std::string(name_of(dtype_of(type))));
  return q;
}

std::vector<NamedTensor> declare_quantized(CheckpointLayout layout, const std::string& layer,
                                           const LayerDescription& d) {
  const auto& format = format::format_of(layout);
  if (const std::string why = format.obstacle(d); !why.empty()) cannot_hold(layout, layer, why);
  return format.declare(layer, d);
}

std::vector<NamedTensor> encode_quantized(CheckpointLayout layout, const std::string& layer, const QuantizedMatrix& q,
                                          DType dtype) {
  q.validate(layer);
  auto tensors = declare_quantized(layout, layer, LayerDescription::of(q, dtype));
  const auto& format = format::format_of(layout);
  if (const std::string why = format.value_loss(q); !why.empty()) cannot_hold(layout, layer, why);
  format.fill(q, dtype, tensors);
  return tensors;
}

std::optional<std::pair<std::string, std::string>> quantized_metadata(CheckpointLayout layout, const std::string& layer,
                                                                      const LayerDescription& d) {
  if (!format::format_of(layout).needs_metadata()) return std::nullopt;
  return quantized_metadata(layer, d.spec, d.rows, d.cols);
}

std::string quantization_config(CheckpointLayout layout, const std::vector<QuantizedLayer>& layers,
                                const std::vector<std::string>& skipped_modules, const QuantizationRun& run) {
  if (layers.empty())
    throw Error(ErrorCode::invalid_argument, "quantization_config: a model without quantized layers has none");
  for (const QuantizedLayer& l : layers)
    if (const std::string why = format::format_of(layout).obstacle(l.description); !why.empty())
      cannot_hold(layout, l.name, why);
  return format::format_of(layout).config(layers, skipped_modules, run);
}

std::vector<NamedTensor> declare_quantized(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                           std::size_t cols, DType dtype) {
  return declare_quantized(default_layout(spec), layer, {spec, rows, cols, false, dtype});
}

std::vector<NamedTensor> encode_quantized(const std::string& layer, const QuantizedMatrix& q, DType dtype) {
  return encode_quantized(default_layout(q.spec), layer, q, dtype);
}

std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantSpec& spec,
                                                       std::size_t rows, std::size_t cols) {
  return {"nibble." + layer, spec.to_string() + " " + std::to_string(rows) + "x" + std::to_string(cols)};
}

std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantizedMatrix& q) {
  return quantized_metadata(layer, q.spec, q.rows, q.cols);
}

std::string quantization_config(const QuantSpec& spec, const std::vector<std::string>& skipped_modules) {
  return quantization_config(default_layout(spec), {{"*", a_layer_of(spec)}}, skipped_modules);
}

}  // namespace nibble::inline NIBBLE_ABI
