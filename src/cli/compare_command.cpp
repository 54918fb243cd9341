#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "commands.h"
#include "compare_report.h"
#include "compare_rows.h"
#include "core/files.h"
#include "format/recognise.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/model/config.h"
#include "table.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

void print_table(const std::vector<CompareRow>& rows, const CompareRow& reference) {
  Table table(comparison_columns());
  for (const CompareRow& r : rows) table.row(comparison_cells(r, reference));
  fmt::print("{}", table.text());
  if (!reference.failure.empty()) fmt::print("\nfp32 failed, so nothing is compared with it: {}\n", reference.failure);
  for (const CompareRow& r : rows)
    if (!r.failure.empty()) fmt::print("\n{} failed: {}\n", r.method, r.failure);
}

void save_json(const std::vector<CompareRow>& rows, const std::string& path) {
  nlohmann::ordered_json out{{"rows", nlohmann::ordered_json::array()}};
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  for (const CompareRow& r : rows) {
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
void check_places(const CompareOptions& o) {
  std::vector<files::Output> outputs{{o.json, files::OutputKind::file, "--json"},
                                     {o.plot, files::OutputKind::file, "--plot"},
                                     {o.report, files::OutputKind::file, "--report"}};
  std::set<fs::path> saved{place_of(o.save, "fp32")};
  for (const auto& name : o.methods) saved.insert(place_of(o.save, name));
  if (!o.save.empty())
    for (const auto& place : saved) outputs.push_back({place, files::OutputKind::new_folder, "--save"});
  check_given_outputs(outputs, {o.model, o.text, o.calibration, o.adapter, example_data() / "calibration.txt"});
}

void run(CompareOptions o) {
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
  const CompareResult result = compare_methods(o);
  const auto& rows = result.rows;
  print_table(rows, result.reference);
  fmt::print("\n{}", comparison_legend(o, result));
  if (!o.json.empty()) save_json(rows, o.json);
  if (!o.plot.empty()) {
    save_text(o.plot, comparison_chart(o, rows));
    fmt::print("Chart: {}\n", o.plot);
  }
  if (!o.report.empty()) {
    save_text(o.report, comparison_report(o, result));
    fmt::print("Report: {}\n", o.report);
  }
  const auto failed = std::count_if(rows.begin(), rows.end(), [](const CompareRow& r) { return !r.failure.empty(); });
  if (result.interrupted)
    throw Error(ErrorCode::cancelled,
                fmt::format("interrupted; {} of {} methods are finished and shown", rows.size(), o.methods.size()));
  if (failed > 0 || !result.reference.failure.empty())
    throw Error(ErrorCode::io, fmt::format("{} of {} methods failed; the reasons are above",
                                           std::max<std::ptrdiff_t>(failed, 1), o.methods.size()));
}

}  // namespace

void add_compare_command(CLI::App& app) {
  auto o = std::make_shared<CompareOptions>();
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
  c->add_option("--report", o->report,
                "Write a page with the table, the chart and a map of what each layer loses, as HTML")
      ->check(kNamed);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
