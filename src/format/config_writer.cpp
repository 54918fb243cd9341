#include "config_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::format {

namespace {

using Json = nlohmann::ordered_json;

/// What a configuration says of a layer; layers that agree on it are written as one.
struct Said {
  SchemeKind scheme;
  int bits;
  Granularity granularity;
  std::size_t group_size;
  ScaleType float_scales;  ///< f32 for integers, whatever theirs are.
  bool act_order;
  friend bool operator==(const Said&, const Said&) = default;
};

Said said_of(const QuantizedLayer& l) {
  const QuantSpec& s = l.description.spec;
  return {s.scheme,
          s.bits,
          s.granularity,
          s.group_size,
          s.has_float_codes() ? s.scale_type : ScaleType::f32,
          l.act_order || l.description.act_order};
}

/// Layers by what is said of them, in the order of first appearance but the largest set first.
struct Kind {
  Said said;
  std::vector<std::string> names;
};

std::vector<Kind> kinds_of(const std::vector<QuantizedLayer>& layers) {
  std::vector<Kind> out;
  for (const QuantizedLayer& l : layers) {
    const Said said = said_of(l);
    auto kind = std::find_if(out.begin(), out.end(), [&](const Kind& k) { return k.said == said; });
    if (kind == out.end()) kind = out.insert(out.end(), {said, {}});
    kind->names.push_back(l.name);
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Kind& a, const Kind& b) { return a.names.size() > b.names.size(); });
  return out;
}

/// −1 where a row is one group.
Json group_size(const Said& s) { return s.granularity == Granularity::group ? Json(s.group_size) : Json(-1); }

/// A regular expression that matches this name alone.
std::string exactly(const std::string& name) {
  std::string out = "^";
  for (const char c : name) out += c == '.' ? std::string("\\.") : std::string(1, c);
  return out + "$";
}

}  // namespace

std::string integer_obstacle(const LayerDescription& d, bool tensor_wide) {
  const QuantSpec& s = d.spec;
  if (!s.is_affine()) return s.to_string() + "; the layout holds integers with a scale and a zero point";
  if (s.granularity == Granularity::block) return "its blocks cross rows; groups lie within a row here";
  if (s.granularity == Granularity::tensor && !tensor_wide)
    return "one scale for the whole tensor; here each row has its own";
  if (s.has_zero_points() && !s.preserve_zero)
    return "its zero points are of 32 bits, those here of " + std::to_string(s.bits);
  return {};
}

QuantSpec nearest_integer_spec(QuantSpec spec) {
  const bool rows = spec.granularity == Granularity::channel || spec.granularity == Granularity::tensor;
  if (spec.scheme == SchemeKind::nf4 || spec.scheme == SchemeKind::fp4 || spec.has_real_zeros())
    spec.scheme = SchemeKind::asymmetric;
  if (!spec.is_affine()) spec.scheme = SchemeKind::symmetric;
  spec.granularity = rows ? Granularity::channel : Granularity::group;
  if (rows) spec.group_size = 0;
  spec.preserve_zero = true;
  spec.double_quant = false;
  spec.narrow_range = false;
  spec.scale_rule = ScaleRule::largest;
  if (spec.scale_type == ScaleType::e8m0 || spec.scale_type == ScaleType::e4m3) spec.scale_type = ScaleType::f16;
  return spec;
}

std::string float_format_of(const QuantSpec& s) {
  const bool mx = s.scale_type == ScaleType::e8m0 && s.granularity == Granularity::group && s.group_size == 32;
  if (s.scheme == SchemeKind::e2m1 && s.scale_type == ScaleType::e4m3 && s.group_size == 16)
    return "nvfp4-pack-quantized";
  if (s.scheme == SchemeKind::e2m1 && mx) return "mxfp4-pack-quantized";
  if (s.scheme == SchemeKind::e2m3 && mx) return "mxfp6-pack-quantized";
  if (s.scheme == SchemeKind::e4m3 && mx) return "mxfp8-quantized";
  const bool is_matrix_scale = s.scale_type != ScaleType::e8m0 && s.scale_type != ScaleType::e4m3;
  return s.scheme == SchemeKind::e4m3 && is_matrix_scale ? "float-quantized" : "";
}

std::string gptq_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                        const QuantizationRun& run, bool v2) {
  const auto kinds = kinds_of(layers);
  const Said& base = kinds.front().said;
  const bool head = std::any_of(layers.begin(), layers.end(), [](const auto& l) { return l.name == "lm_head"; });
  Json j{{"bits", base.bits},
         {"group_size", group_size(base)},
         {"desc_act", base.act_order},
         {"sym", base.scheme == SchemeKind::symmetric},
         {"model_file_base_name", "model"},
         {"quant_method", "gptq"},
         {"checkpoint_format", v2 ? "gptq_v2" : "gptq"},
         {"lm_head", head},
         {"pack_dtype", "int32"},
         {"meta", {{"quantizer", {"nibble:" NIBBLE_VERSION}}}}};
  if (run.damp_percent) j["damp_percent"] = *run.damp_percent;
  if (run.static_groups) j["static_groups"] = *run.static_groups;
  if (run.true_sequential) j["true_sequential"] = *run.true_sequential;
  Json rules = Json::object();
  auto& members = rules.get_ref<Json::object_t&>();  // names differ: nothing to search for
  members.reserve(layers.size() + skipped.size());
  for (const std::string& name : skipped)
    if (name != "lm_head") members.emplace_back("-:" + exactly(name), Json::object());  // lm_head has a key of its own
  for (std::size_t i = 1; i < kinds.size(); ++i)
    for (const std::string& name : kinds[i].names)
      members.emplace_back("+:" + exactly(name), Json{{"bits", kinds[i].said.bits},
                                                      {"group_size", group_size(kinds[i].said)},
                                                      {"sym", kinds[i].said.scheme == SchemeKind::symmetric},
                                                      {"desc_act", kinds[i].said.act_order}});
  if (!rules.empty()) j["dynamic"] = rules;
  return j.dump();
}

