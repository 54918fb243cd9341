#include "compare_rows.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "commands.h"
#include "compare_losses.h"
#include "core/files.h"
#include "core/json.h"
#include "core/pending.h"
#include "interrupt.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "progress_bar.h"

extern char** environ;

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// What a step said of its failure: its last message without the tool's name, or how it ended.
std::string failure_of(int status, std::string said) {
  if (WIFSIGNALED(status))
    return fmt::format("ended by signal {} ({}){}", WTERMSIG(status), strsignal(WTERMSIG(status)),
                       WTERMSIG(status) == SIGKILL ? ": was there memory enough?" : "");
  constexpr std::string_view name = "nibble: ";
  while (said.ends_with('\n')) said.pop_back();
  const std::size_t at = said.rfind("\n" + std::string(name));
  if (at != std::string::npos) said.erase(0, at + 1);
  if (said.starts_with(name)) said.erase(0, name.size());
  return said.empty() ? fmt::format("ended with status {}", WEXITSTATUS(status)) : said;
}

/// Runs this tool again with other arguments: a process per step is the only honest way to measure its peak memory, and
/// what ends one step does not end the others. What it says goes to `log`. Error{cancelled} after Ctrl-C, else
/// Error{io} with what it said of its failure.
void run_self(std::vector<std::string> arguments, const fs::path& log) {
  arguments.insert(arguments.begin(), "nibble");
  if (chosen_backend() != nullptr)
    arguments.insert(arguments.end(), {"--backend", std::string(chosen_backend()->name())});
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child = 0;
  const int error = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw Error(ErrorCode::io, fmt::format("cannot start '{}': {}", fmt::join(arguments, " "),
                                           std::generic_category().message(error)));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (interrupted() || (WIFEXITED(status) && WEXITSTATUS(status) == kInterruptedExit))
    throw Error(ErrorCode::cancelled, "interrupted");
  const std::string said = files::exists(log) ? files::read_text(log) : std::string();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw Error(ErrorCode::io, failure_of(status, said));
  fmt::print(stderr, "{}", said);  // warnings
}

/// A figure that a step wrote; null is what JSON makes of NaN.
double figure(const nlohmann::json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && it->is_number() ? it->get<double>() : kUnknown;
}

class Comparison {
 public:
  explicit Comparison(const CompareOptions& o) : o_(o) {}

  std::vector<CompareRow> run() {
    std::vector<CompareRow> rows;
    ProgressBar bar("comparing");
    const bool shown = std::find(o_.methods.begin(), o_.methods.end(), "fp32") != o_.methods.end();
    const double steps = static_cast<double>(o_.methods.size()) + (shown ? 0 : 1);
    double done = 1;
    try {
      reference_ = attempt("fp32", true);
      for (const auto& name : o_.methods) {
        report(bar.callback(), done / steps, name);
        rows.push_back(name == "fp32" ? reference_ : attempt(name, false));
        done += name == "fp32" ? 0 : 1;
      }
    } catch (const Error& e) {
      if (e.code() != ErrorCode::cancelled) throw;
      interrupted_ = true;
    }
    return rows;
  }
  bool was_interrupted() const { return interrupted_; }
  const CompareRow& reference() const { return reference_; }

 private:
  CompareRow attempt(const std::string& name, bool reference) {
    CompareRow row;
    try {
      row = measure(name, reference);
      if (!std::isfinite(row.perplexity)) row.failure = "its perplexity is no finite number";
    } catch (const Error& e) {
      if (e.code() == ErrorCode::cancelled) throw;
      row.failure = e.what();
    } catch (const std::exception& e) {  // no memory, a figure that is no number
      row.failure = e.what();
    }
    row.method = name;
    return row;
  }

