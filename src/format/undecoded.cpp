#include "undecoded.h"

#include <algorithm>
#include <array>

#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

/// Layouts, as bits: those that read a part of a layer.
enum ReadBy : unsigned {
  nobody = 0,
  nibble_v1 = 1,
  bitsandbytes = 2,
  gptq = 4,
  awq = 8,
  compressed_tensors = 16,
  fp8 = 32,
  modelopt = 64
};

/// A tensor beside, or in place of, the weight of a quantized layer, by the end of its name.
struct Part {
  std::string_view end;
  unsigned read_by;
  std::string_view what;  ///< How a weight with such a part is quantized.
};

/// What tells most stands first: it is what an error speaks of.
constexpr std::array kParts{
    Part{".weight_global_scale", compressed_tensors, "in NVFP4 (compressed-tensors)"},
    Part{".weight_scale_2", modelopt, "in NVFP4 (ModelOpt)"},
    Part{".weight_scale_inv", fp8, "in fp8 with a scale for each block"},
    Part{".weight.scale_inv", nobody, "in fp8 with a scale for each block"},
    Part{".scale_weight", nobody, "in fp8 with a scale for the tensor"},
    Part{".weight.scale", nobody, "with a scale"},
    Part{".weight_scales", nobody, "in int8 with a scale for each channel (EETQ)"},
    Part{".weights_scaling_factor", nobody, "with a scaling factor (TensorRT-LLM)"},
    Part{".pre_quant_scale", nobody, "with factors for its inputs (ModelOpt)"},
    Part{".prequant_scaling_factor", nobody, "with factors for its inputs (TensorRT-LLM)"},
    Part{".W_q", nobody, "by HQQ"},
    Part{".biases", nobody, "by MLX"},
    Part{".weight._data", nobody, "by Quanto"},
    Part{".weight._scale", nobody, "by Quanto"},
    Part{".weight_qdata", nobody, "by torchao"},
    Part{"._weight_qdata", nobody, "by torchao"},
    Part{"._weight_scale", nobody, "by torchao"},
    Part{".codebooks", nobody, "by AQLM"},
    Part{".Qidxs", nobody, "by QuIP#"},
    Part{".centroids", nobody, "by VPTQ"},
    Part{".q_weight", nobody, "by EXL2"},
    Part{".trellis", nobody, "by EXL3"},
    Part{".scale_packed", nobody, "in the layout of Marlin's 2:4 kernels"},
    Part{".bitmask", nobody, "as a sparse matrix (compressed-tensors)"},
    Part{".weight.absmax", bitsandbytes, "in 4 bits by bitsandbytes"},
    Part{".weight.quant_map", bitsandbytes, "in 4 bits by bitsandbytes"},
    Part{".weight.nested_absmax", bitsandbytes, "in 4 bits by bitsandbytes"},
    Part{".weight.nested_quant_map", bitsandbytes, "in 4 bits by bitsandbytes"},
    Part{".weight.quant_state.bitsandbytes__nf4", bitsandbytes, "in NF4 by bitsandbytes"},
    Part{".weight.quant_state.bitsandbytes__fp4", bitsandbytes, "in FP4 by bitsandbytes"},
    Part{".SCB", bitsandbytes, "in int8 by bitsandbytes"},
    Part{".weight_format", bitsandbytes, "in int8 by bitsandbytes"},
    Part{".qweight", gptq | awq, "by GPTQ or AWQ"},
    Part{".qzeros", gptq | awq, "by GPTQ or AWQ"},
    Part{".scales", gptq | awq, "by GPTQ, AWQ or MLX"},
    Part{".scaled_zeros", awq, "by AWQ"},
    Part{".g_idx", gptq, "by GPTQ"},
    Part{".weight_packed", compressed_tensors, "by compressed-tensors"},
    Part{".weight_scale", compressed_tensors | fp8 | modelopt, "with a scale, by compressed-tensors or in fp8"},
    Part{".weight_zero_point", compressed_tensors, "by compressed-tensors"},
    Part{".weight_shape", compressed_tensors, "by compressed-tensors"},
    Part{".weight_g_idx", compressed_tensors, "by compressed-tensors"},
    Part{".weight.nibble.codes", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.scales", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.zero_points", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.nested_absmax", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.nested_map", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.nested_offset", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.tensor_scale", nibble_v1, "in nibble's layout"},
    Part{".weight.nibble.g_idx", nibble_v1, "in nibble's layout"},
};

/// Layouts whose codes are L.weight itself.
constexpr unsigned kCodesInWeight = bitsandbytes | compressed_tensors | fp8 | modelopt;

/// How the inputs and outputs of a layer, keys and values were to be rounded: its weight is the same without.
constexpr std::array<std::string_view, 12> kOfActivations{
    ".input_scale",       ".input_zero_point", ".input_global_scale",
    ".input_scale_ub",    ".scale_input",      ".output_scale",
    ".output_zero_point", ".activation_scale", ".activation_scaling_factor",
    ".input_g_idx",       ".k_scale",          ".v_scale"};

/// quant_methods whose layers are read, each by the layout of its name; others change weights in ways unknown here.
constexpr std::array<std::string_view, 8> kMethods{"",       "gptq", "awq",       "compressed-tensors", "bitsandbytes",
                                                   "nibble", "fp8",  "fbgemm_fp8"};

/// Modules that quantizers leave in floating point unless told otherwise.
constexpr std::array<std::string_view, 2> kLeftAlone{"lm_head", "embed_tokens"};

