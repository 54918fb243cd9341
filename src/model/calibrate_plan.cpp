#include "calibrate_plan.h"

#include <algorithm>
#include <cstdio>

#include "format/pattern.h"
#include "layer_selection.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using Kind = CalibratedMethod::Kind;

/// Found anywhere in a name, as a regular expression is searched for.
bool found_in(const std::string& pattern, const std::string& name) {
  return format::Pattern(".*(?:" + pattern + ")").matches_start(name);
}

std::string number(double x) {
  char out[32];
  std::snprintf(out, sizeof out, "%.17g", x);
  return out;
}

}  // namespace

std::string Hash::text() const {
  char out[17];
  std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(value_));
  return out;
}

CalibrationPlan::CalibrationPlan(CalibratedModel& model, const CalibrateOptions& options)
    : model_(model), options_(options) {
  check(options);
  std::vector<CalibratedLayer> layers;
  const auto add = [&](const CalibratedLayer& layer) {
    layers.push_back(layer);
    return layer.rows * layer.cols * sizeof(float);
  };
  for (std::size_t i = 0; i < model.blocks(); ++i) {
    std::size_t bytes = 0;
    for (const CalibratedLayer& layer : model.layers(i)) bytes += add(layer);
    block_bytes_.push_back(bytes);
  }
  const std::size_t of_blocks = layers.size();
  if (options.lm_head) {
    const std::unique_ptr<CalibratedBlock> head = model.head();
    if (head == nullptr) throw Error(ErrorCode::invalid_argument, "the model has no head that could be quantized");
    for (const LayerGroup& group : head->groups()) std::for_each(group.layers.begin(), group.layers.end(), add);
  }
  std::vector<std::string> names;
  for (const CalibratedLayer& layer : layers) names.push_back(layer.name);
  const LayerSelection selection(options.skip, options.only, names);
  std::vector<bool> used(options.rules.size());
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (selection.contains(layers[l].name)) assign(layers[l], used);
    else skipped_.push_back(layers[l].name);
    has_head_ = has_head_ || (l >= of_blocks && methods_.contains(layers[l].name));
  }
  for (std::size_t r = 0; r < used.size(); ++r)
    if (!used[r])
      throw Error(ErrorCode::invalid_argument,
                  "the pattern '" + options.rules[r].pattern + "' decides for no linear layer of the model");
  require_layers();
}

void CalibrationPlan::require_layers() const {
  if (layers_.empty()) throw Error(ErrorCode::invalid_argument, "the rules skip every layer; nothing is left to do");
}

void CalibrationPlan::keep_if(const std::function<bool(const QuantizedLayer&)>& wanted) {
  std::erase_if(layers_, [&](const QuantizedLayer& l) {
    if (wanted(l)) return false;
    methods_.erase(l.name);
    skipped_.push_back(l.name);
    return true;
  });
  require_layers();
}

void CalibrationPlan::check(const CalibrateOptions& o) {
  const auto need = [](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, why);
  };
  const std::string method = o.method.to_string(), samples = std::to_string(o.samples);
  need(o.method.kind != Kind::round, "'" + method + "' needs no calibration; use quantize_model");
  need(o.samples > 0 && o.sample_tokens > 1, std::to_string(o.samples) + " samples of " +
                                                 std::to_string(o.sample_tokens) +
                                                 " tokens; at least one of two tokens is needed");
  need(o.damp_percent >= 0 && o.damp_percent <= 1, "damp_percent is " + number(o.damp_percent) + "; it must be 0 to 1");
  for (const ModuleRule& r : o.rules) {
    (void)format::Pattern(r.pattern);
    need(!r.method || r.method->kind == Kind::round || r.method->kind == o.method.kind,
         "'" + r.pattern + "=" + (r.method ? r.method->to_string() : "") + "': a run is of GPTQ or of AWQ, not both");
  }
}

void CalibrationPlan::assign(const CalibratedLayer& layer, std::vector<bool>& rule_used) {
  std::optional<CalibratedMethod> method = options_.method;
  for (std::size_t r = 0; r < options_.rules.size(); ++r)
    if (found_in(options_.rules[r].pattern, layer.name)) {
      method = options_.rules[r].method;
      rule_used[r] = true;
      break;
    }
  if (!method) {
    skipped_.push_back(layer.name);
    return;
  }
  const bool act_order = method->kind == Kind::gptq && method->act_order && !method->static_groups;
  if (!methods_.emplace(layer.name, *method).second)
    throw Error(ErrorCode::invalid_argument, "two layers of the model have the name '" + layer.name + "'");
  layers_.push_back({layer.name, {method->spec, layer.rows, layer.cols, act_order, layer.type}});
}

void CalibrationPlan::set_spec(std::size_t index, const QuantSpec& spec) {
  QuantizedLayer& layer = layers_.at(index);
  layer.description.spec = methods_.at(layer.name).spec = spec;
}

std::optional<CalibratedMethod> CalibrationPlan::method_of(const std::string& layer) const {
  const auto it = methods_.find(layer);
  return it == methods_.end() ? std::nullopt : std::optional(it->second);
}

bool CalibrationPlan::corrects_inputs() const {
  return std::ranges::any_of(methods_, [](const auto& layer) { return layer.second.corrects_inputs(); });
}

std::size_t sample_length(const CalibratedModel& model, std::size_t sample_tokens) {
  const std::size_t context = model.context();
  return context == 0 ? sample_tokens : std::min(sample_tokens, context);
}

void check_ids(const CalibratedModel& model, std::span<const std::int32_t> ids) {
  if (ids.size() < 2)
    throw Error(ErrorCode::invalid_argument, "a calibration text of " + std::to_string(ids.size()) +
                                                 " tokens says nothing; tens of thousands are usual");
  const std::size_t vocabulary = model.vocabulary();
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (vocabulary != 0 && (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= vocabulary))
      throw Error(ErrorCode::invalid_argument, "calibration token " + std::to_string(t) + " is " +
                                                   std::to_string(ids[t]) + "; the vocabulary has ids 0 to " +
                                                   std::to_string(vocabulary - 1));
}

CalibrationSink::Manifest CalibrationPlan::manifest(std::span<const std::int32_t> ids) const {
  Hash text;
  text.add(std::as_bytes(ids));
  std::string rules;
  for (const std::string& pattern : options_.skip) rules += "skip " + pattern + " ";
  for (const std::string& pattern : options_.only) rules += "only " + pattern + " ";
  for (const ModuleRule& r : options_.rules)
    rules += r.pattern + "=" + (r.method ? r.method->to_string() : "skip") + " ";
  CalibrationSink::Manifest out{{"version", "1"},
                                {"calibration text", text.text()},
                                {"method", options_.method.to_string()},
                                {"modules", rules},
                                {"lm_head", options_.lm_head ? "yes" : "no"},
                                {"samples", std::to_string(options_.samples)},
                                {"sample tokens", std::to_string(sample_tokens())},
                                {"damp", number(options_.damp_percent)},
                                {"true sequential", options_.true_sequential ? "yes" : "no"}};
  if (corrects_inputs()) out["inputs"] = "the quantized model's and the full-precision model's beside them";
  return out;
}

std::vector<std::size_t> sample_starts(std::size_t tokens, std::size_t samples, std::size_t length) {
  if (tokens <= length) return {0};
  const std::size_t count = std::min(samples, tokens / length);
  std::vector<std::size_t> out;
  for (std::size_t s = 0; s < count; ++s) out.push_back(count == 1 ? 0 : s * ((tokens - length) / (count - 1)));
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
