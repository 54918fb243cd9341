#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "commands.h"
#include "core/files.h"
#include "core/json.h"
#include "core/pending.h"
#include "format/recognise.h"
#include "interrupt.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/model/config.h"
#include "plot.h"
#include "progress_bar.h"
#include "table.h"

extern char** environ;

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, text, json, plot, calibration, save, adapter;
  std::vector<std::string> methods, skip, only;
  std::size_t tokens = 32768, window = 512, stride = 512;
  bool lm_head = false;

  [[nodiscard]] bool selects_layers() const { return lm_head || !skip.empty() || !only.empty(); }
};

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

struct Row {
  std::string method;
  double bits_per_weight = kUnknown, perplexity = kUnknown, kl_mean = kUnknown, prefill = kUnknown, decode = kUnknown;
  double perplexity_error = kUnknown, change_error = kUnknown, kl_error = kUnknown;  ///< Standard errors.
  std::size_t file_bytes = 0, peak_rss_bytes = 0, predicted = 0, kl_predictions = 0;
  std::string failure;  ///< Not empty: there are no figures, and why.
};

/// Where what a method stores lies: a directory, or a file.
fs::path place_of(const fs::path& folder, std::string_view method) {
  return folder / (std::string(stored_name(method)) + (parse_method(method).gguf.empty() ? "" : ".gguf"));
}

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
  explicit Comparison(const Options& o) : o_(o) {}

  /// fp32 is always evaluated first, since the others are compared with it, and shown only if asked for. What fails is
  /// a row that says why; after Ctrl-C the rows that are finished are returned.
  std::vector<Row> run() {
    std::vector<Row> rows;
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
  const Row& reference() const { return reference_; }

 private:
  Row attempt(const std::string& name, bool reference) {
    Row row;
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

  Row measure(const std::string& name, bool reference) {
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
    Row row;
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

  void forget(const std::string& stored, const fs::path& copy) {
    files::remove_quietly(copy);
    made_.erase(stored);
  }

  const Options& o_;
  /// For the quantized copies and the figures.
  files::PendingDirectory work_{files::PendingDirectory::Scratch{}, fs::temp_directory_path() / "nibble-compare"};
  std::set<std::string> made_;  ///< Models that are there.
  Row reference_;
  bool interrupted_ = false;
};

void print_table(const std::vector<Row>& rows, const Row& reference) {
  Table table({"method", "bits/weight", "file", "peak memory", "perplexity", "vs fp32", "KL to fp32", "prefill tok/s",
               "decode tok/s"});
  const auto text = [](const char* format, double value) {
    return std::isfinite(value) ? fmt::format(fmt::runtime(format), value) : std::string("—");
  };
  const auto change_of = [&](const Row& r) {
    const double change = 100 * (r.perplexity / reference.perplexity - 1);
    return r.change_error > 0 ? fmt::format("{:+.2f} ± {:.2f} %", change, 100 * r.change_error)
                              : text("{:+.2f} %", change);
  };
  const auto divergence_of = [&](const Row& r) {
    const double kl = std::isfinite(r.kl_mean) ? std::max(0.0, r.kl_mean) : kUnknown;
    return r.kl_error > 0 && kl >= 1e-6 ? fmt::format("{:.6f} ± {:.0f} %", kl, 100 * r.kl_error / kl)
                                        : text("{:.6f}", kl);
  };
  for (const Row& r : rows)
    if (r.failure.empty())
      table.row({r.method, text("{:.3f}", r.bits_per_weight), megabytes(r.file_bytes), megabytes(r.peak_rss_bytes),
                 text("{:.4f}", r.perplexity), change_of(r), divergence_of(r), text("{:.0f}", r.prefill),
                 text("{:.0f}", r.decode)});
    else table.row({r.method, "failed", "—", "—", "—", "—", "—", "—", "—"});
  fmt::print("{}", table.text());
  if (!reference.failure.empty()) fmt::print("\nfp32 failed, so nothing is compared with it: {}\n", reference.failure);
  for (const Row& r : rows)
    if (!r.failure.empty()) fmt::print("\n{} failed: {}\n", r.method, r.failure);
}

void print_legend(const Options& o, const std::vector<Row>& rows, const Row& reference) {
  fmt::print(
      "\nbits/weight: linear layers of the blocks, scales included; embeddings, norms{} stay as they are. "
      "+a8: activations in 8 bits, too.\n",
      o.lm_head            ? " (and what --skip and --only leave)"
      : o.selects_layers() ? ", lm_head and what --skip and --only leave"
                           : " and lm_head");
  fmt::print("Perplexity over {} predicted tokens of {}, windows of {}, stride {}.\n", reference.predicted,
             fs::path(o.text).filename().string(), o.window, o.stride);
  if (reference.perplexity_error > 0)
    fmt::print(
        "±: standard errors, by how much another such text would move a figure; fp32's perplexity ± {:.3f}, most of "
        "which all rows have in common.\n",
        reference.perplexity_error);
  std::size_t compared = 0;
  for (const Row& r : rows) compared = std::max(compared, r.kl_predictions);
  if (compared != 0 && compared < reference.predicted)
    fmt::print("KL over the first {} of them: fp32's probabilities of more would take too much room.\n", compared);
}

void save_json(const std::vector<Row>& rows, const std::string& path) {
  nlohmann::ordered_json out{{"rows", nlohmann::ordered_json::array()}};
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  for (const Row& r : rows) {
    if (!r.failure.empty()) {
      out["rows"].push_back({{"method", r.method}, {"error", r.failure}});
      continue;
    }
    out["rows"].push_back({{"method", r.method},
                           {"bits_per_weight", number(r.bits_per_weight)},
                           {"file_bytes", r.file_bytes},
                           {"peak_rss_bytes", r.peak_rss_bytes},
                           {"perplexity", number(r.perplexity)},
                           {"perplexity_error", number(r.perplexity_error)},
                           {"perplexity_change_error", number(r.change_error)},
                           {"kl_mean", number(r.kl_mean)},
                           {"kl_error", number(r.kl_error)},
                           {"prefill_tokens_per_s", number(r.prefill)},
                           {"decode_tokens_per_s", number(r.decode)}});
  }
  // What a failure says may quote a file's bytes, which need not be UTF-8.
  save_text(path, out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

/// Of everything that is written, before minutes of work.
void check_places(const Options& o) {
  std::vector<files::Output> outputs{{o.json, files::OutputKind::file, "--json"},
                                     {o.plot, files::OutputKind::file, "--plot"}};
  std::set<fs::path> saved{place_of(o.save, "fp32")};
  for (const auto& name : o.methods) saved.insert(place_of(o.save, name));
  if (!o.save.empty())
    for (const auto& place : saved) outputs.push_back({place, files::OutputKind::new_folder, "--save"});
  check_given_outputs(outputs, {o.model, o.text, o.calibration, o.adapter, example_data() / "calibration.txt"});
}

void run(Options o) {
  if (o.model.empty()) o.model = (example_data() / "austen-5m").string();
  if (o.text.empty()) o.text = (example_data() / "evaluation.txt").string();
  if (o.methods.empty()) o.methods = default_methods();
  for (const auto& name : o.methods)  // before minutes of work
    if (!parse_method(name).gguf.empty() && o.selects_layers())
      throw Error(ErrorCode::invalid_argument,
                  "'" + name + "' is of a GGUF file, which has every layer: leave --skip, --only and --lm-head out");
  check_places(o);
  (void)model::Config::load(o.model);
  format::refuse_no_text(o.text);
  if (!o.save.empty()) {  // GGUF files, unlike directories, need it there
    std::error_code error;
    fs::create_directories(o.save, error);
    if (error) throw Error(ErrorCode::io, "cannot create the directory '" + o.save + "': " + error.message());
  }
  Comparison comparison(o);
  const auto rows = comparison.run();
  print_table(rows, comparison.reference());
  print_legend(o, rows, comparison.reference());
  if (!o.json.empty()) save_json(rows, o.json);
  if (!o.plot.empty()) {
    std::vector<PlotPoint> points;
    for (const Row& r : rows)
      if (r.failure.empty()) points.push_back({r.method, static_cast<double>(r.file_bytes) / 1e6, r.perplexity});
    save_text(o.plot, plot_svg(points, "What each method costs: " + fs::path(o.model).filename().string()));
    fmt::print("Chart: {}\n", o.plot);
  }
  const auto failed = std::count_if(rows.begin(), rows.end(), [](const Row& r) { return !r.failure.empty(); });
  if (comparison.was_interrupted())
    throw Error(ErrorCode::cancelled,
                fmt::format("interrupted; {} of {} methods are finished and shown", rows.size(), o.methods.size()));
  if (failed > 0 || !comparison.reference().failure.empty())
    throw Error(ErrorCode::io, fmt::format("{} of {} methods failed; the reasons are above",
                                           std::max<std::ptrdiff_t>(failed, 1), o.methods.size()));
}

}  // namespace

void add_compare_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("compare", "The table: what each method costs a model in quality, size and speed");
  c->add_option("model", o->model, "Model directory or GGUF file (default: the embedded model)");
  c->add_option(
       "--methods", o->methods,
       "Comma-separated, for example fp32,int8,int4-g128-sym,nf4-dq,gptq-4-g128,q4_k_m,gptq-q4_k_m (default: those of "
       "the README)")
      ->delimiter(',');
  c->add_option("--text", o->text, "Text to predict (default: the embedded evaluation text)");
  c->add_option("--tokens", o->tokens, "Use only the first so many tokens (0: all)")->capture_default_str();
  c->add_option("--window", o->window, "Tokens in a window")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--stride", o->stride, "Tokens from one window to the next")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_option("--calibration", o->calibration, "Text that gptq-… and awq-… calibrate on (default: the embedded one)");
  c->add_option("--adapter", o->adapter, "LoRA adapter over every row's weights: a PEFT folder or a GGUF file");
  c->add_option("--skip", o->skip, "Layers left as they are, as quantize takes them; may be given again");
  c->add_option("--only", o->only, "Quantize only these layers, said the same way; --skip comes first");
  c->add_flag("--lm-head", o->lm_head, "Quantize lm_head too");
  c->add_option("--save", o->save, "Keep each quantized model, in a directory of its name in this one")->check(kNamed);
  c->add_option("--json", o->json, "Write the rows as JSON")->check(kNamed);
  c->add_option("--plot", o->plot, "Write a chart of perplexity against file size, as SVG")->check(kNamed);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
