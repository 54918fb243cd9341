#include <nlohmann/json.hpp>

#include "nibble/core/error.h"
#include "quantized_tensors_internal.h"

namespace nibble {

namespace {

using format::Layout;

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

std::vector<NamedTensor> declare_bnb4(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                      std::size_t cols, DType dtype) {
  const std::string w = layer + ".weight";
  const std::size_t groups = spec.group_count(rows, cols);
  std::vector<NamedTensor> out{{w, DType::u8, {(rows * cols + 1) / 2, 1}, {}},
                               {w + ".absmax", spec.double_quant ? DType::u8 : DType::f32, {groups}, {}},
                               {w + ".quant_map", DType::f32, {16}, {}}};
  if (spec.double_quant) {
    const std::size_t nested = (groups + NestedScales::block_size - 1) / NestedScales::block_size;
    out.push_back({w + ".nested_absmax", DType::f32, {nested}, {}});
    out.push_back({w + ".nested_quant_map", DType::f32, {256}, {}});
  }
  out.push_back({format::quant_state_name(layer, spec.scheme),
                 DType::u8,
                 {quant_state_json(spec, rows, cols, dtype, 0).size()},
                 {}});
  return out;
}

std::vector<NamedTensor> declare_native(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                        std::size_t cols) {
  const std::string prefix = layer + ".weight.nibble.";
  const std::size_t groups = spec.group_count(rows, cols);
  const DType scale = spec.double_quant                   ? DType::u8
                      : spec.scale_type == ScaleType::f32 ? DType::f32
                      : spec.scale_type == ScaleType::f16 ? DType::f16
                                                          : DType::bf16;
  std::vector<NamedTensor> out{{prefix + "codes", DType::u8, {rows, packed_bytes(cols, spec.bits)}, {}},
                               {prefix + "scales", scale, {groups}, {}}};
  if (spec.has_zero_points())
    out.push_back({prefix + "zero_points",
                   spec.hold_zero ? DType::u8 : DType::i32,
                   {spec.hold_zero ? packed_bytes(groups, spec.bits) : groups},
                   {}});
  if (spec.double_quant) {
    out.push_back({prefix + "nested_absmax",
                   DType::f32,
                   {(groups + NestedScales::block_size - 1) / NestedScales::block_size},
                   {}});
    out.push_back({prefix + "nested_map", DType::f32, {256}, {}});
    out.push_back({prefix + "nested_offset", DType::f32, {1}, {}});
  }
  return out;
}

/// The absmax that bitsandbytes would store for a row scale: a float a with a/127 == scale, so that nothing is lost.
/// scale came from such a division, hence one exists within a few ULPs of scale·127.
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
  format::canonical_to_bnb4(q, t[0].bytes.writable<std::uint8_t>());
  t[1].bytes = q.scales;
  t[2].bytes = format::copy_bytes(q.codebook);
  if (q.spec.double_quant) {
    t[3].bytes = format::copy_bytes(q.nested.absmax);
    t[4].bytes = format::copy_bytes(q.nested.map);
  }
  const std::string state = quant_state_json(q.spec, q.rows, q.cols, dtype, q.nested.offset);
  t.back().bytes = format::copy_bytes(state.data(), state.size());
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

void fill_native(const QuantizedMatrix& q, std::vector<NamedTensor>& t) {
  t[0].bytes = q.codes;
  t[1].bytes = q.scales;
  if (q.spec.has_zero_points()) {
    t[2].bytes = q.zero_points;
    if (q.spec.hold_zero) {
      t[2].bytes = Buffer::allocate(packed_bytes(q.group_count(), q.spec.bits));
      pack_codes(q.zero_points.as<std::uint8_t>(), q.group_count(), q.spec.bits, t[2].bytes.writable<std::uint8_t>());
    }
  }
  if (q.spec.double_quant) {
    t[t.size() - 3].bytes = format::copy_bytes(q.nested.absmax);
    t[t.size() - 2].bytes = format::copy_bytes(q.nested.map);
    t[t.size() - 1].bytes = format::copy_bytes(&q.nested.offset, sizeof(float));
  }
}

}  // namespace

void format::canonical_to_bnb4(const QuantizedMatrix& q, std::uint8_t* flat) {
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

std::vector<NamedTensor> declare_quantized(const std::string& layer, const QuantSpec& spec, std::size_t rows,
                                           std::size_t cols, DType dtype) {
  switch (format::layout_of(spec)) {
    case Layout::bnb4: return declare_bnb4(layer, spec, rows, cols, dtype);
    case Layout::bnb8:
      return {{layer + ".weight", DType::i8, {rows, cols}, {}},
              {layer + ".SCB", DType::f32, {rows}, {}},
              {layer + ".weight_format", DType::u8, {}, {}}};
    case Layout::native: break;
  }
  return declare_native(layer, spec, rows, cols);
}

std::vector<NamedTensor> encode_quantized(const std::string& layer, const QuantizedMatrix& q, DType dtype) {
  if (!q.g_idx.empty())
    throw Error(ErrorCode::unsupported, "layer '" + layer + "': act-order groups (g_idx) have no place in this layout");
  auto tensors = declare_quantized(layer, q.spec, q.rows, q.cols, dtype);
  switch (format::layout_of(q.spec)) {
    case Layout::bnb4: fill_bnb4(q, dtype, tensors); break;
    case Layout::bnb8: fill_bnb8(q, tensors); break;
    case Layout::native: fill_native(q, tensors); break;
  }
  return tensors;
}

std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantSpec& spec,
                                                       std::size_t rows, std::size_t cols) {
  return {"nibble." + layer, spec.to_string() + " " + std::to_string(rows) + "x" + std::to_string(cols)};
}

std::pair<std::string, std::string> quantized_metadata(const std::string& layer, const QuantizedMatrix& q) {
  return quantized_metadata(layer, q.spec, q.rows, q.cols);
}

std::string quantization_config(const QuantSpec& spec, const std::vector<std::string>& skipped_modules) {
  nlohmann::ordered_json j;
  switch (format::layout_of(spec)) {
    case Layout::bnb4:
      j = {{"quant_method", "bitsandbytes"},
           {"load_in_4bit", true},
           {"load_in_8bit", false},
           {"bnb_4bit_quant_type", spec.scheme == SchemeKind::nf4 ? "nf4" : "fp4"},
           {"bnb_4bit_use_double_quant", spec.double_quant},
           {"bnb_4bit_compute_dtype", "float32"},
           {"bnb_4bit_quant_storage", "uint8"},
           {"llm_int8_skip_modules", skipped_modules}};
      break;
    case Layout::bnb8:
      j = {{"quant_method", "bitsandbytes"},
           {"load_in_4bit", false},
           {"load_in_8bit", true},
           {"llm_int8_threshold", spec.scheme == SchemeKind::llm_int8 ? spec.threshold : 0.0f},
           {"llm_int8_has_fp16_weight", false},
           {"llm_int8_enable_fp32_cpu_offload", false},
           {"llm_int8_skip_modules", skipped_modules}};
      break;
    case Layout::native:
      j = {{"quant_method", "nibble"}, {"version", 1}, {"modules_to_not_convert", skipped_modules}};
      break;
  }
  j["nibble_spec"] = spec.to_string();
  return j.dump();
}

}  // namespace nibble
