#include <charconv>
#include <nlohmann/json.hpp>

#include "nibble/core/error.h"
#include "quantized_tensors_internal.h"

namespace nibble {

namespace {

[[noreturn]] void refuse(const std::string& tensor, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, "tensor '" + tensor + "': " + why);
}

NamedTensor need(const TensorSource& source, const std::string& name, DType type) {
  auto t = source.find(name);
  if (!t) refuse(name, "is missing, though its layer is quantized");
  if (t->type != type)
    refuse(name, "has type " + std::string(name_of(t->type)) + "; " + std::string(name_of(type)) + " is needed");
  return *std::move(t);
}

std::vector<float> need_floats(const TensorSource& source, const std::string& name, std::size_t count) {
  const NamedTensor t = need(source, name, DType::f32);
  if (t.bytes.size() != count * sizeof(float))
    refuse(name, "has " + std::to_string(t.bytes.size() / sizeof(float)) + " values; " + std::to_string(count) +
                     " are needed");
  std::vector<float> out(count);
  std::memcpy(out.data(), t.bytes.data(), t.bytes.size());
  for (std::size_t i = 0; i < count; ++i)
    if (!is_finite(out[i])) refuse(name, "value " + std::to_string(i) + " is not finite");
  return out;
}

void need_bytes(const NamedTensor& t, std::size_t bytes) {
  if (t.bytes.size() != bytes)
    refuse(t.name, "has " + std::to_string(t.bytes.size()) + " bytes; " + std::to_string(bytes) + " are needed");
}

/// Sizes beyond any real matrix, whose products could overflow.
void check_shape(const std::string& name, std::size_t rows, std::size_t cols) {
  constexpr std::size_t most = std::size_t{1} << 28;
  if (rows == 0 || cols == 0 || rows > most || cols > most)
    refuse(name, "has an impossible shape, " + std::to_string(rows) + " × " + std::to_string(cols));
}

/// A field of a quant_state as a positive integer.
std::size_t state_size(const nlohmann::json& value, const std::string& name, const char* field) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() == 0)
    refuse(name, std::string("\"") + field + "\" must be a positive integer");
  return value.get<std::size_t>();
}

const nlohmann::json& state_field(const nlohmann::json& state, const std::string& name, const char* field) {
  const auto it = state.find(field);
  if (it == state.end()) refuse(name, std::string("the field \"") + field + "\" is missing");
  return *it;
}

QuantizedMatrix decode_bnb4(const TensorSource& source, const std::string& layer, SchemeKind kind) {
  const std::string w = layer + ".weight", state_name = format::quant_state_name(layer, kind);
  const NamedTensor state_tensor = need(source, state_name, DType::u8);
  if (state_tensor.bytes.size() > 4096) refuse(state_name, "is longer than any quant_state");
  const auto* text = state_tensor.bytes.as<char>();
  const auto state = nlohmann::json::parse(text, text + state_tensor.bytes.size(), nullptr, false);
  if (!state.is_object()) refuse(state_name, "is not a JSON object");
  const auto& shape = state_field(state, state_name, "shape");
  if (!shape.is_array() || shape.size() != 2) refuse(state_name, "\"shape\" must be [rows, columns]");

  QuantSpec spec = QuantSpec::parse(kind == SchemeKind::nf4 ? "nf4" : "fp4");
  spec.group_size = state_size(state_field(state, state_name, "blocksize"), state_name, "blocksize");
  spec.double_quant = state.contains("nested_offset");
  const std::size_t rows = state_size(shape[0], state_name, "shape"), cols = state_size(shape[1], state_name, "shape");
  check_shape(state_name, rows, cols);
  const NamedTensor packed = need(source, w, DType::u8);
  need_bytes(packed, (rows * cols + 1) / 2);  // before anything of that size is allocated

  QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
  format::bnb4_to_canonical(packed.bytes.as<std::uint8_t>(), q);
  q.codebook = need_floats(source, w + ".quant_map", 16);
  if (!spec.double_quant) {
    q.scales = format::copy_bytes(need_floats(source, w + ".absmax", q.group_count()));
    return q;
  }
  const NamedTensor absmax = need(source, w + ".absmax", DType::u8);
  need_bytes(absmax, q.group_count());
  q.scales = absmax.bytes;
  if (state_size(state_field(state, state_name, "nested_blocksize"), state_name, "nested_blocksize") !=
      NestedScales::block_size)
    refuse(state_name, "\"nested_blocksize\" is not 256, the only one there is");
  if (!state["nested_offset"].is_number()) refuse(state_name, "\"nested_offset\" must be a number");
  q.nested.offset = state["nested_offset"].get<float>();
  if (!is_finite(q.nested.offset)) refuse(state_name, "\"nested_offset\" is not finite");
  q.nested.absmax = need_floats(source, w + ".nested_absmax",
                                (q.group_count() + NestedScales::block_size - 1) / NestedScales::block_size);
  q.nested.map = need_floats(source, w + ".nested_quant_map", 256);
  return q;
}

