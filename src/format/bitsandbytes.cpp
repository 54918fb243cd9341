#include <array>
#include <bit>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "description.h"
#include "layer_format.h"
#include "layer_tensors.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

bool is_4bit(const QuantSpec& spec) { return spec.scheme == SchemeKind::nf4 || spec.scheme == SchemeKind::fp4; }
/// Symmetric rows of 8 bits: bitsandbytes' 8-bit layout without its arithmetic.
bool is_int8_rows(const QuantSpec& spec) {
  return spec.scheme == SchemeKind::symmetric && spec.bits == 8 && spec.granularity == Granularity::channel;
}
bool is_8bit(const QuantSpec& spec) { return spec.scheme == SchemeKind::llm_int8 || is_int8_rows(spec); }

/// Above it activations are outliers; 0: none are taken out.
float threshold_of(const QuantSpec& spec) { return spec.scheme == SchemeKind::llm_int8 ? spec.threshold : 0.0f; }

std::string quant_state_name(const std::string& layer, SchemeKind kind) {
  return layer + ".weight.quant_state.bitsandbytes__" + (kind == SchemeKind::nf4 ? "nf4" : "fp4");
}

/// The type's name in torch.
std::string torch_name(DType type) {
  switch (type) {
    case DType::f16: return "float16";
    case DType::bf16: return "bfloat16";
    default: return "float32";
  }
}

/// Padded with spaces to this size where it holds the offset, whose digits are not known when sizes are declared.
constexpr std::size_t kNestedStateBytes = 256;

/// bitsandbytes' quant_state: fields and separators in its order and style.
std::string quant_state_json(const QuantSpec& spec, std::size_t rows, std::size_t cols, DType dtype,
                             float nested_offset) {
  std::string out = std::string("{\"quant_type\": \"") + (spec.scheme == SchemeKind::nf4 ? "nf4" : "fp4") +
                    "\", \"blocksize\": " + std::to_string(spec.group_size) + ", \"dtype\": \"" + torch_name(dtype) +
                    "\", \"shape\": [" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
  if (!spec.double_quant) return out + "}";
  out += ", \"nested_blocksize\": " + std::to_string(NestedScales::block_size) +
         ", \"nested_dtype\": \"float32\", \"nested_offset\": " +
         nlohmann::json(static_cast<double>(nested_offset)).dump() + "}";
  out.resize(kNestedStateBytes, ' ');
  return out;
}

void canonical_to_bnb4(const QuantizedMatrix& q, std::uint8_t* flat) {
  if (q.cols % 2 == 0) {  // rows are whole bytes on both sides: only the nibbles change places
    const auto* codes = q.codes.as<std::uint8_t>();
    for (std::size_t i = 0; i < q.codes.size(); ++i)
      flat[i] = static_cast<std::uint8_t>((codes[i] << 4) | (codes[i] >> 4));
    return;
  }
  std::size_t i = 0;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c, ++i) {
      const std::uint8_t code = q.code(r, c);
      flat[i / 2] = static_cast<std::uint8_t>(i % 2 == 0 ? code << 4 : flat[i / 2] | code);
    }
}

