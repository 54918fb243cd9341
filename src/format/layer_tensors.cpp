#include "layer_tensors.h"

#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string out;
  for (const std::size_t d : shape) out += (out.empty() ? "" : ", ") + std::to_string(d);
  return "[" + out + "]";
}

}  // namespace

void refuse(const std::string& tensor, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, "tensor '" + tensor + "': " + why);
}

NamedTensor need(const TensorSource& source, const std::string& name, DType type) {
  auto t = source.find(name);
  if (!t) refuse(name, "is missing, though its layer is quantized");
  if (t->type != type)
    refuse(name, "has type " + std::string(name_of(t->type)) + "; " + std::string(name_of(type)) + " is needed");
  return *std::move(t);
}

NamedTensor need(const TensorSource& source, const std::string& name, DType type,
                 const std::vector<std::size_t>& shape) {
  NamedTensor t = need(source, name, type);
  need_shape(t, shape);
  return t;
}

std::vector<float> need_floats(const TensorSource& source, const std::string& name, std::size_t count) {
  const NamedTensor t = need(source, name, DType::f32);
  if (t.bytes.size() != count * sizeof(float))
    refuse(name, "has " + std::to_string(t.bytes.size() / sizeof(float)) + " values; " + std::to_string(count) +
                     " are needed");
  need_finite(t);
  std::vector<float> out(count);
  std::memcpy(out.data(), t.bytes.data(), t.bytes.size());
  return out;
}

NamedTensor need_scales(const TensorSource& source, const std::string& name, const std::vector<std::size_t>& shape) {
  auto t = source.find(name);
  if (!t) refuse(name, "is missing, though its layer is quantized");
  if (!is_matrix_type(t->type))
    refuse(name, "has type " + std::string(name_of(t->type)) + "; F32, F16 or BF16 is needed");
  need_shape(*t, shape);
  need_finite(*t);
  return *std::move(t);
}

void need_bytes(const NamedTensor& t, std::size_t bytes) {
  if (t.bytes.size() != bytes)
    refuse(t.name, "has " + std::to_string(t.bytes.size()) + " bytes; " + std::to_string(bytes) + " are needed");
}

void need_shape(const NamedTensor& t, const std::vector<std::size_t>& shape) {
  if (t.shape != shape) refuse(t.name, "has shape " + shape_text(t.shape) + "; " + shape_text(shape) + " is needed");
  std::size_t bytes = size_of(t.type);
  for (const std::size_t d : shape)
    if (__builtin_mul_overflow(bytes, d, &bytes)) refuse(t.name, "has an impossible shape, " + shape_text(shape));
  need_bytes(t, bytes);
}

void need_finite(const NamedTensor& t) {
  const std::size_t count = t.bytes.size() / size_of(t.type);
  for (std::size_t i = 0; i < count; ++i)
    if (!is_finite(float_at(t, i))) refuse(t.name, "value " + std::to_string(i) + " is not finite");
}

void check_shape(const std::string& name, std::size_t rows, std::size_t cols) {
  constexpr std::size_t most = std::size_t{1} << 28;
  if (rows == 0 || cols == 0 || rows > most || cols > most)
    refuse(name, "has an impossible shape, " + shape_text(rows, cols));
}

const LayerQuantization& layer_quantization(const TensorSource& source, const std::string& layer) {
  const QuantizationConfig* config = source.quantization();
  if (config == nullptr)
    throw Error(ErrorCode::not_found, "layer '" + layer +
                                          "' is quantized, but no quantize_config.json, quant_config.json or "
                                          "quantization_config in config.json says how");
  return config->of_layer(layer);
}

QuantSpec affine_spec(const LayerQuantization& as, bool symmetric, DType scale) {
  QuantSpec spec;
  spec.scheme = symmetric ? SchemeKind::symmetric : SchemeKind::asymmetric;
  spec.bits = as.bits;
  spec.granularity = as.granularity;
  spec.group_size = as.granularity == Granularity::group ? as.group_size : 0;
  spec.narrow_range = false;
  spec.scale_type = scale_type_of(scale);
  return spec;
}

std::vector<std::int32_t> read_g_idx(const TensorSource& source, const std::string& name, const QuantSpec& spec,
                                     std::size_t cols) {
  if (!source.find(name)) return {};
  const NamedTensor t = need(source, name, DType::i32, {cols});
  const std::size_t groups = spec.groups_per_row(cols);
  const auto* idx = t.bytes.as<std::int32_t>();
  bool in_order = true;
  for (std::size_t c = 0; c < cols; ++c) {
    if (idx[c] < 0 || static_cast<std::size_t>(idx[c]) >= groups)
      refuse(name, "the group of column " + std::to_string(c) + " is " + std::to_string(idx[c]) + "; it must be 0 to " +
                       std::to_string(groups - 1));
    in_order = in_order && static_cast<std::size_t>(idx[c]) == (groups == 1 ? 0 : c / spec.group_size);
  }
  return in_order ? std::vector<std::int32_t>() : std::vector<std::int32_t>(idx, idx + cols);
}

Buffer write_g_idx(const QuantizedMatrix& q) {
  if (!q.g_idx.empty()) return copy_bytes(q.g_idx);
  Buffer out = Buffer::allocate(q.cols * sizeof(std::int32_t));
  if (q.spec.granularity == Granularity::group)
    for (std::size_t c = 0; c < q.cols; ++c)
      out.writable<std::int32_t>()[c] = static_cast<std::int32_t>(c / q.spec.group_size);
  return out;
}

bool is_reordered(const QuantizedMatrix& q) {
  for (std::size_t c = 0; c < q.g_idx.size(); ++c)
    if (static_cast<std::size_t>(q.g_idx[c]) != (q.spec.granularity == Granularity::group ? c / q.spec.group_size : 0))
      return true;
  return false;
}

ScaleType scale_type_of(DType type) {
  for (const ScaleType known : kScaleTypes)
    if (dtype_of(known) == type) return known;
  return ScaleType::f32;
}

float float_at(const NamedTensor& t, std::size_t i) { return nibble::float_at(t.type, t.bytes.data(), i); }

std::string inexact_scale(const QuantizedMatrix& q, ScaleType type) {
  if (type == ScaleType::f32 || type == q.spec.scale_type) return {};
  for (std::size_t g = 0; g < q.group_count(); ++g) {
    const float exact = q.scale(g);
    if (visit_scale(type, [&]<class T>(T) { return static_cast<float>(T(exact)) != exact; }))
      return "the scale of group " + std::to_string(g) + ", " + std::to_string(exact) + ", is not exact in " +
             std::string(name_of(dtype_of(type)));
  }
  return {};
}

Buffer scales_in(const QuantizedMatrix& q, ScaleType type) {
  if (type == q.spec.scale_type) return q.scales;
  Buffer out = Buffer::allocate(q.group_count() * static_cast<std::size_t>(scale_bytes(type)));
  for (std::size_t g = 0; g < q.group_count(); ++g) store_scale(type, out.writable<std::byte>(), g, q.scale(g));
  return out;
}

std::string shape_text(std::size_t rows, std::size_t cols) {
  return std::to_string(rows) + " × " + std::to_string(cols);
}

}  // namespace nibble::inline NIBBLE_ABI::format
