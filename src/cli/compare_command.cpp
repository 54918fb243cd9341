#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "commands.h"
#include "core/json.h"
#include "core/pending.h"
#include "format/files.h"
#include "interrupt.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "plot.h"
#include "progress_bar.h"
#include "table.h"

extern char** environ;

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, text, json, plot, calibration, save;
  std::vector<std::string> methods;
  std::size_t tokens = 32768, window = 512, stride = 512;
};

struct Row {
  std::string method;
  double bits_per_weight = 0, perplexity = 0, kl_mean = 0, prefill = 0, decode = 0;
  std::size_t file_bytes = 0, peak_rss_bytes = 0, predicted = 0;
};

/// Runs this tool again with other arguments: a process per step is the only honest way to measure its peak memory.
void run_self(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "nibble");
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  if (const int error = posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, argv.data(), environ); error != 0)
    throw Error(ErrorCode::io, fmt::format("cannot start '{}'", fmt::join(arguments, " ")));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (interrupted() || (WIFEXITED(status) && WEXITSTATUS(status) == kInterruptedExit))
    throw Error(ErrorCode::cancelled, "interrupted; nothing was written");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw Error(ErrorCode::io, fmt::format("'{}' failed; its message is above", fmt::join(arguments, " ")));
}

class Comparison {
 public:
  explicit Comparison(const Options& o) : o_(o) {}

  /// fp32 is always evaluated first, since the others are compared with it, and shown only if asked for.
  std::vector<Row> run() {
    std::vector<Row> rows;
    ProgressBar bar("comparing");
    const bool shown = std::find(o_.methods.begin(), o_.methods.end(), "fp32") != o_.methods.end();
    const double steps = static_cast<double>(o_.methods.size()) + (shown ? 0 : 1);
    reference_ = measure("fp32", true);
    double done = 1;
    for (const auto& name : o_.methods) {
      report(bar.callback(), done / steps, name);
      rows.push_back(name == "fp32" ? reference_ : measure(name, false));
      done += name == "fp32" ? 0 : 1;
    }
    return rows;
  }
  const Row& reference() const { return reference_; }

 private:
  Row measure(const std::string& name, bool reference) {
    const std::string stored(stored_name(name));
    const bool keeps = !o_.save.empty();
    const fs::path copy = (keeps ? fs::path(o_.save) : work_.path()) / stored,
                   figures = work_.path() / (name + ".json"), log_probabilities = work_.path() / "reference";
    const bool int8_activations = parse_method(name).int8_activations;
    if (made_.insert(stored).second) {
      std::vector<std::string> quantize{"quantize", o_.model, "-o", copy, "--method", stored, "--quiet"};
      if (parse_method(name).calibrated && !o_.calibration.empty())
        quantize.insert(quantize.end(), {"--calibration", o_.calibration});
      run_self(std::move(quantize));
    }
    std::vector<std::string> eval{"eval",           copy,
                                  "--text",         o_.text,
                                  "--tokens",       std::to_string(o_.tokens),
                                  "--window",       std::to_string(o_.window),
                                  "--stride",       std::to_string(o_.stride),
                                  "--json",         figures,
                                  "--quiet",        reference ? "--save-reference" : "--reference",
                                  log_probabilities};
    if (int8_activations) eval.push_back("--int8-activations");
    run_self(std::move(eval));
    const json::Document document = json::parse(format::read_text(figures), figures.string());
    const nlohmann::json& j = *document;
    Row row{name,
            j["bits_per_weight"],
            j["perplexity"],
            j["kl_mean"],
            j["prefill_tokens_per_s"],
            j["decode_tokens_per_s"],
            fs::file_size(copy / "model.safetensors"),
            j["peak_rss_bytes"],
            j["predicted_tokens"]};
    if (!keeps) {
      fs::remove_all(copy);
      made_.erase(stored);
    }
    return row;
  }

  const Options& o_;
  /// For the quantized copies and the figures.
  files::PendingDirectory work_{files::PendingDirectory::Scratch{}, fs::temp_directory_path() / "nibble-compare"};
  std::set<std::string> made_;  ///< Models that are there.
  Row reference_;
};