void bnb4_to_canonical(const std::uint8_t* flat, QuantizedMatrix& q) {
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

std::vector<NamedTensor> declare_bnb4(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                      std::size_t cols, DType dtype) {
  const std::string w = layer + ".weight";
  const std::size_t groups = spec.group_count(rows, cols);
  std::vector<NamedTensor> out{{w, DType::u8, {(rows * cols + 1) / 2, 1}, {}},
                               {w + ".absmax", spec.double_quant ? DType::u8 : DType::f32, {groups}, {}},
                               {w + ".quant_map", DType::f32, {16}, {}}};
  if (spec.double_quant) {
    const std::size_t nested = nested_count(groups);
    out.push_back({w + ".nested_absmax", DType::f32, {nested}, {}});
    out.push_back({w + ".nested_quant_map", DType::f32, {256}, {}});
  }
  out.push_back(
      {quant_state_name(layer, spec.scheme), DType::u8, {quant_state_json(spec, rows, cols, dtype, 0).size()}, {}});
  return out;
}

/// The absmax that bitsandbytes would store for a row scale: a float a with a/127 == scale, so that nothing is lost.
/// Where scale came from such a division one exists within a few ULPs of scale·127; elsewhere there may be none.
float scb_of_scale(float scale) {
  const auto start = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(scale * 127.0f));
  for (std::int32_t step = 0; step < 64; ++step)
    for (std::int32_t bits : {start + step, start - step}) {
      const float a = std::bit_cast<float>(bits);
      if (a / 127.0f == scale) return a;
    }
  return scale * 127.0f;
}

void fill_bnb4(const QuantizedMatrix& q, DType dtype, std::vector<NamedTensor>& t) {
  t[0].bytes = Buffer::allocate((q.rows * q.cols + 1) / 2);
  canonical_to_bnb4(q, t[0].bytes.writable<std::uint8_t>());
  t[1].bytes = q.scales;
  t[2].bytes = copy_bytes(q.codebook);
  if (q.spec.double_quant) {
    t[3].bytes = copy_bytes(q.nested.absmax);
    t[4].bytes = copy_bytes(q.nested.map);
  }
  const std::string state = quant_state_json(q.spec, q.rows, q.cols, dtype, q.nested.offset);
  t.back().bytes = copy_bytes(state.data(), state.size());
}

