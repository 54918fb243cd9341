#include "nibble/format/quantization_config.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/files.h"
#include "core/json.h"
#include "nibble/core/error.h"
#include "pattern.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

using Json = nlohmann::ordered_json;  // rules are tried in the order of the file

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// As JSON text, whatever bytes are in it. Not for nested values, which may be as deep as a file is long.
std::string printed(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// One JSON object; every error names the file, the place in it and the value.
class Fields {
 public:
  Fields(const Json& object, std::string place) : object_(object), place_(std::move(place)) {
    if (!object.is_object()) throw Error(ErrorCode::corrupt_file, place_ + " is not an object");
  }

  /// The first of the names that is there and not null.
  [[nodiscard]] const Json* find(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (const auto it = object_.find(name); it != object_.end() && !it->is_null()) return &*it;
    return nullptr;
  }
  [[nodiscard]] std::string text(std::initializer_list<const char*> names, const std::string& fallback) const {
    const Json* v = find(names);
    if (v == nullptr) return fallback;
    if (!v->is_string()) refuse(*names.begin(), *v, "text is needed");
    return v->get<std::string>();
  }
  [[nodiscard]] bool flag(std::initializer_list<const char*> names, bool fallback) const {
    const Json* v = find(names);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) refuse(*names.begin(), *v, "true or false is needed");
    return v->get<bool>();
  }
  [[nodiscard]] int bits(std::initializer_list<const char*> names, std::optional<int> fallback = std::nullopt) const {
    const Json* v = find(names);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) throw Error(ErrorCode::corrupt_file, place_ + ": \"" + *names.begin() + "\" is missing");
    if (!v->is_number_integer() || v->get<std::int64_t>() < 2 || v->get<std::int64_t>() > 8)
      refuse(*names.begin(), *v, "2 to 8 are known");
    return v->get<int>();
  }
  /// −1 means that a row is one group.
  void group_size(std::initializer_list<const char*> names, LayerQuantization& as) const {
    const Json* v = find(names);
    if (v == nullptr) return;
    const std::int64_t size = v->is_number_integer() ? v->get<std::int64_t>() : 0;
    constexpr std::int64_t most = 1 << 28;
    if (size < -1 || size == 0 || size > most) refuse(*names.begin(), *v, "a positive number or −1 is needed");
    as.granularity = size == -1 ? Granularity::channel : Granularity::group;
    as.group_size = size == -1 ? 0 : static_cast<std::size_t>(size);
  }
  [[noreturn]] void refuse(const char* name, const Json& value, const std::string& why) const {
    const std::string shown = value.is_structured() ? std::string("an ") + value.type_name() : printed(value);
    throw Error(ErrorCode::corrupt_file, place_ + ": \"" + name + "\" is " + shown.substr(0, 60) + "; " + why);
  }
  [[nodiscard]] const Json& object() const { return object_; }
  [[nodiscard]] const std::string& place() const { return place_; }

 private:
  const Json& object_;
  std::string place_;
};

/// The name that a regular expression matches alone ("^model\.layers\.0$"), as most do that programs write.
std::optional<std::string> only_name(std::string_view pattern) {
  if (pattern.starts_with('^')) pattern.remove_prefix(1);
  if (!pattern.ends_with('$')) return std::nullopt;
  pattern.remove_suffix(1);
  std::string out;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size() && pattern[i + 1] == '.') c = pattern[++i];
    else if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_' && c != '-') return std::nullopt;
    out += c;
  }
  return out;
}

}  // namespace

/// Finds the first rule that matches a name without trying all: a configuration may have one for each layer.
class format::RuleIndex {
 public:
  void add(const std::string& rule, bool is_regex) {
    const std::size_t place = count_++;
    const auto name = is_regex ? only_name(rule) : rule;
    if (name) names_.emplace(*name, place);  // of several, the first
    else patterns_.emplace_back(place, Pattern(rule));
  }
  [[nodiscard]] std::optional<std::size_t> first(const std::string& layer) const {
    const auto it = names_.find(layer);
    const std::size_t named = it == names_.end() ? count_ : it->second;
    for (const auto& [place, pattern] : patterns_) {
      if (place > named) break;
      if (pattern.matches_start(layer)) return place;
    }
    return named < count_ ? std::optional(named) : std::nullopt;
  }
  [[nodiscard]] std::size_t patterns() const { return patterns_.size(); }

