#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "methods.h"
#include "nibble/model/rotate.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, output, type = "fp32";
  bool no_fold = false, no_r1 = false, no_r2 = false, block = false, quiet = false;
  std::uint64_t seed = 0;
};

/// What was done, in a few words.
std::string summary(const model::RotateReport& report) {
  std::string out = report.norms == 0 ? std::string("norms left") : fmt::format("{} norms folded", report.norms);
  if (report.untied) out += ", the head untied from the embedding";
  if (report.r1_order != 0) out += fmt::format(", R1 of order {}", report.r1_order);
  if (report.r2_order != 0) out += fmt::format(", R2 of order {}", report.r2_order);
  if (report.rotated != 0) out += fmt::format(", {} matrices rotated", report.rotated);
  return out;
}

void run(const Options& o) {
  model::RotateOptions options;
  options.fold_norms = !o.no_fold;
  options.r1 = !o.no_r1;
  options.r2 = !o.no_r2;
  options.seed = o.seed;
  options.block = o.block;
  options.type = parse_method(o.type).dense;
  ProgressBar bar("rotating", o.quiet);
  options.progress = bar.callback();
  const model::RotateReport report = model::rotate_model(o.model, o.output, options);
  for (const std::string& text : report.notes) note(text);
  if (o.quiet) return;
  note_left_out(report.left_out);
  fmt::print("{}: {}; model.safetensors is {}\n", o.output, summary(report), megabytes(report.file_bytes));
}

}  // namespace

void add_rotate_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand(
      "rotate",
      "Write a model that computes the same with its norms folded and its weights turned by random Hadamard rotations, "
      "which spread outliers: before GPTQ at 3 or 4 bits, for a model that has them. Whether it helps one, compare "
      "shows: --methods gptq-3-g128,gptq-3-g128+fold,gptq-3-g128+rot");
  c->add_option("model", o->model, "Model directory or GGUF file, of floats, of a known architecture")->required();
  c->add_option("-o,--output", o->output, "Directory to write; must not exist")->required();
  c->add_flag("--no-r1", o->no_r1,
              "Leave the residual stream (R1) as it is; needed for models with norms behind attention and the "
              "feed-forward layer, as Gemma 2, 3 and GLM-4 have");
  c->add_flag("--no-r2", o->no_r2, "Leave the heads' values (R2) as they are");
  c->add_flag("--no-fold", o->no_fold,
              "Do not multiply norms into the layers behind them, which R1 needs; a tied head then stays tied");
  c->add_option("--seed", o->seed, "Of the random signs")->capture_default_str();
  c->add_flag("--block", o->block,
              "Where the hidden size or head_dim has no Hadamard matrix, take blocks of the largest power of two that "
              "divides it; without it that is an error");
  c->add_option("--type", o->type,
                "Type of all tensors: fp32, or fp16 or bf16, which round the rotated weights, so that the model "
                "changes a little")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