void fill_bnb8(const QuantizedMatrix& q, std::vector<NamedTensor>& t) {
  t[0].bytes = Buffer::allocate(q.rows * q.cols);
  const auto* codes = q.codes.as<std::uint8_t>();
  auto* out = t[0].bytes.writable<std::uint8_t>();
  for (std::size_t i = 0; i < q.rows * q.cols; ++i) out[i] = codes[i] ^ 0x80u;  // unsigned + 128 to two's complement
  t[1].bytes = Buffer::allocate(q.rows * 4);
  for (std::size_t r = 0; r < q.rows; ++r)
    t[1].bytes.writable<float>()[r] = q.spec.scheme == SchemeKind::llm_int8 ? q.scale(r) : scb_of_scale(q.scale(r));
  t[2].bytes = Buffer::allocate(1);
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

/// The packed codes, which lie in elements of any type: bnb_4bit_quant_storage. Only the last may be filled up.
NamedTensor need_packed(const TensorSource& source, const std::string& name, std::size_t bytes) {
  auto t = source.find(name);
  if (!t) refuse(name, "is missing, though its layer is quantized");
  const std::size_t most = (bytes + size_of(t->type) - 1) / size_of(t->type) * size_of(t->type);
  if (t->bytes.size() < bytes || t->bytes.size() > most) need_bytes(*t, bytes);
  return *std::move(t);
}

QuantizedMatrix decode_bnb4(const TensorSource& source, const std::string& layer, SchemeKind kind) {
  const std::string w = layer + ".weight", state_name = quant_state_name(layer, kind);
  const NamedTensor state_tensor = need(source, state_name, DType::u8);
  if (state_tensor.bytes.size() > 4096) refuse(state_name, "is longer than any quant_state");
  const json::Document document = json::parse({state_tensor.bytes.as<char>(), state_tensor.bytes.size()}, state_name);
  const nlohmann::json& state = *document;
  if (!state.is_object()) refuse(state_name, "is not a JSON object");
  const auto& shape = state_field(state, state_name, "shape");
  if (!shape.is_array() || shape.size() != 2) refuse(state_name, "\"shape\" must be [rows, columns]");

  QuantSpec spec = QuantSpec::parse(kind == SchemeKind::nf4 ? "nf4" : "fp4");
  spec.group_size = state_size(state_field(state, state_name, "blocksize"), state_name, "blocksize");
  spec.double_quant = state.contains("nested_offset");
  const std::size_t rows = state_size(shape[0], state_name, "shape"), cols = state_size(shape[1], state_name, "shape");
  check_shape(state_name, rows, cols);
  const NamedTensor packed = need_packed(source, w, (rows * cols + 1) / 2);  // before that much is allocated

  QuantizedMatrix q = QuantizedMatrix::allocate(spec, rows, cols);
  bnb4_to_canonical(packed.bytes.as<std::uint8_t>(), q);
  q.codebook = need_floats(source, w + ".quant_map", 16);
  if (!spec.double_quant) {
    q.scales = copy_bytes(need_floats(source, w + ".absmax", q.group_count()));
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
  q.nested.absmax = need_floats(source, w + ".nested_absmax", nested_count(q.group_count()));
  q.nested.map = need_floats(source, w + ".nested_quant_map", 256);
  return q;
}

/// bitsandbytes' numbers for the order of the bytes; 0 is rows, the others are tiles of kernels it once had.
constexpr std::array<std::string_view, 4> kWeightFormats{"row", "col32", "col_turing", "col_ampere"};

/// Refuses a weight that does not lie in rows.
void need_rows(const TensorSource& source, const std::string& layer) {
  const std::string name = layer + ".weight_format";
  std::string stated = source.find_metadata(name).value_or("row");
  if (const auto t = source.find(name)) {
    if (t->type != DType::u8 || t->bytes.size() != 1) refuse(name, "must be one U8");
    const auto number = std::to_integer<std::size_t>(*t->bytes.data());
    stated = number < kWeightFormats.size() ? kWeightFormats[number] : std::to_string(number);
  }
  if (stated != kWeightFormats[0])
    throw Error(ErrorCode::unsupported, "tensor '" + layer + ".weight' lies in the order '" + stated + "', as '" +
                                            name +
                                            "' says; only 'row' is read: save the model again with bitsandbytes 0.45 "
                                            "or later");
}

QuantizedMatrix decode_bnb8(const TensorSource& source, const std::string& layer) {
  need_rows(source, layer);
  const NamedTensor w = need(source, layer + ".weight", DType::i8);
  if (w.shape.size() != 2) refuse(w.name, "must have two dimensions");
  check_shape(w.name, w.shape[0], w.shape[1]);
  const auto described = read_description(source, layer);
  QuantSpec spec = described ? described->spec : QuantSpec::parse("llm-int8");
  if (!is_8bit(spec))
    refuse(w.name, "is described as " + spec.to_string() + " but stored in bitsandbytes' 8-bit layout");
  spec.scale_type = ScaleType::f32;  // as the tensor is, whatever the layer had before it came here
  need_bytes(w, w.shape[0] * w.shape[1]);
  QuantizedMatrix q = QuantizedMatrix::allocate(spec, w.shape[0], w.shape[1]);
  auto* codes = q.codes.writable<std::uint8_t>();
  for (std::size_t i = 0; i < w.bytes.size(); ++i) codes[i] = w.bytes.as<std::uint8_t>()[i] ^ 0x80u;
  std::vector<float> scb = need_floats(source, layer + ".SCB", q.rows);
  if (spec.scheme == SchemeKind::symmetric)
    for (float& s : scb) s /= 127.0f;
  q.scales = copy_bytes(scb);
  return q;
}

class BitsandbytesFormat final : public LayerFormat {
 public:
  bool holds(const TensorSource& source, const std::string& layer) const override {
    return source.contains(quant_state_name(layer, SchemeKind::nf4)) ||
           source.contains(quant_state_name(layer, SchemeKind::fp4)) || source.contains(layer + ".SCB");
  }

  QuantizedMatrix decode(const TensorSource& source, const std::string& layer) const override {
    for (SchemeKind kind : {SchemeKind::nf4, SchemeKind::fp4})
      if (source.contains(quant_state_name(layer, kind))) return decode_bnb4(source, layer, kind);
    return decode_bnb8(source, layer);
  }

  std::string obstacle(const LayerDescription& d) const override {
    if (d.act_order) return "act-order groups (g_idx) have no place in bitsandbytes' layouts";
    if (is_4bit(d.spec) || is_8bit(d.spec)) return {};
    return d.spec.to_string() + "; bitsandbytes has nf4, fp4, llm-int8 and int8 rows";
  }

  std::string tolerated_loss(const QuantizedMatrix& q) const override {
    if (!is_int8_rows(q.spec)) return {};
    for (std::size_t r = 0; r < q.rows; ++r)
      if (scb_of_scale(q.scale(r)) / 127.0f != q.scale(r))
        return "the scale of row " + std::to_string(r) + ", " + std::to_string(q.scale(r)) +
               ", is not the 127th part of any F32, which is what is stored";
    return {};
  }

  QuantSpec nearest(const LayerDescription& d) const override {
    if (obstacle(d).empty() || (d.act_order && is_8bit(d.spec))) return d.spec;
    return QuantSpec::parse(d.spec.bits > 4 ? "int8" : "nf4");
  }

  std::vector<NamedTensor> declare(const std::string& layer, const LayerDescription& d) const override {
    if (is_4bit(d.spec)) return declare_bnb4(layer, d.spec, d.rows, d.cols, d.dtype);
    return {{layer + ".weight", DType::i8, {d.rows, d.cols}, {}},
            {layer + ".SCB", DType::f32, {d.rows}, {}},
            {layer + ".weight_format", DType::u8, {}, {}}};
  }

  void fill(const QuantizedMatrix& q, DType dtype, std::vector<NamedTensor>& t) const override {
    if (is_4bit(q.spec)) fill_bnb4(q, dtype, t);
    else fill_bnb8(q, t);
  }

  bool needs_metadata() const override { return true; }

  std::string config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                     const QuantizationRun&) const override {
    const QuantSpec& spec = layers.front().description.spec;
    const auto refuse_mix = [&](const QuantizedLayer& l, const char* why) {
      throw Error(ErrorCode::unsupported, "layer '" + l.name + "' is " + l.description.spec.to_string() + " and '" +
                                              layers.front().name + "' " + spec.to_string() + why);
    };
    for (const QuantizedLayer& l : layers) {
      const QuantSpec& other = l.description.spec;
      if (is_4bit(other) != is_4bit(spec)) refuse_mix(l, "; a bitsandbytes model has 4-bit or 8-bit layers, not both");
      if (!is_4bit(spec) && threshold_of(other) != threshold_of(spec))
        refuse_mix(l, "; a bitsandbytes model has one threshold of outliers for all layers");
    }
    nlohmann::ordered_json j;
    if (is_4bit(spec))
      j = {{"quant_method", "bitsandbytes"},
           {"load_in_4bit", true},
           {"load_in_8bit", false},
           {"bnb_4bit_quant_type", spec.scheme == SchemeKind::nf4 ? "nf4" : "fp4"},
           {"bnb_4bit_use_double_quant", spec.double_quant},
           {"bnb_4bit_quant_storage", "uint8"},
           {"llm_int8_skip_modules", skipped}};
    else
      j = {{"quant_method", "bitsandbytes"},
           {"load_in_4bit", false},
           {"load_in_8bit", true},
           {"llm_int8_threshold", threshold_of(spec)},
           {"llm_int8_has_fp16_weight", false},
           {"llm_int8_skip_modules", skipped}};
    j["nibble_spec"] = spec.to_string();
    return j.dump();
  }
};

constinit const BitsandbytesFormat kFormat;

}  // namespace

const LayerFormat& bitsandbytes_format() { return kFormat; }

}  // namespace nibble::inline NIBBLE_ABI::format