void print_table(const std::vector<Row>& rows, const Row& reference) {
  Table table({"method", "bits/weight", "file", "peak memory", "perplexity", "vs fp32", "KL to fp32", "prefill tok/s",
               "decode tok/s"});
  for (const Row& r : rows)
    table.row({r.method, fmt::format("{:.3f}", r.bits_per_weight), megabytes(r.file_bytes), megabytes(r.peak_rss_bytes),
               fmt::format("{:.4f}", r.perplexity),
               fmt::format("{:+.2f} %", 100 * (r.perplexity / reference.perplexity - 1)),
               fmt::format("{:.6f}", std::max(0.0, r.kl_mean)), fmt::format("{:.0f}", r.prefill),
               fmt::format("{:.0f}", r.decode)});
  fmt::print("{}", table.text());
}

void save_json(const std::vector<Row>& rows, const std::string& path) {
  nlohmann::ordered_json out{{"rows", nlohmann::ordered_json::array()}};
  for (const Row& r : rows)
    out["rows"].push_back({{"method", r.method},
                           {"bits_per_weight", r.bits_per_weight},
                           {"file_bytes", r.file_bytes},
                           {"peak_rss_bytes", r.peak_rss_bytes},
                           {"perplexity", r.perplexity},
                           {"kl_mean", r.kl_mean},
                           {"prefill_tokens_per_s", r.prefill},
                           {"decode_tokens_per_s", r.decode}});
  save_text(path, out.dump(2) + "\n");
}

/// Of everything that is written, before minutes of work.
void check_places(const Options& o) {
  std::vector<files::Output> outputs{{o.json, files::OutputKind::file, "--json"},
                                     {o.plot, files::OutputKind::file, "--plot"}};
  std::set<std::string> saved{"fp32"};
  for (const auto& name : o.methods) saved.emplace(stored_name(name));
  if (!o.save.empty())
    for (const auto& name : saved)
      outputs.push_back({fs::path(o.save) / name, files::OutputKind::new_folder, "--save"});
  check_given_outputs(outputs, {o.model, o.text, o.calibration, example_data() / "calibration.txt"});
}

void run(Options o) {
  if (o.model.empty()) o.model = (example_data() / "austen-5m").string();
  if (o.text.empty()) o.text = (example_data() / "evaluation.txt").string();
  if (o.methods.empty()) o.methods = default_methods();
  for (const auto& name : o.methods) (void)parse_method(name);  // before minutes of work
  check_places(o);
  Comparison comparison(o);
  const auto rows = comparison.run();
  print_table(rows, comparison.reference());
  fmt::print(
      "\nbits/weight: linear layers of the blocks, scales included; embeddings, norms and lm_head stay as they are. "
      "+a8: activations in 8 bits, too.\nPerplexity "
      "over {} predicted tokens of {}, windows of {}, stride {}.\n",
      comparison.reference().predicted, fs::path(o.text).filename().string(), o.window, o.stride);
  if (!o.json.empty()) save_json(rows, o.json);
  if (!o.plot.empty()) {
    std::vector<PlotPoint> points;
    for (const Row& r : rows) points.push_back({r.method, static_cast<double>(r.file_bytes) / 1e6, r.perplexity});
    save_text(o.plot, plot_svg(points, "What each method costs: " + fs::path(o.model).filename().string()));
    fmt::print("Chart: {}\n", o.plot);
  }
}

}  // namespace

void add_compare_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("compare", "The table: what each method costs a model in quality, size and speed");
  c->add_option("model", o->model, "Model directory (default: the embedded model)");
  c->add_option(
       "--methods", o->methods,
       "Comma-separated, for example fp32,int8,int4-g128-sym,nf4-dq,gptq-4-g128 (default: those of the README)")
      ->delimiter(',');
  c->add_option("--text", o->text, "Text to predict (default: the embedded evaluation text)");
  c->add_option("--tokens", o->tokens, "Use only the first so many tokens (0: all)")->capture_default_str();
  c->add_option("--window", o->window, "Tokens in a window")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--stride", o->stride, "Tokens from one window to the next")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_option("--calibration", o->calibration, "Text that gptq-… and awq-… calibrate on (default: the embedded one)");
  c->add_option("--save", o->save, "Keep each quantized model, in a directory of its name in this one")->check(kNamed);
  c->add_option("--json", o->json, "Write the rows as JSON")->check(kNamed);
  c->add_option("--plot", o->plot, "Write a chart of perplexity against file size, as SVG")->check(kNamed);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
