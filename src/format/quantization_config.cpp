#include "nibble/format/quantization_config.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/files.h"
#include "core/json.h"
#include "nibble/core/error.h"
#include "pattern.h"
#include "quantization_fields.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

using Json = nlohmann::ordered_json;  // rules are tried in the order of the file
using format::Fields, format::lower;

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
    else if (out_.method_ == "fp8" || out_.method_ == "fbgemm_fp8") fp8(f);
    else if (out_.method_ == "auto-round" || out_.method_ == "intel/auto-round") auto_round(f);
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

  /// AutoRound's, whose tensors are those of another method: it says which.
  void auto_round(const Fields& f) {
    refuse_structures(f, {"adapter", "rotation", "rotation_config", "transform_config"});
    std::string packing = lower(f.text({"packing_format"}, "auto_round:auto_gptq"));
    if (const std::string own = "auto_round:"; packing.starts_with(own)) packing.erase(0, own.size());
    if (packing == "auto_gptq" || packing == "auto_round") {
      out_.method_ = "gptq";
      out_.format_ = packing == "auto_gptq" ? "gptq" : "gptq_v2";  // its own has zero points as they are
    } else if (packing == "auto_awq") {
      out_.method_ = "awq";
      out_.format_ = "gemm";
    } else {
      unsupported(f,
                  "AutoRound's packing_format '" + packing + "' is not read; auto_gptq, auto_awq and auto_round are");
    }
    need_integers(f);
    out_.base_.bits = f.bits({"bits"});
    f.group_size({"group_size"}, out_.base_);
    out_.base_.symmetric = f.flag({"sym"}, out_.method_ == "gptq");
    if (f.find({"packing_format"}) == nullptr && !out_.base_.symmetric)
      unsupported(f, "AutoRound's \"packing_format\" is missing, which says how zero points are stored");
    if (const Json* layers = f.find({"extra_config"}))
      auto_round_rules(Fields(*layers, f.place() + ": \"extra_config\""));
  }

  static void need_integers(const Fields& f) {
    if (const auto type = lower(f.text({"data_type"}, "int")); type != "int")
      unsupported(f, "AutoRound's data_type '" + type + "' is not read in this packing_format; int is");
  }

  /// What differs from layer to layer: by a layer's name, or by an expression that matches anywhere in it, which a name
  /// without the number of a block is too. Of layers that stayed in floating point it says 16 bits, which tells nothing
  /// here.
  void auto_round_rules(const Fields& rules) {
    std::vector<QuantizationConfig::Rule> by_regex;
    for (const auto& [name, overrides] : rules.object().items()) {
      const Fields f(overrides, rules.place() + "[\"" + name.substr(0, 100) + "\"]");
      const Json* bits = f.find({"bits"});
      if (bits != nullptr && bits->is_number_integer() && bits->get<std::int64_t>() >= 16) continue;
      need_integers(f);
      QuantizationConfig::Rule rule{name, false, out_.base_};
      rule.as.bits = f.bits({"bits"}, rule.as.bits);
      f.group_size({"group_size"}, rule.as);
      rule.as.symmetric = f.flag({"sym"}, rule.as.symmetric);
      const bool is_regex = name.find_first_of("*^$[](){}|+?\\") != std::string::npos ||
                            name.find_first_of("0123456789") == std::string::npos;
      if (is_regex) by_regex.push_back({name.starts_with('^') ? name : ".*(?:" + name + ")", true, rule.as});
      add(std::move(rule));
    }
    for (auto& rule : by_regex) add(std::move(rule));  // names come before patterns
  }

  void compressed_tensors(const Fields& f) {
    out_.format_ = lower(f.text({"format"}, "pack-quantized"));
    refuse_structures(f, {"kv_cache_scheme", "transform_config"});
    if (const Json* sparsity = f.find({"sparsity_config"}); sparsity != nullptr && !sparsity->empty())
      if (const auto format = Fields(*sparsity, f.place() + ": \"sparsity_config\"").text({"format"}, "?");
          format != "dense")
        unsupported(f, "the sparse format '" + format + "' is not read");
    if (!is_read(out_.format_) && out_.format_ != "mixed-precision")
      out_.base_.obstacle = "its format is '" + out_.format_ + "'; " + formats_read();
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

  /// Which weights share a scale is all that is asked of it: which layers there are, their tensors say.
  void fp8(const Fields& f) {
    out_.format_ = lower(f.text({"fmt"}, ""));
    out_.base_.granularity = Granularity::tensor;
    out_.base_.group_size = 0;
    if (const Json* block = f.find({"weight_block_size"})) tile(f, "weight_block_size", *block, out_.base_);
  }

  /// [128, 128], or [1, 128]: rows and columns that share a scale.
  static void tile(const Fields& f, const char* name, const Json& size, LayerQuantization& as) {
    const auto side = [&](std::size_t i) {
      const std::int64_t n = size[i].is_number_integer() ? size[i].get<std::int64_t>() : 0;
      if (n < 1 || n > 1 << 28) f.refuse(name, size, "two positive numbers are needed");
      return static_cast<std::size_t>(n);
    };
    if (!size.is_array() || size.size() != 2) f.refuse(name, size, "two positive numbers are needed");
    const std::size_t rows = side(0), columns = side(1);
    as.granularity = rows == 1 ? Granularity::group : Granularity::tile;
    as.group_size = columns;
    if (rows != 1 && rows != columns)
      as.obstacle = "its tiles are of " + std::to_string(rows) + " rows by " + std::to_string(columns) +
                    " columns; those as high as they are wide are read, and those of one row";
  }

  /// Keys whose value, if there is one, changes what the model computes.
  static void refuse_structures(const Fields& f, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
      if (const Json* v = f.find({key}); v != nullptr && !v->empty())
        unsupported(f, "\"" + std::string(key) + "\" is there, which is not read: it changes what the model computes");
  }

  static bool is_read(const std::string& format) {
    return format == "pack-quantized" || format == "int-quantized" || holds_floats(format) ||
           format == "naive-quantized";
  }
  static bool holds_floats(const std::string& format) {
    constexpr std::array<std::string_view, 5> known{"float-quantized", "mxfp8-quantized", "mxfp6-pack-quantized",
                                                    "mxfp4-pack-quantized", "nvfp4-pack-quantized"};
    return std::find(known.begin(), known.end(), format) != known.end();
  }

  static std::string formats_read() {
    return "pack-quantized, int-quantized, float-quantized, mxfp8-quantized and the packed MX and NVFP4 formats are "
           "read";
  }

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
    if (!is_read(format)) return not_read("its format is '" + format + "'; " + formats_read());
    // Codes in bytes, and floats, are there for activations of the kind. The weights are what they are;
    // compressed_tensors.h says that activations are not rounded.
    if (format == "pack-quantized" && g.find({"input_activations"}) != nullptr)
      return not_read("its \"input_activations\" are quantized too, which is not read");
    if (g.find({"output_activations"}) != nullptr)
      return not_read("its \"output_activations\" are quantized too, which is not read");
    const Json* weights = g.find({"weights"});
    if (weights == nullptr) return not_read("its group says nothing of weights");
    return weights_of(Fields(*weights, g.place() + ": \"weights\""));
  }

  static LayerQuantization weights_of(const Fields& w) {
    const std::string type = lower(w.text({"type"}, "int"));
    if (type != "int" && type != "float")
      return not_read("its weights are of type '" + type + "'; int and float are read");
    LayerQuantization as;
    as.bits = w.bits({"num_bits"});
    if (type == "float") {
      if (as.bits != 8 && as.bits != 6 && as.bits != 4)
        return not_read("its weights are floats of " + std::to_string(as.bits) + " bits; 8, 6 and 4 are read");
      as.floats = as.bits == 8 ? SchemeKind::e4m3 : as.bits == 6 ? SchemeKind::e2m3 : SchemeKind::e2m1;
    }
    as.symmetric = w.flag({"symmetric"}, true);
    w.group_size({"group_size"}, as);
    const bool grouped = w.find({"group_size"}) != nullptr && as.granularity == Granularity::group;
    const bool rows = w.find({"group_size"}) != nullptr && !grouped;  // −1
    const std::string strategy = lower(w.text({"strategy"}, grouped ? "group" : rows ? "channel" : "tensor"));
    if (strategy == "group" && !grouped)
      throw Error(ErrorCode::corrupt_file, w.place() + ": the strategy is group, and \"group_size\" is missing or −1");
    if (strategy == "tensor") as.granularity = Granularity::tensor;
    else if (strategy == "channel") as.granularity = Granularity::channel;
    else if (as.floats && strategy == "tensor_group" && grouped) as.tensor_scale = true;
    else if (as.floats && strategy == "block" && w.find({"block_structure"}) != nullptr)
      tile(w, "block_structure", *w.find({"block_structure"}), as);
    else if (strategy != "group")
      unsupported(w, "the strategy '" + strategy +
                         "' is not read; tensor, channel and group are, and of floats block "
                         "with its block_structure and tensor_group with its group_size");
    if (as.granularity != Granularity::group && as.granularity != Granularity::tile) as.group_size = 0;
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
  // MLX names no method; it says "quantization", which others but ModelOpt do not, and repeats it for transformers.
  if (const auto it = document.find("quantization");
      it != document.end() && it->is_object() && (object == &document || !object->contains("quant_method"))) {
    const bool is_modelopt = it->contains("quant_algo");  // hf_quant_config.json
    out = {};
    out.method_ = is_modelopt ? "modelopt" : "mlx";
    return out;
  }
  if (object == &document && out.method_.empty()) return std::nullopt;
  return out;
}

std::optional<QuantizationConfig> QuantizationConfig::find(const std::filesystem::path& model) {
  for (const char* file : {"quantize_config.json", "quant_config.json", "config.json", "hf_quant_config.json"})
    if (const auto path = model / file; files::exists(path))
      if (auto config = parse(files::read_text(path), path.string())) return config;
  return std::nullopt;
}

const LayerQuantization& QuantizationConfig::of_layer(const std::string& layer) const {
  const auto rule = index_ ? index_->first(layer) : std::nullopt;
  return rule ? rules_[*rule].as : base_;
}

}  // namespace nibble::inline NIBBLE_ABI
