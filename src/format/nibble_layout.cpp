#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "description.h"
#include "layer_format.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::format {

std::optional<Description> read_description(const TensorSource& source, const std::string& layer) {
  const auto text = source.find_metadata("nibble." + layer);
  if (!text) return std::nullopt;
  const std::size_t space = text->find(' '), cross = text->find('x', space == std::string::npos ? 0 : space);
  Description d;
  bool ok = space != std::string::npos && cross != std::string::npos;
  const auto number = [&](std::size_t from, std::size_t to, std::size_t& out) {
    const auto [end, error] = std::from_chars(text->data() + from, text->data() + to, out);
    ok = ok && error == std::errc() && end == text->data() + to;
  };
  if (ok) number(space + 1, cross, d.rows);
  if (ok) number(cross + 1, text->size(), d.cols);
  if (!ok)
    refuse(layer + ".weight",
           "the metadata \"nibble." + layer + "\" is '" + *text + "'; '<spec> <rows>x<columns>' is needed");
  d.spec = QuantSpec::parse(std::string_view(*text).substr(0, space));
  check_shape(layer + ".weight", d.rows, d.cols);
  return d;
}

namespace {

std::vector<NamedTensor> declare_native(const std::string& layer, const LayerDescription& d) {
  const std::string prefix = layer + ".weight.nibble.";
  const QuantSpec& spec = d.spec;
  const std::size_t groups = spec.group_count(d.rows, d.cols);
  const DType scale = spec.double_quant ? DType::u8 : dtype_of(spec.scale_type);
  std::vector<NamedTensor> out{{prefix + "codes", DType::u8, {d.rows, packed_bytes(d.cols, spec.bits)}, {}},
                               {prefix + "scales", scale, {groups}, {}}};
  if (spec.has_zero_points())
    out.push_back({prefix + "zero_points",
                   spec.preserve_zero ? DType::u8 : DType::i32,
                   {spec.preserve_zero ? packed_bytes(groups, spec.bits) : groups},
                   {}});
  if (spec.has_real_zeros()) out.push_back({prefix + "zero_points", dtype_of(spec.scale_type), {groups}, {}});
  if (spec.double_quant) {
    out.push_back({prefix + "nested_absmax", DType::f32, {nested_count(groups)}, {}});
    out.push_back({prefix + "nested_map", DType::f32, {256}, {}});
    out.push_back({prefix + "nested_offset", DType::f32, {1}, {}});
  }
  if (spec.has_tensor_scale()) out.push_back({prefix + "tensor_scale", DType::f32, {2}, {}});
  if (d.act_order) out.push_back({prefix + "g_idx", DType::i32, {d.cols}, {}});
  return out;
}

void fill_native(const QuantizedMatrix& q, std::vector<NamedTensor>& t) {
  t[0].bytes = q.codes;
  t[1].bytes = q.scales;
  if (q.spec.has_zero_points()) {
    t[2].bytes = q.zero_points;
    if (q.spec.preserve_zero) {
      t[2].bytes = Buffer::allocate(packed_bytes(q.group_count(), q.spec.bits));
      pack_codes(q.zero_points.as<std::uint8_t>(), q.group_count(), q.spec.bits, t[2].bytes.writable<std::uint8_t>());
    }
  }
  if (q.spec.has_real_zeros()) t[2].bytes = q.zero_points;
  if (q.spec.double_quant) {  // never of integers: no zero points, no g_idx
    t[2].bytes = copy_bytes(q.nested.absmax);
    t[3].bytes = copy_bytes(q.nested.map);
    t[4].bytes = copy_bytes(&q.nested.offset, sizeof(float));
  }
  if (q.spec.has_tensor_scale()) {
    const float said[2] = {q.tensor_scale.value, q.tensor_scale.divides ? 1.0f : 0.0f};
    t[2].bytes = copy_bytes(said, sizeof said);
  }
  if (is_reordered(q)) t.back().bytes = copy_bytes(q.g_idx);
}

QuantizedMatrix decode_native(const TensorSource& source, const std::string& layer) {
  const std::string prefix = layer + ".weight.nibble.";
  const auto d = read_description(source, layer);
  if (!d) refuse(prefix + "codes", "has no metadata \"nibble." + layer + "\" to say what it means");
  const auto declared = declare_native(layer, {d->spec, d->rows, d->cols});
  const NamedTensor codes = need(source, declared[0].name, declared[0].type),
                    scales = need(source, declared[1].name, declared[1].type);
  need_bytes(codes, d->rows * packed_bytes(d->cols, d->spec.bits));

  QuantizedMatrix q = QuantizedMatrix::allocate(d->spec, d->rows, d->cols);
  q.codes = codes.bytes;
  q.scales = scales.bytes;
  if (q.spec.has_zero_points()) {
    const NamedTensor zeros = need(source, prefix + "zero_points", declared[2].type);
    if (q.spec.preserve_zero) {
      need_bytes(zeros, packed_bytes(q.group_count(), q.spec.bits));
      unpack_codes(zeros.bytes.as<std::uint8_t>(), q.group_count(), q.spec.bits,
                   q.zero_points.writable<std::uint8_t>());
    } else {
      q.zero_points = zeros.bytes;
    }
  }
  if (q.spec.has_real_zeros()) q.zero_points = need(source, prefix + "zero_points", declared[2].type).bytes;
  if (q.spec.double_quant) {
    q.nested.absmax = need_floats(source, prefix + "nested_absmax", nested_count(q.group_count()));
    q.nested.map = need_floats(source, prefix + "nested_map", 256);
    q.nested.offset = need_floats(source, prefix + "nested_offset", 1)[0];
  }
  if (q.spec.has_tensor_scale()) {
    const auto said = need_floats(source, prefix + "tensor_scale", 2);
    if (said[1] != 0 && said[1] != 1)
      refuse(prefix + "tensor_scale", "value 1 is neither 0 (a factor) nor 1 (a divisor)");
    q.tensor_scale = {said[0], said[1] == 1};
  }
  q.g_idx = read_g_idx(source, prefix + "g_idx", q.spec, q.cols);
  q.validate(layer + ".weight");
  if (!q.spec.double_quant)
    for (std::size_t g = 0; g < q.group_count(); ++g)
      if (!is_finite(q.scale(g))) refuse(scales.name, "scale " + std::to_string(g) + " is not finite");
  return q;
}

class NibbleFormat final : public LayerFormat {
 public:
  bool holds(const TensorSource& source, const std::string& layer) const override {
    return source.contains(layer + ".weight.nibble.codes");
  }
  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    return decode_native(source, layer);
  }
  std::string obstacle(const LayerDescription&) const override { return {}; }
  std::string value_loss(const QuantizedMatrix& q) const override {
    if (!q.spec.is_codebook()) return {};
    const auto ours = QuantizedMatrix::allocate(q.spec, 1, 1).codebook;
    const auto same = [](float x, float y) { return x == y || (x != x && y != y); };  // a float's NaN is its own
    const auto [a, b] = std::mismatch(q.codebook.begin(), q.codebook.end(), ours.begin(), ours.end(), same);
    if (a == q.codebook.end() && b == ours.end()) return {};
    return "value " + std::to_string(a - q.codebook.begin()) + " of its codebook is not the one " + q.spec.to_string() +
           " has";
  }
  QuantSpec nearest(const LayerDescription& d) const override { return d.spec; }
  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    return declare_native(layer, d);
  }
  void fill(const QuantizedMatrix& q, DType, std::vector<NamedTensor>& t) const override { fill_native(q, t); }
  bool needs_metadata() const override { return true; }
  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun&) const override {
    return nlohmann::ordered_json{{"quant_method", "nibble"},
                                  {"version", 1},
                                  {"modules_to_not_convert", skipped},
                                  {"nibble_spec", layers.front().description.spec.to_string()}}
        .dump();
  }
};

constinit const NibbleFormat kFormat;

}  // namespace

const LayerFormat& nibble_format() { return kFormat; }

}  // namespace nibble::inline NIBBLE_ABI::format