namespace {

/// Where a configuration describes all layers by one: Error{unsupported} names two that differ.
void need_one_kind(const std::vector<Kind>& kinds, const char* of) {
  if (kinds.size() > 1)
    throw Error(ErrorCode::unsupported, "layers '" + kinds[0].names[0] + "' and '" + kinds[1].names[0] +
                                            "' are quantized differently, and " + of +
                                            " configuration describes all by one");
}

}  // namespace

std::string awq_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                       const std::string& version) {
  const auto kinds = kinds_of(layers);
  need_one_kind(kinds, "an AWQ");
  const Said& base = kinds.front().said;
  return Json{{"quant_method", "awq"},
              {"bits", base.bits},
              {"group_size", group_size(base)},
              {"zero_point", base.scheme == SchemeKind::asymmetric},
              {"version", version},
              {"modules_to_not_convert", skipped}}
      .dump();
}

namespace {

QuantSpec spec_of(const Said& s) {
  QuantSpec spec;
  spec.scheme = s.scheme;
  spec.bits = s.bits;
  spec.granularity = s.granularity;
  spec.group_size = s.group_size;
  spec.scale_type = s.float_scales;
  return spec;
}

std::string format_of(const Said& s) {
  const QuantSpec spec = spec_of(s);
  return spec.has_float_codes() ? float_format_of(spec) : "pack-quantized";
}

std::string strategy_of(const Said& s) {
  switch (s.granularity) {
    case Granularity::tensor: return "tensor";
    case Granularity::channel: return "channel";
    case Granularity::tile: return "block";
    default: return s.float_scales == ScaleType::e4m3 ? "tensor_group" : "group";
  }
}

Json weights_of(const Said& s) {
  const bool is_float = spec_of(s).has_float_codes();
  Json weights{{"num_bits", s.bits},
               {"type", is_float ? "float" : "int"},
               {"symmetric", s.scheme != SchemeKind::asymmetric},
               {"strategy", strategy_of(s)},
               {"group_size", s.granularity == Granularity::group ? Json(s.group_size) : Json(nullptr)},
               {"dynamic", false}};
  // Of the orders that the schema once had, its readers still take the one that leaves no trace in the file.
  if (s.act_order && s.granularity == Granularity::group) weights["actorder"] = "weight";
  if (s.granularity == Granularity::tile) weights["block_structure"] = {s.group_size, s.group_size};
  if (s.float_scales == ScaleType::e8m0) weights["scale_dtype"] = "torch.uint8";
  if (s.float_scales == ScaleType::e4m3) weights["scale_dtype"] = "torch.float8_e4m3fn";
  return weights;
}

}  // namespace

std::string compressed_tensors_config(const std::vector<QuantizedLayer>& layers,
                                      const std::vector<std::string>& skipped) {
  const auto kinds = kinds_of(layers);
  const std::string format = format_of(kinds.front().said);
  const bool mixed =
      std::any_of(kinds.begin(), kinds.end(), [&](const Kind& k) { return format_of(k.said) != format; });
  Json groups = Json::object();
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    Json group{{"targets", i == 0 ? std::vector<std::string>{"Linear"} : kinds[i].names},
               {"weights", weights_of(kinds[i].said)},
               {"input_activations", nullptr},
               {"output_activations", nullptr}};
    if (mixed) group["format"] = format_of(kinds[i].said);
    groups["group_" + std::to_string(i)] = group;
  }
  return Json{{"quant_method", "compressed-tensors"},
              {"format", mixed ? "mixed-precision" : format},
              {"quantization_status", "compressed"},
              {"global_compression_ratio", nullptr},
              {"kv_cache_scheme", nullptr},
              {"config_groups", groups},
              {"ignore", skipped}}
      .dump();
}

std::string fp8_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped) {
  const auto kinds = kinds_of(layers);
  need_one_kind(kinds, "an fp8");
  const Said& s = kinds.front().said;
  Json j{{"quant_method", "fp8"},
         {"fmt", "e4m3"},
         {"activation_scheme", "dynamic"},
         {"weight_block_size", nullptr},
         {"modules_to_not_convert", skipped}};
  if (s.granularity == Granularity::tile) j["weight_block_size"] = {s.group_size, s.group_size};
  if (s.float_scales == ScaleType::e8m0) j["scale_fmt"] = "ue8m0";
  return j.dump();
}

std::string modelopt_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped) {
  const auto kinds = kinds_of(layers);
  need_one_kind(kinds, "a ModelOpt");
  const Said& s = kinds.front().said;
  Json weights{{"dynamic", false}, {"num_bits", s.bits}, {"type", "float"}};
  if (s.granularity == Granularity::group) weights["group_size"] = s.group_size;
  const char* algo = s.granularity == Granularity::group     ? "NVFP4"
                     : s.granularity == Granularity::channel ? "FP8_PER_CHANNEL_PER_TOKEN"
                                                             : "FP8";
  const Json group{{"weights", weights}, {"targets", {"Linear"}}};
  return Json{{"quant_method", "modelopt"},
              {"quant_algo", algo},
              {"config_groups", {{"group_0", group}}},
              {"ignore", skipped},
              {"producer", {{"name", "nibble"}, {"version", NIBBLE_VERSION}}}}
      .dump();
}

}  // namespace nibble::inline NIBBLE_ABI::format
