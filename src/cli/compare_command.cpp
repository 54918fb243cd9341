#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>

#include "commands.h"
#include "compare_json.h"
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

void check_method(const CompareOptions& o, const Method& method) {
  if (!method.gguf.empty() && o.selects_layers())
    throw Error(
        ErrorCode::invalid_argument,
        "'" + method.name + "' is of a GGUF file, which has every layer: leave --skip, --only and --lm-head out");
  if (method.rotation != Rotation::none && !o.adapter.empty())
    throw Error(ErrorCode::invalid_argument, "'" + method.name +
                                                 "' turns the weights that --adapter was trained over; "
                                                 "merge the adapter into the model first: nibble merge");
}

void run(CompareOptions o) {
  if (o.model.empty()) o.model = (example_data() / "austen-5m").string();
  if (o.text.empty()) o.text = (example_data() / "evaluation.txt").string();
  if (o.methods.empty()) o.methods = default_methods();
  for (const auto& name : o.methods)  // before minutes of work
    check_method(o, parse_compared_method(name));
  if (o.resume && o.json.empty())
    throw Error(ErrorCode::invalid_argument, "--resume goes on with the rows that --json FILE keeps: say which file");
  check_places(o);
  (void)model::Config::load(o.model);
  format::refuse_no_text(o.text);
  if (!o.save.empty()) {  // GGUF files, unlike directories, need it there
    std::error_code error;
    fs::create_directories(o.save, error);
    if (error) throw Error(ErrorCode::io, "cannot create the directory '" + o.save + "': " + error.message());
  }
  if (!o.json.empty() && !o.resume) refuse_unfinished(o.json);
  const CompareSettings settings = o.json.empty() ? CompareSettings() : compare_settings(o);
  const CompareResult found = o.resume ? load_rows(o.json, settings) : CompareResult();
  const CompareResult result = compare_methods(o, found, [&](const CompareResult& so_far) {
    if (!o.json.empty()) save_rows(o.json, settings, so_far, false);
  });
  const auto& rows = result.rows;
  print_table(rows, result.reference);
  fmt::print("\n{}", comparison_legend(o, result));
  if (!o.json.empty()) save_rows(o.json, settings, result, !result.interrupted);
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
                fmt::format("interrupted; {} of {} methods are finished and shown{}", rows.size(), o.methods.size(),
                            o.json.empty() ? "" : "; --resume goes on with the rest"));
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
       "the README); +fold or +rot behind one that is of no GGUF file: of the model with its norms folded, or rotated")
      ->delimiter(',');
  c->add_option("--text", o->text, "Text to predict (default: the embedded evaluation text)");
  c->add_option("--tokens", o->tokens, "Use only the first so many tokens (0: all)")->capture_default_str();
  c->add_option("--window", o->window, "Tokens in a window")->capture_default_str()->check(CLI::PositiveNumber);
  c->add_option("--stride", o->stride, "Tokens from one window to the next")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_option("--calibration", o->calibration, "Text that gptq-… and awq-… calibrate on (default: the embedded one)");
  c->add_option("--samples", o->samples,
                "Sequences of it that they take (default: 128; fewer are faster, and the methods less good)")
      ->check(CLI::PositiveNumber);
  c->add_option("--jobs", o->jobs, "Models gone through at once (default: as many as memory and threads allow)")
      ->check(CLI::Range(1, 1024));
  c->add_option("--adapter", o->adapter, "LoRA adapter over every row's weights: a PEFT folder or a GGUF file");
  c->add_option("--skip", o->skip, "Layers left as they are, as quantize takes them; may be given again");
  c->add_option("--only", o->only, "Quantize only these layers, said the same way; --skip comes first");
  c->add_flag("--lm-head", o->lm_head, "Quantize lm_head too");
  c->add_option("--save", o->save, "Keep each quantized model, in a directory of its name in this one")->check(kNamed);
  c->add_option("--json", o->json, "Write the rows as JSON, whenever one is finished")->check(kNamed);
  c->add_flag("--resume", o->resume, "Take the rows that --json has from an earlier run, and measure the others");
  c->add_option("--plot", o->plot, "Write a chart of perplexity against file size, as SVG")->check(kNamed);
  c->add_option("--report", o->report,
                "Write a page with the table, the chart and a map of what each layer loses, as HTML")
      ->check(kNamed);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
