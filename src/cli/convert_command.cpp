#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, output, to;
  bool allow_loss = false, quiet = false;
};

std::string known_layouts() {
  std::string out;
  for (const CheckpointLayout layout : checkpoint_layouts())
    if (layout != CheckpointLayout::awq_gemv_fast) out += (out.empty() ? "" : ", ") + std::string(name_of(layout));
  return out;
}

/// The floating-point types that --to takes beside the layouts.
struct FloatTarget {
  const char* name;
  DType type;
};
constexpr FloatTarget kFloatTargets[] = {{"fp32", DType::f32}, {"fp16", DType::f16}, {"bf16", DType::bf16}};

void decode(const Options& o, DType type) {
  model::QuantizeModelOptions options;
  options.convert_to = type;
  options.backend = chosen_backend();
  ProgressBar bar("decoding", o.quiet);
  options.progress = bar.callback();
  const auto report = model::quantize_model(o.model, o.output, options);
  for (const std::string& text : report.notes) note(text);
  if (!o.quiet)
    fmt::print("{}: decoded to {}; model.safetensors is {}\n", o.output, o.to, megabytes(report.file_bytes));
}

void run(const Options& o) {
  for (const FloatTarget& target : kFloatTargets)
    if (o.to == target.name) return decode(o, target.type);
  model::ConvertModelOptions options;
  options.to = parse_checkpoint_layout(o.to);
  options.allow_loss = o.allow_loss;
  options.backend = chosen_backend();
  ProgressBar bar("converting", o.quiet);
  options.progress = bar.callback();
  const auto report = model::convert_model(o.model, o.output, options);
  for (const std::string& text : report.notes) note(text);
  if (!report.losses.empty()) {  // said even if quiet: it was allowed, not unseen
    const auto& first = report.losses.front();
    fmt::print(stderr, "{} of {} layers are not the same any more; first {} ({} to {}): {}\n", report.losses.size(),
               report.layers, printable(first.layer), first.from.to_string(), first.to.to_string(),
               printable(first.why));
  }
  if (o.quiet) return;
  note_left_out(report.left_out);
  fmt::print("{}: {} quantized layers in the layout {}, {}; model.safetensors is {}\n", o.output, report.layers, o.to,
             report.losses.empty() ? "without loss" : "with the loss said above", megabytes(report.file_bytes));
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("convert", "Write a quantized model in another checkpoint layout");
  c->add_option("model", o->model, "Quantized model directory, in any layout (awq-gemv-fast too), or a GGUF file")
      ->required();
  c->add_option("output", o->output, "Directory to write; must not exist")->required();
  c->add_option("--to", o->to, "The layout: " + known_layouts() + "; or fp32, fp16, bf16, which decode")->required();
  c->add_flag(
      "--allow-loss", o->allow_loss,
      "Store what the layout does not hold exactly as nearly as it can, and say so; without it that is an error");
  c->add_flag("--quiet", o->quiet, "Print nothing on success but what was lost");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