  CompareRow measure(const std::string& name, bool reference) {
    const std::string stored(stored_name(name));
    const bool keeps = !o_.save.empty();
    const fs::path copy = place_of(keeps ? fs::path(o_.save) : work_.path(), name),
                   figures = work_.path() / (name + ".json"), log_probabilities = work_.path() / "reference";
    const Method method = parse_method(name);
    const fs::path log = work_.path() / "log";
    if (!made_.contains(stored)) {
      run_self(method.gguf.empty() ? quantize_arguments(method, copy) : export_arguments(method, copy), log);
      made_.insert(stored);
    }
    std::vector<std::string> eval{"eval",     copy,
                                  "--text",   o_.text,
                                  "--tokens", std::to_string(o_.tokens),
                                  "--window", std::to_string(o_.window),
                                  "--stride", std::to_string(o_.stride),
                                  "--json",   figures,
                                  "--quiet"};
    if (reference) eval.insert(eval.end(), {"--save-reference", log_probabilities});
    else if (reference_.failure.empty()) eval.insert(eval.end(), {"--reference", log_probabilities});
    if (method.int8_activations) eval.push_back("--int8-activations");
    if (!o_.adapter.empty()) eval.insert(eval.end(), {"--adapter", o_.adapter});
    try {
      run_self(std::move(eval), log);
    } catch (...) {
      if (!keeps) forget(stored, copy);
      throw;
    }
    const json::Document document = json::parse(files::read_text(figures), figures.string());
    const nlohmann::json& j = *document;
    CompareRow row;
    row.bits_per_weight = figure(j, "bits_per_weight");
    row.perplexity = figure(j, "perplexity");
    row.perplexity_error = figure(j, "perplexity_error");
    if (reference || reference_.failure.empty()) {
      row.kl_mean = figure(j, "kl_mean");
      row.kl_error = figure(j, "kl_error");
      row.change_error = figure(j, "perplexity_change_error");
    }
    row.prefill = figure(j, "prefill_tokens_per_s");
    row.decode = figure(j, "decode_tokens_per_s");
    row.file_bytes = files::size(method.gguf.empty() ? copy / "model.safetensors" : copy);
    row.peak_rss_bytes = j.value("peak_rss_bytes", std::size_t{0});
    row.predicted = j.value("predicted_tokens", std::size_t{0});
    row.kl_predictions = j.value("kl_predictions", std::size_t{0});
    const bool comparable = !method.calibrated || method.calibrated->kind != model::CalibratedMethod::Kind::awq;
    if (!o_.report.empty() && !reference && comparable) row.losses = losses_of(copy);
    if (!keeps) forget(stored, copy);
    return row;
  }

  [[nodiscard]] std::vector<std::string> quantize_arguments(const Method& method, const fs::path& copy) const {
    const std::string stored(stored_name(method.name));
    std::vector<std::string> out{"quantize", o_.model, "-o", copy, "--method", stored, "--quiet"};
    if (method.calibrated && !o_.calibration.empty()) out.insert(out.end(), {"--calibration", o_.calibration});
    if (method.spec) add_selection(out);
    return out;
  }
  [[nodiscard]] std::vector<std::string> export_arguments(const Method& method, const fs::path& copy) const {
    std::vector<std::string> out{"export-gguf", o_.model, copy, "--quiet"};
    out.insert(out.end(), method.gguf.begin(), method.gguf.end());
    if (method.gguf_needs_text)
      out.insert(out.end(), {"--calibration",
                             o_.calibration.empty() ? (example_data() / "calibration.txt").string() : o_.calibration});
    return out;
  }

  /// Which layers, as `quantize` is told.
  void add_selection(std::vector<std::string>& arguments) const {
    for (const auto& pattern : o_.skip) arguments.insert(arguments.end(), {"--skip", pattern});
    for (const auto& pattern : o_.only) arguments.insert(arguments.end(), {"--only", pattern});
    if (o_.lm_head) arguments.emplace_back("--lm-head");
  }

  /// What the report's map of layers shows. A row has its figures without it.
  std::vector<LayerLoss> losses_of(const fs::path& copy) {
    if (map_failed_) return {};
    try {
      if (!original_)
        original_.emplace(o_.model,
                          o_.calibration.empty() ? example_data() / "calibration.txt" : fs::path(o_.calibration));
      return original_->losses(copy);
    } catch (const Error& e) {
      if (e.code() == ErrorCode::cancelled) throw;
      return without_map(copy, e.what());
    } catch (const std::exception& e) {  // no memory
      return without_map(copy, e.what());
    }
  }
  std::vector<LayerLoss> without_map(const fs::path& copy, const std::string& why) {
    map_failed_ = !original_;  // what fails for the model itself fails for every row
    note((map_failed_ ? "the report has no map of layers: "
                      : "the map of layers has no row of " + copy.filename().string() + ": ") +
         why);
    return {};
  }

  void forget(const std::string& stored, const fs::path& copy) {
    files::remove_quietly(copy);
    made_.erase(stored);
  }

  const CompareOptions& o_;
  /// For the quantized copies and the figures.
  files::PendingDirectory work_{files::PendingDirectory::Scratch{}, fs::temp_directory_path() / "nibble-compare"};
  std::set<std::string> made_;              ///< Models that are there.
  std::optional<OriginalLayers> original_;  ///< Where a report is asked for.
  bool map_failed_ = false;
  CompareRow reference_;
  bool interrupted_ = false;
};

}  // namespace

fs::path place_of(const fs::path& folder, std::string_view method) {
  return folder / (std::string(stored_name(method)) + (parse_method(method).gguf.empty() ? "" : ".gguf"));
}

CompareResult compare_methods(const CompareOptions& options) {
  Comparison comparison(options);
  CompareResult out;
  out.rows = comparison.run();
  out.reference = comparison.reference();
  out.interrupted = comparison.was_interrupted();
  return out;
}

}  // namespace nibble::cli
