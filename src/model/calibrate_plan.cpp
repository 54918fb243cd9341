#include "calibrate_plan.h"

#include <algorithm>
#include <cstdio>

#include "format/pattern.h"
#include "gguf_checkpoint.h"
#include "gguf_directory.h"
#include "gguf_weights.h"
#include "layer_selection.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Kind = CalibratedMethod::Kind;

/// FNV-1a: tells different runs apart; nobody forges them.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) value_ = (value_ ^ static_cast<std::uint64_t>(b)) * 1099511628211u;
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  [[nodiscard]] std::string text() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(value_));
    return out;
  }

 private:
  std::uint64_t value_ = 14695981039346656037u;
};

/// The configuration, and of each tensor its name, type, shape, and the bytes at both its ends.
std::string hash_of_model(const fs::path& from, const Checkpoint& checkpoint) {
  Hash hash;
  hash.add(config_json(from));
  const auto add = [&](std::string_view name, std::string_view type, const auto& shape, const Buffer& bytes) {
    hash.add(name);
    hash.add(type);
    hash.add(std::as_bytes(std::span(shape)));
    const std::size_t end = std::min<std::size_t>(bytes.size(), 4096);
    hash.add({bytes.data(), end});
    hash.add({bytes.data() + bytes.size() - end, end});
  };
  if (is_gguf(from)) {  // as stored: decoding all of it would take long
    const GgufFile file(from);
    for (const GgufTensor& t : file.tensors()) add(t.name, t.type_name(), t.shape, file.data(t));
  } else {
    for (const TensorInfo& t : checkpoint.tensors()) add(t.name, name_of(t.type), t.shape, checkpoint.data(t.name));
  }
  return hash.text();
}

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

CalibrationPlan::CalibrationPlan(const fs::path& from, const CalibrateOptions& options)
    : from_(from), options_(options) {
  check_options();
  config_ = Config::load(from);
  checkpoint_ = open_checkpoint(from, GgufView::decoded);
  refuse_quantized(check_stored_weights(checkpoint_, config_, from.string()), from.string());
  std::vector<bool> used(options.rules.size());
  std::vector<std::string> layers;
  for (std::size_t i = 0; i < config_.layers; ++i)
    for (std::string& layer : config_.architecture().linear_names(i)) layers.push_back(std::move(layer));
  if (options.lm_head) layers.emplace_back("lm_head");
  const LayerSelection selection(options.skip, options.only, layers);
  const auto choose = [&](const std::string& layer) {
    if (selection.contains(layer)) assign(layer, used);
    else skipped_.push_back(layer);
  };
  if (options.lm_head && config_.tied_embeddings)
    throw Error(ErrorCode::invalid_argument, "lm_head is tied to the embedding, which stays in floating point");
  for (const std::string& layer : layers) choose(layer);
  if (!options.lm_head) skipped_.push_back("lm_head");
  for (std::size_t r = 0; r < used.size(); ++r)
    if (!used[r])
      throw Error(ErrorCode::invalid_argument,
                  "the pattern '" + options.rules[r].pattern + "' decides for no linear layer of the model");
  if (layers_.empty()) throw Error(ErrorCode::invalid_argument, "the rules skip every layer; nothing is left to do");
  choose_layout();
  // A layout has its own type of scales: what is rounded is rounded to that.
  for (QuantizedLayer& l : layers_) {
    l.description.spec = nearest_spec(layout_, l.description);
    methods_.at(l.name).spec = l.description.spec;
  }
}

void CalibrationPlan::check_options() const {
  const auto need = [](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, why);
  };
  const CalibrateOptions& o = options_;
  const std::string method = o.method.to_string(), samples = std::to_string(o.samples);
  need(o.method.kind != Kind::round, "'" + method + "' needs no calibration; use quantize_model");
  need(o.samples > 0 && o.sample_tokens > 1, std::to_string(o.samples) + " samples of " +
                                                 std::to_string(o.sample_tokens) +
                                                 " tokens; at least one of two tokens is needed");
  need(o.damp >= 0 && o.damp <= 1, "damp is " + number(o.damp) + "; it must be 0 to 1");
  for (const ModuleRule& r : o.rules) {
    (void)format::Pattern(r.pattern);
    need(!r.method || r.method->kind == Kind::round || r.method->kind == o.method.kind,
         "'" + r.pattern + "=" + (r.method ? r.method->to_string() : "") + "': a run is of GPTQ or of AWQ, not both");
  }
}

