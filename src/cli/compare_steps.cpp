#include "compare_steps.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "child_process.h"
#include "commands.h"
#include "core/files.h"
#include "core/json.h"
#include "nibble/core/error.h"
#include "nibble/core/parallel.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// A figure that a step wrote; null is what JSON makes of NaN.
double figure(const nlohmann::json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && it->is_number() ? it->get<double>() : kUnknown;
}

void take_quality(CompareRow& row, const nlohmann::json& j, bool compared) {
  row.bits_per_weight = figure(j, "bits_per_weight");
  row.perplexity = figure(j, "perplexity");
  row.perplexity_error = figure(j, "perplexity_error");
  if (compared) {
    row.kl_mean = figure(j, "kl_mean");
    row.kl_error = figure(j, "kl_error");
    row.change_error = figure(j, "perplexity_change_error");
  }
  row.peak_rss_bytes = j.value("peak_rss_bytes", std::size_t{0});
  row.predicted = j.value("predicted_tokens", std::size_t{0});
  row.kl_predictions = j.value("kl_predictions", std::size_t{0});
}

void take_speed(CompareRow& row, const nlohmann::json& j) {
  row.prefill = figure(j, "prefill_tokens_per_s");
  row.decode = figure(j, "decode_tokens_per_s");
}

/// Runs `work`, and gives the reason of what fails. Ctrl-C is an error and ends all.
template <class Work>
std::string failure_in(const Work& work) {
  try {
    work();
    return {};
  } catch (const Error& e) {
    if (e.code() == ErrorCode::cancelled) throw;
    return e.what();
  } catch (const std::exception& e) {  // no memory, a figure that is no number
    return e.what();
  }
}

/// Removes a model when the work with it ends, however that is.
struct Forget {
  explicit Forget(fs::path place) : path(std::move(place)) {}
  ~Forget() {
    if (!path.empty()) files::remove_quietly(path);
  }
  Forget(const Forget&) = delete;
  Forget& operator=(const Forget&) = delete;
  fs::path path;
};

}  // namespace

CompareSteps::CompareSteps(const CompareOptions& options, int jobs)
    : o_(options), jobs_(jobs), threads_(jobs == 1 ? 0 : std::max(1, default_executor().concurrency() / jobs)) {}

fs::path CompareSteps::copy_of(const std::string& method) const {
  return place_of(o_.save.empty() ? work_.path() : fs::path(o_.save), method);
}
fs::path CompareSteps::file_of(const Method& method, const std::string& ending) const {
  return work_.path() / (method.name + ending);
}

CompareRow CompareSteps::reference() {
  const fs::path copy = copy_of("fp32");
  const Forget forget(o_.save.empty() ? copy : fs::path());
  CompareRow row;
  row.failure = failure_in([&] { make(parse_method("fp32"), copy); });
  if (row.failure.empty()) row = attempt("fp32", true);
  row.method = "fp32";
  has_reference_ = row.failure.empty();
  return row;
}

std::vector<CompareRow> CompareSteps::rows(const std::vector<std::string>& methods) {
  const fs::path copy = copy_of(methods.front());
  const Forget forget(o_.save.empty() ? copy : fs::path());
  const std::string failure = failure_in([&] { make(parse_compared_method(methods.front()), copy); });
  std::vector<CompareRow> out;
  for (const std::string& name : methods) {
    CompareRow row;
    row.failure = failure;
    if (failure.empty()) row = attempt(name, false);
    row.method = name;
    out.push_back(std::move(row));
  }
  return out;
}

CompareRow CompareSteps::attempt(const std::string& method, bool reference) {
  CompareRow row;
  const std::string failure =
      failure_in([&] { row = measure(parse_compared_method(method), copy_of(method), reference); });
  if (!failure.empty()) row.failure = failure;
  else if (!std::isfinite(row.perplexity)) row.failure = "its perplexity is no finite number";
  return row;
}

void CompareSteps::make(const Method& method, const fs::path& copy) {
  turns_.together([&] {
    run_self(method.gguf.empty() ? quantize_arguments(method, model_of(method), copy) : export_arguments(method, copy),
             file_of(method, ".log"), threads_);
  });
}

/// What is quantized: the model, or what is made of it once and kept for the rows that follow.
fs::path CompareSteps::model_of(const Method& method) {
  if (method.rotation == Rotation::none) return o_.model;
  const std::lock_guard lock(rotations_);
  fs::path out = work_.path() / (method.rotation == Rotation::fold ? "folded" : "rotated");
  if (files::exists(out)) return out;
  std::vector<std::string> arguments{"rotate", o_.model, "-o", out, "--quiet"};
  if (method.rotation == Rotation::fold) arguments.insert(arguments.end(), {"--no-r1", "--no-r2"});
  run_self(std::move(arguments), file_of(method, ".log"), threads_);
  return out;
}