/// "<spec> <rows>x<cols>" of our metadata.
struct Description {
  QuantSpec spec;
  std::size_t rows = 0, cols = 0;
};

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

QuantizedMatrix decode_bnb8(const TensorSource& source, const std::string& layer) {
  const NamedTensor w = need(source, layer + ".weight", DType::i8);
  if (w.shape.size() != 2) refuse(w.name, "must have two dimensions");
  check_shape(w.name, w.shape[0], w.shape[1]);
  const auto described = read_description(source, layer);
  const QuantSpec spec = described ? described->spec : QuantSpec::parse("llm-int8");
  if (format::layout_of(spec) != format::Layout::bnb8)
    refuse(w.name, "is described as " + spec.to_string() + " but stored in bitsandbytes' 8-bit layout");
  QuantizedMatrix q = QuantizedMatrix::allocate(spec, w.shape[0], w.shape[1]);
  need_bytes(w, q.rows * q.cols);
  auto* codes = q.codes.writable<std::uint8_t>();
  for (std::size_t i = 0; i < w.bytes.size(); ++i) codes[i] = w.bytes.as<std::uint8_t>()[i] ^ 0x80u;
  std::vector<float> scb = need_floats(source, layer + ".SCB", q.rows);
  if (spec.scheme == SchemeKind::symmetric)
    for (float& s : scb) s /= 127.0f;
  q.scales = format::copy_bytes(scb);
  return q;
}

QuantizedMatrix decode_native(const TensorSource& source, const std::string& layer) {
  const std::string prefix = layer + ".weight.nibble.";
  const auto d = read_description(source, layer);
  if (!d) refuse(prefix + "codes", "has no metadata \"nibble." + layer + "\" to say what it means");
  const auto declared = declare_quantized(layer, d->spec, d->rows, d->cols, DType::f32);
  if (!declared[0].name.starts_with(prefix))
    refuse(prefix + "codes", "is described as " + d->spec.to_string() + ", which has another layout");
  const NamedTensor codes = need(source, declared[0].name, declared[0].type),
                    scales = need(source, declared[1].name, declared[1].type);
  need_bytes(codes, d->rows * packed_bytes(d->cols, d->spec.bits));

  QuantizedMatrix q = QuantizedMatrix::allocate(d->spec, d->rows, d->cols);
  q.codes = codes.bytes;
  q.scales = scales.bytes;
  if (q.spec.has_zero_points()) {
    const NamedTensor zeros = need(source, prefix + "zero_points", declared[2].type);
    if (q.spec.hold_zero) {
      need_bytes(zeros, packed_bytes(q.group_count(), q.spec.bits));
      unpack_codes(zeros.bytes.as<std::uint8_t>(), q.group_count(), q.spec.bits,
                   q.zero_points.writable<std::uint8_t>());
    } else {
      q.zero_points = zeros.bytes;
    }
  }
  if (q.spec.double_quant) {
    q.nested.absmax = need_floats(source, prefix + "nested_absmax",
                                  (q.group_count() + NestedScales::block_size - 1) / NestedScales::block_size);
    q.nested.map = need_floats(source, prefix + "nested_map", 256);
    q.nested.offset = need_floats(source, prefix + "nested_offset", 1)[0];
  }
  q.validate(layer + ".weight");
  if (!q.spec.double_quant)
    for (std::size_t g = 0; g < q.group_count(); ++g)
      if (!is_finite(q.scale(g))) refuse(scales.name, "scale " + std::to_string(g) + " is not finite");
  return q;
}

}  // namespace

void format::bnb4_to_canonical(const std::uint8_t* flat, QuantizedMatrix& q) {
  auto* codes = q.codes.writable<std::uint8_t>();
  if (q.cols % 2 == 0) {
    for (std::size_t i = 0; i < q.codes.size(); ++i)
      codes[i] = static_cast<std::uint8_t>((flat[i] << 4) | (flat[i] >> 4));
    return;
  }
  std::size_t i = 0;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c, ++i)
      set_code(codes + r * q.row_bytes(), c, 4,
               static_cast<std::uint8_t>(i % 2 == 0 ? flat[i / 2] >> 4 : flat[i / 2] & 15));
}

std::optional<QuantizedMatrix> decode_quantized(const TensorSource& source, const std::string& layer) {
  for (SchemeKind kind : {SchemeKind::nf4, SchemeKind::fp4})
    if (source.find(format::quant_state_name(layer, kind))) return decode_bnb4(source, layer, kind);
  if (source.find(layer + ".SCB")) return decode_bnb8(source, layer);
  if (source.find(layer + ".weight.nibble.codes")) return decode_native(source, layer);
  return std::nullopt;
}

}  // namespace nibble