 private:
  std::size_t count_ = 0;
  std::unordered_map<std::string, std::size_t> names_;
  std::vector<std::pair<std::size_t, Pattern>> patterns_;
};

class QuantizationConfigParser {
 public:
  explicit QuantizationConfigParser(const Fields& f) {
    const bool awq_names = f.find({"w_bit", "q_group_size"}) != nullptr;  // quant_config.json says no method
    out_.method_ = lower(f.text({"quant_method", "method"}, awq_names ? "awq" : f.find({"bits"}) ? "gptq" : ""));
    if (out_.method_ == "gptq") gptq(f);
    else if (out_.method_ == "awq") awq(f);
    else if (out_.method_ == "compressed-tensors") compressed_tensors(f);
  }
  QuantizationConfig take() {
    out_.index_ = std::move(index_);
    return std::move(out_);
  }

 private:
  [[noreturn]] static void unsupported(const Fields& f, const std::string& why) {
    throw Error(ErrorCode::unsupported, f.place() + ": " + why);
  }

  void gptq(const Fields& f) {
    out_.format_ =
        lower(f.text({"checkpoint_format", "format"}, f.flag({"is_marlin_format"}, false) ? "marlin" : "gptq"));
    if (out_.format_ != "gptq" && out_.format_ != "gptq_v2")
      unsupported(f, "checkpoint_format '" + out_.format_ + "' is not read; gptq and gptq_v2 are");
    if (const auto dtype = f.text({"pack_dtype"}, "int32"); dtype != "int32")
      unsupported(f, "pack_dtype '" + dtype + "' is not read; int32 is");
    out_.base_.bits = f.bits({"bits"});
    f.group_size({"group_size"}, out_.base_);
    out_.base_.symmetric = f.flag({"sym"}, true);
    out_.base_.act_order = f.flag({"desc_act"}, false);
    if (const Json* meta = f.find({"meta"}); meta != nullptr && meta->is_object())
      out_.zeros_by_word_ = names_gptqmodel(meta->value("quantizer", Json()));
    refuse_structures(f, {"adapter", "rotation"});
    if (const Json* rules = f.find({"dynamic"})) gptq_rules(Fields(*rules, f.place() + ": \"dynamic\""));
  }

  /// meta.quantizer: "gptqmodel:1.4.0", or a list of such.
  static bool names_gptqmodel(const Json& quantizer) {
    for (const Json& q : quantizer.is_array() ? quantizer : Json::array({quantizer}))
      if (q.is_string() && lower(q.get<std::string>()).starts_with("gptqmodel")) return true;
    return false;
  }

  /// A rule that excludes layers says nothing of those that are quantized all the same, so it is passed over.
  void gptq_rules(const Fields& rules) {
    for (const auto& [pattern, overrides] : rules.object().items()) {
      if (pattern.starts_with("-:")) continue;
      const Fields f(overrides, rules.place() + "[\"" + pattern.substr(0, 100) + "\"]");
      QuantizationConfig::Rule rule{pattern.substr(pattern.starts_with("+:") ? 2 : 0), true, out_.base_};
      rule.as.bits = f.bits({"bits"}, rule.as.bits);
      f.group_size({"group_size"}, rule.as);
      rule.as.symmetric = f.flag({"sym"}, rule.as.symmetric);
      rule.as.act_order = f.flag({"desc_act"}, rule.as.act_order);
      add(std::move(rule));
    }
  }