std::vector<std::string> CompareSteps::eval_arguments(const Method& method, const fs::path& copy) const {
  std::vector<std::string> out{"eval",     copy,
                               "--text",   o_.text,
                               "--tokens", std::to_string(o_.tokens),
                               "--window", std::to_string(o_.window),
                               "--stride", std::to_string(o_.stride),
                               "--quiet"};
  if (method.int8_activations) out.emplace_back("--int8-activations");
  if (!o_.adapter.empty()) out.insert(out.end(), {"--adapter", o_.adapter});
  return out;
}

/// With other models' steps beside it speed is measured by itself, while they pause; otherwise in one process with the
/// rest, which loads the model once.
CompareRow CompareSteps::measure(const Method& method, const fs::path& copy, bool reference) {
  const bool beside = jobs_ > 1 && !reference;
  const auto eval = [&](const char* what, std::vector<std::string> more, int threads) {
    const fs::path figures = file_of(method, std::string(".") + what + ".json");
    std::vector<std::string> arguments = eval_arguments(method, copy);
    arguments.insert(arguments.end(), {"--measure", what, "--json", figures});
    arguments.insert(arguments.end(), more.begin(), more.end());
    run_self(std::move(arguments), file_of(method, ".log"), threads);
    return json::parse(files::read_text(figures), figures.string());
  };
  std::vector<std::string> compared;
  if (reference) compared = {"--save-reference", work_.path() / "reference"};
  else if (has_reference_) compared = {"--reference", work_.path() / "reference"};
  CompareRow row;
  turns_.together([&] {
    const auto j = eval(beside ? "quality" : "all", std::move(compared), beside ? threads_ : 0);
    take_quality(row, *j, reference || has_reference_);
    if (!beside) take_speed(row, *j);
  });
  if (beside) turns_.alone([&] { take_speed(row, *eval("speed", {}, 0)); });
  row.file_bytes = files::size(method.gguf.empty() ? copy / "model.safetensors" : copy);
  // Layer by layer only where layers are what they were: AWQ and folding scale them, rotations turn them.
  const bool scaled = method.calibrated && method.calibrated->kind == model::CalibratedMethod::Kind::awq;
  const bool comparable = !scaled && method.rotation == Rotation::none;
  if (!o_.report.empty() && !reference && comparable) row.losses = losses_of(copy);
  return row;
}

std::vector<std::string> CompareSteps::quantize_arguments(const Method& method, const fs::path& model,
                                                          const fs::path& copy) const {
  const std::string stored(unrotated_name(stored_name(method.name)));
  std::vector<std::string> out{"quantize", model, "-o", copy, "--method", stored, "--quiet"};
  if (method.calibrated) {
    if (!o_.calibration.empty()) out.insert(out.end(), {"--calibration", o_.calibration});
    if (o_.samples != 0) out.insert(out.end(), {"--samples", std::to_string(o_.samples)});
  }
  if (!method.spec) return out;
  for (const auto& pattern : o_.skip) out.insert(out.end(), {"--skip", pattern});
  for (const auto& pattern : o_.only) out.insert(out.end(), {"--only", pattern});
  if (o_.lm_head) out.emplace_back("--lm-head");
  return out;
}

std::vector<std::string> CompareSteps::export_arguments(const Method& method, const fs::path& copy) const {
  std::vector<std::string> out{"export-gguf", o_.model, copy, "--quiet"};
  out.insert(out.end(), method.gguf.begin(), method.gguf.end());
  if (!method.gguf_needs_text) return out;
  out.insert(out.end(), {"--calibration",
                         o_.calibration.empty() ? (example_data() / "calibration.txt").string() : o_.calibration});
  if (o_.samples != 0) out.insert(out.end(), {"--samples", std::to_string(o_.samples)});
  return out;
}

/// What the report's map of layers shows. A row has its figures without it.
std::vector<LayerLoss> CompareSteps::losses_of(const fs::path& copy) {
  const std::lock_guard lock(map_);  // one model's inputs are held, whatever the number of rows
  if (map_failed_) return {};
  std::vector<LayerLoss> out;
  const std::string failure = failure_in([&] {
    turns_.together([&] {
      if (!original_)
        original_.emplace(o_.model,
                          o_.calibration.empty() ? example_data() / "calibration.txt" : fs::path(o_.calibration));
      out = original_->losses(copy);
    });
  });
  if (failure.empty()) return out;
  map_failed_ = !original_;  // what fails for the model itself fails for every row
  note((map_failed_ ? "the report has no map of layers: "
                    : "the map of layers has no row of " + copy.filename().string() + ": ") +
       failure);
  return {};
}

}  // namespace nibble::cli