void CalibrationPlan::assign(const std::string& layer, std::vector<bool>& rule_used) {
  std::optional<CalibratedMethod> method = options_.method;
  for (std::size_t r = 0; r < options_.rules.size(); ++r)
    if (found_in(options_.rules[r].pattern, layer)) {
      method = options_.rules[r].method;
      rule_used[r] = true;
      break;
    }
  if (!method) {
    skipped_.push_back(layer);
    return;
  }
  const TensorInfo& weights = checkpoint_.matrix_info(layer + ".weight");
  const bool act_order = method->kind == Kind::gptq && method->act_order && !method->static_groups;
  methods_.emplace(layer, *method);
  layers_.push_back({layer, {method->spec, weights.shape[0], weights.shape[1], act_order, weights.type}});
}

void CalibrationPlan::choose_layout() {
  if (options_.layout) {
    layout_ = *options_.layout;
    (void)quantization_config(layout_, layers_, skipped_);  // throws where it has no room for a layer
    return;
  }
  const bool zero_points = std::any_of(layers_.begin(), layers_.end(),
                                       [](const QuantizedLayer& l) { return l.description.spec.has_zero_points(); });
  const CheckpointLayout home = options_.method.kind == Kind::awq ? CheckpointLayout::awq_gemm
                                : zero_points                     ? CheckpointLayout::gptq_v2
                                                                  : CheckpointLayout::gptq;
  for (const CheckpointLayout layout : {home, CheckpointLayout::compressed_tensors}) try {
      layout_ = layout;
      (void)quantization_config(layout, layers_, skipped_);
      return;
    } catch (const Error& e) {
      if (e.code() != ErrorCode::unsupported) throw;
    }
  layout_ = CheckpointLayout::nibble;
}

std::optional<CalibratedMethod> CalibrationPlan::method_of(const std::string& layer) const {
  const auto it = methods_.find(layer);
  return it == methods_.end() ? std::nullopt : std::optional(it->second);
}

QuantizationRun CalibrationPlan::run() const {
  QuantizationRun out;
  if (options_.method.kind != Kind::gptq) return out;
  out.damp_percent = options_.damp;
  out.true_sequential = options_.true_sequential;
  out.static_groups = options_.method.static_groups;
  return out;
}

std::size_t CalibrationPlan::sample_tokens() const {
  return config_.context == 0 ? options_.sample_tokens : std::min(options_.sample_tokens, config_.context);
}

void CalibrationPlan::check_ids(std::span<const std::int32_t> ids) const {
  if (ids.size() < 2)
    throw Error(ErrorCode::invalid_argument, "a calibration text of " + std::to_string(ids.size()) +
                                                 " tokens says nothing; tens of thousands are usual");
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= config_.vocab)
      throw Error(ErrorCode::invalid_argument, "calibration token " + std::to_string(t) + " is " +
                                                   std::to_string(ids[t]) + "; the vocabulary has ids 0 to " +
                                                   std::to_string(config_.vocab - 1));
}

std::map<std::string, std::string> CalibrationPlan::manifest(std::span<const std::int32_t> ids) const {
  Hash text;
  text.add(std::as_bytes(ids));
  std::string rules;
  for (const std::string& pattern : options_.skip) rules += "skip " + pattern + " ";
  for (const std::string& pattern : options_.only) rules += "only " + pattern + " ";
  for (const ModuleRule& r : options_.rules)
    rules += r.pattern + "=" + (r.method ? r.method->to_string() : "skip") + " ";
  return {{"version", "1"},
          {"model", hash_of_model(from_, checkpoint_)},
          {"calibration text", text.text()},
          {"method", options_.method.to_string()},
          {"modules", rules},
          {"lm_head", options_.lm_head ? "yes" : "no"},
          {"format", std::string(name_of(layout_))},
          {"samples", std::to_string(options_.samples)},
          {"sample tokens", std::to_string(sample_tokens())},
          {"damp", number(options_.damp)},
          {"true sequential", options_.true_sequential ? "yes" : "no"}};
}

std::vector<std::size_t> sample_starts(std::size_t tokens, std::size_t samples, std::size_t length) {
  if (tokens <= length) return {0};
  const std::size_t count = std::min(samples, tokens / length);
  std::vector<std::size_t> out;
  for (std::size_t s = 0; s < count; ++s) out.push_back(count == 1 ? 0 : s * ((tokens - length) / (count - 1)));
  return out;
}

std::string digest(const std::map<std::string, std::string>& manifest) {
  Hash hash;
  for (const auto& [key, value] : manifest) hash.add(key + "=" + value + "\n");
  return hash.text();
}

bool made_by(const fs::path& directory, const std::map<std::string, std::string>& manifest) {
  const fs::path file = directory / "model.safetensors";
  return fs::exists(file) && Checkpoint::open(file).find_metadata(kDigestKey) == digest(manifest);
}

}  // namespace nibble::inline NIBBLE_ABI::model