unsigned bit_of(CheckpointLayout layout) {
  switch (layout) {
    case CheckpointLayout::nibble: break;
    case CheckpointLayout::bitsandbytes: return bitsandbytes;
    case CheckpointLayout::gptq:
    case CheckpointLayout::gptq_v2: return gptq;
    case CheckpointLayout::awq_gemm:
    case CheckpointLayout::awq_gemv:
    case CheckpointLayout::awq_gemv_fast: return awq;
    case CheckpointLayout::compressed_tensors: return compressed_tensors;
    case CheckpointLayout::fp8: return fp8;
    case CheckpointLayout::modelopt: return modelopt;
  }
  return nibble_v1;
}

bool is_plain_float(DType type) {
  return type == DType::f64 || type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

/// The first part of the layer, in the table's order, that is there and that `readers` do not read.
const Part* unread_part(const TensorSource& source, const std::string& layer, unsigned readers) {
  const auto names = source.names_under(layer);
  for (const Part& p : kParts) {
    if ((p.read_by & readers) != 0) continue;
    const std::string name = layer + std::string(p.end);
    if (names ? std::find(names->begin(), names->end(), name) != names->end() : source.contains(name)) return &p;
  }
  return nullptr;
}

/// " (quant_method 'fp8', format 'float-quantized')", as far as a configuration says so.
std::string as_configured(const TensorSource& source) {
  const QuantizationConfig* config = source.quantization();
  if (config == nullptr || config->method().empty()) return {};
  const std::string format = config->format().empty() ? "" : ", format '" + config->format() + "'";
  return " (quant_method '" + config->method() + "'" + format + ")";
}

[[noreturn]] void refuse_undecoded(const TensorSource& source, const std::string& what) {
  throw Error(ErrorCode::unsupported, what + as_configured(source) +
                                          ", which is not decoded here; taken for numbers it would be a wrong weight. "
                                          "Start from the model's floating-point version, or dequantize it with the "
                                          "library that made it");
}

/// Whether the configuration names a method that we do not know for a module it would not leave alone.
bool is_of_unknown_method(const TensorSource& source, const std::string& layer) {
  const QuantizationConfig* config = source.quantization();
  if (config == nullptr || config->method().starts_with("modelopt") ||
      std::find(kMethods.begin(), kMethods.end(), config->method()) != kMethods.end())
    return false;
  const std::string_view last =
      std::string_view(layer).substr(layer.rfind('.') + 1);  // all of it where there is no dot
  return std::find(kLeftAlone.begin(), kLeftAlone.end(), last) == kLeftAlone.end();
}

}  // namespace

std::optional<std::string> layer_of_part(std::string_view tensor) {
  for (const Part& p : kParts)
    if (tensor.size() > p.end.size() && tensor.ends_with(p.end))
      return std::string(tensor.substr(0, tensor.size() - p.end.size()));
  return std::nullopt;
}

bool is_only_weight(const TensorSource& source, const std::string& layer) {
  const auto names = source.names_under(layer);
  return names && std::all_of(names->begin(), names->end(), [&](const std::string& name) {
           const std::string_view end = std::string_view(name).substr(layer.size());
           return end == ".weight" || end == ".bias";
         });
}

void check_decoded(const TensorSource& source, const std::string& layer, std::optional<CheckpointLayout> held) {
  const std::string weight = layer + ".weight";
  const Part* part = unread_part(source, layer, held ? bit_of(*held) : nobody);
  if (held && part == nullptr) return;
  const auto t = source.describe(weight);
  if (!t && part == nullptr) return;
  if (held || !t)
    refuse_undecoded(source, "tensor '" + layer + std::string(part->end) + "' is part of a weight quantized " +
                                 std::string(part->what));
  const std::string is = "tensor '" + weight + "' is " + std::string(name_of(t->type));
  if (part != nullptr)
    refuse_undecoded(source, is + " and has '" + layer + std::string(part->end) + "' beside it: a weight quantized " +
                                 std::string(part->what));
  if (!is_plain_float(t->type)) refuse_undecoded(source, is + ", the codes of a quantized weight");
  if (t->shape.size() > 1 && is_of_unknown_method(source, layer))
    refuse_undecoded(source, "tensor '" + weight + "' is of a model quantized in a way of its own");
}

void check_plain_weight(const TensorSource& source, const std::string& tensor) {
  constexpr std::string_view end = ".weight";
  if (!tensor.ends_with(end)) return;
  const std::string layer = tensor.substr(0, tensor.size() - end.size());
  if (const auto held = layout_of(source, layer))
    throw Error(ErrorCode::unsupported, "tensor '" + tensor + "' is the codes of a layer quantized in the layout " +
                                            std::string(name_of(*held)) + "; decode_quantized reads it");
}

}  // namespace nibble::inline NIBBLE_ABI::format

namespace nibble::inline NIBBLE_ABI {

std::vector<std::string> unread_tensors(const TensorSource& source, const std::string& layer) {
  const auto names = source.names_under(layer);
  if (!names) return {};
  const auto held = layout_of(source, layer);
  const unsigned readers = held ? format::bit_of(*held) : 0;
  std::vector<std::string> out;
  for (const std::string& name : *names) {
    const std::string_view end = std::string_view(name).substr(layer.size());
    const auto* part =
        std::find_if(format::kParts.begin(), format::kParts.end(), [&](const format::Part& p) { return p.end == end; });
    const bool is_read = part != format::kParts.end() && (part->read_by & readers) != 0;
    const bool is_weight = end == ".weight" && (!held || (readers & format::kCodesInWeight) != 0);
    const bool of_activations =
        std::find(format::kOfActivations.begin(), format::kOfActivations.end(), end) != format::kOfActivations.end();
    if (!is_read && !is_weight && !of_activations && end != ".bias") out.push_back(name);
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
