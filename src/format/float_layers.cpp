#include "float_layers.h"

#include <algorithm>

#include "layer_tensors.h"
#include "nibble/core/error.h"
#include "nibble/matrix/scheme_registry.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

/// The type of a tensor of such codes.
DType codes_type(SchemeKind kind) {
  if (kind == SchemeKind::e4m3) return DType::f8_e4m3;
  return kind == SchemeKind::e5m2 ? DType::f8_e5m2 : DType::u8;
}

/// Shapes in which a layout may have the scales, the usual one first.
std::vector<std::vector<std::size_t>> scale_shapes(const QuantSpec& spec, std::size_t rows, std::size_t cols) {
  switch (spec.granularity) {
    case Granularity::tensor: return {{1}, {}, {1, 1}};
    case Granularity::channel: return {{rows, 1}, {rows}};
    default: break;
  }
  const std::size_t per_row = spec.groups_per_row(cols);
  return {{spec.group_count(rows, cols) / per_row, per_row}};
}

NamedTensor read_scale_tensor(const TensorSource& source, const std::string& name, const QuantSpec& spec,
                              std::size_t rows, std::size_t cols) {
  auto t = source.find(name);
  if (!t) refuse(name, "is missing, though its layer is quantized");
  const auto allowed = scale_shapes(spec, rows, cols);
  const auto as_it_is = std::find(allowed.begin(), allowed.end(), t->shape);
  need_shape(*t, as_it_is == allowed.end() ? allowed.front() : *as_it_is);
  return *std::move(t);
}

float read_tensor_scale(const TensorSource& source, const std::string& name) {
  const auto t = source.find(name);
  if (!t) refuse(name, "is missing, though its layer is quantized");
  if (t->type != DType::f32 || t->bytes.size() != sizeof(float))
    refuse(name, "is no single F32 value, which the scale of a tensor is");
  return float_at(*t, 0);
}

}  // namespace

FloatShape float_shape(const NamedTensor& codes, int bits) {
  if (codes.shape.size() != 2) refuse(codes.name, "must have two dimensions");
  const std::size_t rows = codes.shape[0], bytes = codes.shape[1], width = static_cast<std::size_t>(bits);
  check_shape(codes.name, rows, bytes);
  if (bytes * 8 % width != 0)
    refuse(codes.name, "has " + std::to_string(bytes) + " bytes a row, which hold no whole number of codes of " +
                           std::to_string(bits) + " bits");
  return {rows, bytes * 8 / width};
}

std::optional<ScaleType> float_scale_type(DType type) {
  if (type == DType::u8) return ScaleType::e8m0;
  for (const ScaleType known : kScaleTypes)
    if (dtype_of(known) == type) return known;
  return std::nullopt;
}

QuantizedMatrix read_floats(const TensorSource& source, const FloatTensors& names, QuantSpec spec) {
  auto codes = source.find(names.codes);
  if (!codes) refuse(names.codes, "is missing, though its layer is quantized");
  const DType needed = codes_type(spec.scheme);
  if (codes->type != needed && !(needed == DType::u8 && codes->type == DType::i8))
    refuse(names.codes, "has type " + std::string(name_of(codes->type)) + "; " + std::string(name_of(needed)) +
                            " is needed for " + std::string(scheme_entry(spec.scheme)->name));
  const auto [rows, cols] = float_shape(*codes, spec.bits);
  need_shape(*codes, codes->shape);
  const NamedTensor scales = read_scale_tensor(source, names.scales, spec, rows, cols);
  const auto type = float_scale_type(scales.type);
  if (!type || (*type == ScaleType::e4m3) != !names.tensor_scale.empty())
    refuse(names.scales, "has type " + std::string(name_of(scales.type)) + ", which no scale of " +
                             std::string(scheme_entry(spec.scheme)->name) + " has in this layout");
  spec.scale_type = *type;
  spec.scale_rule = spec.default_scale_rule();  // how they were fitted, nobody says
  QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
  q.codes = codes->bytes;
  q.scales = scales.bytes;
  if (!names.tensor_scale.empty()) q.tensor_scale = {read_tensor_scale(source, names.tensor_scale), names.divides};
  q.validate(names.codes);
  return q;
}

std::vector<NamedTensor> declare_floats(const FloatTensors& names, const LayerDescription& d, DType scale_type,
                                        std::vector<std::size_t> scale_shape) {
  std::vector<NamedTensor> out{
      {names.codes, codes_type(d.spec.scheme), {d.rows, packed_bytes(d.cols, d.spec.bits)}, {}},
      {names.scales, scale_type, std::move(scale_shape), {}}};
  if (!names.tensor_scale.empty()) {
    out.push_back({names.tensor_scale, DType::f32, {}, {}});
    if (names.divides) out.back().shape = {1};
  }
  return out;
}

void fill_floats(const FloatTensors& names, const QuantizedMatrix& q, std::vector<NamedTensor>& tensors) {
  tensors[0].bytes = q.codes;
  tensors[1].bytes = q.scales;
  if (names.tensor_scale.empty()) return;
  const TensorScale t = q.tensor_scale;
  const float value = t.divides == names.divides ? t.value : 1 / t.value;
  tensors[2].bytes = copy_bytes(&value, sizeof value);
}

namespace {

[[noreturn]] void refuse_unused(const std::string& tensor) {
  throw Error(ErrorCode::unsupported,
              "tensor '" + tensor +
                  "' is there, which a layer stored so has no use for: without it this would be "
                  "another weight");
}

bool needs_reciprocal(const FloatTensors& names, const QuantizedMatrix& q) {
  return !names.tensor_scale.empty() && q.tensor_scale.divides != names.divides;
}

}  // namespace

void need_absent(const TensorSource& source, const std::string& tensor) {
  if (source.contains(tensor)) refuse_unused(tensor);
}

void need_zeros(const TensorSource& source, const std::string& tensor) {
  const auto t = source.find(tensor);
  if (!t) return;
  const auto* bytes = t->bytes.as<std::uint8_t>();
  if (std::any_of(bytes, bytes + t->bytes.size(), [](std::uint8_t b) { return b != 0; })) refuse_unused(tensor);
}

std::string reciprocal_obstacle(const FloatTensors& names, const QuantizedMatrix& q) {
  if (!needs_reciprocal(names, q)) return {};
  const float value = 1 / q.tensor_scale.value;
  if (is_finite(value) && value > 0) return {};
  return "the scale of the whole tensor, " + std::to_string(q.tensor_scale.value) + ", has no reciprocal in F32";
}

std::string reciprocal_loss(const FloatTensors& names, const QuantizedMatrix& q) {
  if (!needs_reciprocal(names, q)) return {};
  return std::string("the scale of the whole tensor is ") + (names.divides ? "multiplied by" : "divided by") +
         ", and is written as its reciprocal: values may differ in their last bit";
}

std::string whole_groups_obstacle(const LayerDescription& d, const char* readers) {
  if (d.spec.granularity != Granularity::group || d.cols % d.spec.group_size == 0) return {};
  return "its " + std::to_string(d.cols) + " columns are no multiple of the group size " +
         std::to_string(d.spec.group_size) + ", as " + readers + " ask";
}

}  // namespace nibble::inline NIBBLE_ABI::format