  void awq(const Fields& f) {
    out_.format_ = lower(f.text({"version", "checkpoint_format", "format"}, "gemm"));
    if (out_.format_ == "gemvfast" || out_.format_ == "llm-awq") out_.format_ = "gemv_fast";
    if (out_.format_ != "gemm" && out_.format_ != "gemv" && out_.format_ != "gemv_fast")
      unsupported(f, "the AWQ version '" + out_.format_ + "' is not read; gemm, gemv and gemv_fast are");
    out_.base_.bits = f.bits({"bits", "w_bit"}, 4);
    f.group_size({"group_size", "q_group_size"}, out_.base_);
    out_.base_.symmetric = !f.flag({"zero_point"}, true);
  }

  void compressed_tensors(const Fields& f) {
    out_.format_ = lower(f.text({"format"}, "pack-quantized"));
    refuse_structures(f, {"kv_cache_scheme", "transform_config"});
    if (const Json* sparsity = f.find({"sparsity_config"}); sparsity != nullptr && !sparsity->empty())
      if (const auto format = Fields(*sparsity, f.place() + ": \"sparsity_config\"").text({"format"}, "?");
          format != "dense")
        unsupported(f, "the sparse format '" + format + "' is not read");
    if (!is_read(out_.format_) && out_.format_ != "mixed-precision")
      out_.base_.obstacle = "its format is '" + out_.format_ + "'; pack-quantized and int-quantized are read";
    else out_.base_.obstacle = "no target of \"config_groups\" matches its name";
    const Json* groups = f.find({"config_groups"});
    if (groups == nullptr) return;
    std::vector<QuantizationConfig::Rule> by_regex;
    for (const auto& [name, group] : Fields(*groups, f.place() + ": \"config_groups\"").object().items()) {
      const std::string place = f.place() + ": \"" + name.substr(0, 100) + "\"";
      const LayerQuantization as = group.is_array() ? preset(name) : group_of(Fields(group, place));
      const Json& targets = group.is_array() ? group : group.value("targets", Json::array());
      for (const Json& target : targets.is_array() ? targets : Json::array()) {
        if (!target.is_string())
          throw Error(ErrorCode::corrupt_file,
                      place + ": a target is " + std::string(target.type_name()) + "; a name is needed");
        const auto text = target.get<std::string>();
        if (text.starts_with("re:")) by_regex.push_back({text.substr(3), true, as});
        else if (text.find('.') != std::string::npos || text == "lm_head") add({text, false, as});
        // A class of modules. Of what is packed only linear layers are read; another class can only mean those in it,
        // which one group alone leaves no doubt about.
        else if (text == "Linear" || groups->size() == 1) out_.base_ = as;
      }
    }
    for (auto& rule : by_regex) add(std::move(rule));  // names come before patterns
  }

  /// Keys whose value, if there is one, changes what the model computes.
  static void refuse_structures(const Fields& f, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
      if (const Json* v = f.find({key}); v != nullptr && !v->empty())
        unsupported(f, "\"" + std::string(key) + "\" is there, which is not read: it changes what the model computes");
  }

  static bool is_read(const std::string& format) { return format == "pack-quantized" || format == "int-quantized"; }

  static LayerQuantization not_read(std::string why) {
    LayerQuantization as;
    as.obstacle = std::move(why);
    return as;
  }

  /// compressed-tensors' names of common schemes: W4A16 is 4-bit weights in groups of 128 and 16-bit activations.
  static LayerQuantization preset(const std::string& name) {
    const std::string known = lower(name);
    const bool asymmetric = known == "w4a16_asym";
    if (!asymmetric &&
        !(known.size() == 5 && known[0] == 'w' && known.ends_with("a16") && known[1] >= '2' && known[1] <= '8'))
      return not_read("its preset, '" + name.substr(0, 100) + "', is not read; W2A16 to W8A16 and W4A16_ASYM are");
    LayerQuantization as;
    as.bits = known[1] - '0';
    as.symmetric = !asymmetric;
    return as;
  }

