#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "calibration_text.h"
#include "commands.h"
#include "core/files.h"
#include "nibble/core/error.h"
#include "nibble/engine/calibrate.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, output, format = "gguf";
  std::vector<std::string> add;
  CalibrationText text;
  bool force = false, quiet = false;
};

void run(const Options& o) {
  namespace fs = std::filesystem;
  const std::vector<fs::path> more(o.add.begin(), o.add.end());
  std::vector<fs::path> inputs{o.model, o.text.path()};
  inputs.insert(inputs.end(), more.begin(), more.end());
  files::check_output({o.output, files::OutputKind::file}, inputs);
  if (files::exists(o.output) && !o.force)
    throw Error(ErrorCode::invalid_argument, "'" + o.output + "' exists already; --force replaces it");
  ImportanceMatrix before;
  for (const fs::path& file : more) before.merge(ImportanceMatrix::read(file));
  ProgressBar bar("observing", o.quiet);
  ImportanceMatrix found = observed(o.model, o.text, bar.callback());
  if (!o.quiet) o.text.note_if_short(found.chunk_count);
  const std::size_t samples = found.chunk_count, tokens = found.chunk_size;
  found.merge(before);
  found.write(o.output, o.format == "gguf" ? ImportanceMatrix::Form::gguf : ImportanceMatrix::Form::legacy);
  if (!o.quiet)
    fmt::print("{}: the inputs of {} weights, {} × {} tokens{}; {}\n", o.output, found.entries().size(), samples,
               tokens, o.add.empty() ? "" : fmt::format(", and what {} held", fmt::join(o.add, " and ")),
               megabytes(files::size(o.output)));
}

}  // namespace

ImportanceMatrix observed(const std::string& model, const CalibrationText& text, Progress progress) {
  model::ImportanceOptions options;
  options.samples = text.samples;
  options.sample_tokens = text.sample_tokens;
  options.cache_bytes = text.cache_memory;
  options.progress = std::move(progress);
  (void)model::Config::load(model);  // says what is wrong with a path before its tokenizer is missed
  const auto ids = read_tokens(model, text.path());
  ImportanceMatrix out = engine::importance(model, ids, options, chosen_backend());
  out.datasets = {text.path().filename().string()};
  return out;
}

void add_imatrix_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand(
      "imatrix",
      "Measure how much each input channel of a model's layers carries, for export-gguf, quantize and llama.cpp");
  c->add_option("model", o->model, "Model directory or GGUF file")->required();
  c->add_option("-o,--output", o->output, "The importance matrix to write")->required()->check(kNamed);
  o->text.add_to(*c, "Options", std::string("Text that the model is run on") + kByDefault);
  c->add_option("--add", o->add, "Importance matrix of another text, to be added; may be given again")
      ->allow_extra_args(false)
      ->check(kNamed);
  c->add_option("--format", o->format, "gguf, or legacy (imatrix.dat of older llama.cpp)")
      ->check(CLI::IsMember({"gguf", "legacy"}))
      ->capture_default_str();
  c->add_flag("--force", o->force, "Replace the file if it exists");
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
