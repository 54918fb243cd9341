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
  bool act_order;
  friend bool operator==(const Said&, const Said&) = default;
};

Said said_of(const QuantizedLayer& l) {
  const QuantSpec& s = l.description.spec;
  return {s.scheme, s.bits, s.granularity, s.group_size, l.act_order || l.description.act_order};
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
  if (spec.scheme == SchemeKind::nf4 || spec.scheme == SchemeKind::fp4) spec.scheme = SchemeKind::asymmetric;
  if (!spec.is_affine()) spec.scheme = SchemeKind::symmetric;
  spec.granularity = rows ? Granularity::channel : Granularity::group;
  if (rows) spec.group_size = 0;
  spec.preserve_zero = true;
  spec.double_quant = false;
  spec.narrow_range = false;
  return spec;
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

std::string awq_config(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& skipped,
                       const std::string& version) {
  const auto kinds = kinds_of(layers);
  const Said& base = kinds.front().said;
  if (kinds.size() > 1)
    throw Error(ErrorCode::unsupported,
                "layers '" + kinds[0].names[0] + "' and '" + kinds[1].names[0] +
                    "' are quantized differently, and an AWQ configuration describes all by one");
  return Json{{"quant_method", "awq"},
              {"bits", base.bits},
              {"group_size", group_size(base)},
              {"zero_point", base.scheme == SchemeKind::asymmetric},
              {"version", version},
              {"modules_to_not_convert", skipped}}
      .dump();
}

std::string compressed_tensors_config(const std::vector<QuantizedLayer>& layers,
                                      const std::vector<std::string>& skipped) {
  const auto kinds = kinds_of(layers);
  Json groups = Json::object();
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const Said& s = kinds[i].said;
    const char* strategy = s.granularity == Granularity::tensor    ? "tensor"
                           : s.granularity == Granularity::channel ? "channel"
                                                                   : "group";
    Json weights{{"num_bits", s.bits},
                 {"type", "int"},
                 {"symmetric", s.scheme == SchemeKind::symmetric},
                 {"strategy", strategy},
                 {"group_size", s.granularity == Granularity::group ? Json(s.group_size) : Json(nullptr)},
                 {"dynamic", false}};
    // Of the orders that the schema once had, its readers still take the one that leaves no trace in the file.
    if (s.act_order && s.granularity == Granularity::group) weights["actorder"] = "weight";
    groups["group_" + std::to_string(i)] = {{"targets", i == 0 ? std::vector<std::string>{"Linear"} : kinds[i].names},
                                            {"weights", weights},
                                            {"input_activations", nullptr},
                                            {"output_activations", nullptr}};
  }
  return Json{{"quant_method", "compressed-tensors"},
              {"format", "pack-quantized"},
              {"quantization_status", "compressed"},
              {"global_compression_ratio", nullptr},
              {"kv_cache_scheme", nullptr},
              {"config_groups", groups},
              {"ignore", skipped}}
      .dump();
}

}  // namespace nibble::inline NIBBLE_ABI::format