  LayerQuantization group_of(const Fields& g) const {
    const std::string format =
        lower(g.text({"format"}, out_.format_ == "mixed-precision" ? "pack-quantized" : out_.format_));
    if (!is_read(format)) return not_read("its format is '" + format + "'; pack-quantized and int-quantized are read");
    // Codes in bytes are there for activations in 8 bits. The weights are what they are; compressed_tensors.h says that
    // activations are not rounded.
    if (format != "int-quantized" && g.find({"input_activations"}) != nullptr)
      return not_read("its \"input_activations\" are quantized too, which is not read");
    if (g.find({"output_activations"}) != nullptr)
      return not_read("its \"output_activations\" are quantized too, which is not read");
    const Json* weights = g.find({"weights"});
    if (weights == nullptr) return not_read("its group says nothing of weights");
    return weights_of(Fields(*weights, g.place() + ": \"weights\""));
  }

  static LayerQuantization weights_of(const Fields& w) {
    if (const std::string type = lower(w.text({"type"}, "int")); type != "int")
      return not_read("its weights are of type '" + type + "'; int is read");
    LayerQuantization as;
    as.bits = w.bits({"num_bits"});
    as.symmetric = w.flag({"symmetric"}, true);
    w.group_size({"group_size"}, as);
    const bool grouped = w.find({"group_size"}) != nullptr && as.granularity == Granularity::group;
    const bool rows = w.find({"group_size"}) != nullptr && !grouped;  // −1
    const std::string strategy = lower(w.text({"strategy"}, grouped ? "group" : rows ? "channel" : "tensor"));
    if (strategy == "group" && !grouped)
      throw Error(ErrorCode::corrupt_file, w.place() + ": the strategy is group, and \"group_size\" is missing or −1");
    if (strategy == "tensor") as.granularity = Granularity::tensor;
    else if (strategy == "channel") as.granularity = Granularity::channel;
    else if (strategy != "group")
      unsupported(w, "the strategy '" + strategy + "' is not read; tensor, channel and group are");
    if (strategy != "group") as.group_size = 0;
    const Json* order = w.find({"actorder"});
    as.act_order = order != nullptr && (*order == "group" || *order == "dynamic" || *order == true);
    return as;
  }

  void add(QuantizationConfig::Rule rule) {
    constexpr std::size_t most = 4096;
    index_->add(rule.pattern, rule.is_regex);  // refuses a pattern that it does not know, before any layer is read
    if (index_->patterns() > most)
      throw Error(ErrorCode::unsupported, "the quantization_config has more than " + std::to_string(most) +
                                              " patterns that match more than one name");
    out_.rules_.push_back(std::move(rule));
  }

  QuantizationConfig out_;
  std::shared_ptr<format::RuleIndex> index_ = std::make_shared<format::RuleIndex>();
};

std::optional<QuantizationConfig> QuantizationConfig::parse(std::string_view text, const std::string& name) {
  const json::OrderedDocument parsed = json::parse_ordered(text, name);
  if (!parsed->is_object()) throw Error(ErrorCode::corrupt_file, "'" + name + "' is not a JSON object");
  const Json& document = *parsed;
  const Json* object = &document;
  for (const char* key : {"quantization_config", "compression_config"})
    if (const auto it = document.find(key); it != document.end() && !it->is_null()) object = &*it;
  const std::string place = "'" + name + "'" + (object == &document ? "" : ": \"quantization_config\"");
  QuantizationConfig out = QuantizationConfigParser(Fields(*object, place)).take();
  // MLX names no method; it says "quantization", which others do not, and repeats it for transformers.
  if (const auto it = document.find("quantization");
      it != document.end() && it->is_object() && (object == &document || !object->contains("quant_method"))) {
    out = {};
    out.method_ = "mlx";
    return out;
  }
  if (object == &document && out.method_.empty()) return std::nullopt;
  return out;
}

std::optional<QuantizationConfig> QuantizationConfig::find(const std::filesystem::path& model) {
  for (const char* file : {"quantize_config.json", "quant_config.json", "config.json"})
    if (const auto path = model / file; files::exists(path))
      if (auto config = parse(files::read_text(path), path.string())) return config;
  return std::nullopt;
}

const LayerQuantization& QuantizationConfig::of_layer(const std::string& layer) const {
  const auto rule = index_ ? index_->first(layer) : std::nullopt;
  return rule ? rules_[*rule].as : base_;
}

}  // namespace nibble::inline NIBBLE_ABI
