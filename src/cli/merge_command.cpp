#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "core/files.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/model/merge.h"
#include "progress_bar.h"
#include "table.h"

namespace nibble::cli {

namespace {

struct Options {
  std::string model, adapter, output, into, base, type;
  bool lossy = false, layers = false, quiet = false;
};

std::string percent(double share) { return fmt::format("{:.3g} %", 100 * share); }

model::MergeOptions merge_options(const Options& o) {
  model::MergeOptions out;
  out.into = model::parse_merge_into(o.into);
  out.lossy = o.lossy;
  out.backend = chosen_backend();
  if (!o.base.empty()) {
    const Method base = parse_loading_method(o.base);
    if (!base.spec || base.int8_activations)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("--base '{}' is no quantization of weights; nf4-dq or int4-g128-sym is, say", o.base));
    out.base = base.spec;
  }
  // Options that would do nothing are a mistake of the caller's, not to be passed over.
  if (!o.type.empty() && out.into != model::MergeInto::dequantized)
    throw Error(ErrorCode::invalid_argument,
                "--type goes with --into dequantized; original weights keep their type, and codes have none");
  if (o.lossy && out.into != model::MergeInto::quantized)
    throw Error(ErrorCode::invalid_argument, "--lossy goes with --into quantized; the other ways keep the change");
  if (!o.type.empty()) out.type = parse_method(o.type).dense;
  return out;
}

void add_row(Table& table, const std::string& name, const model::MergedLayer& l, bool untrained) {
  table.row({name, percent(l.change), percent(l.kept), percent(l.rounding),
             untrained ? percent(l.untrained.value_or(0)) : std::string()});
}

/// The mean, and the layers at the ends of it; or every layer.
void print_table(const model::MergeReport& report, bool all) {
  const bool untrained = std::any_of(report.layers.begin(), report.layers.end(), [](auto& l) { return l.untrained; });
  Table table({"layer", "change", "survives", "rounding", untrained ? "off training" : ""});
  if (all)
    for (const model::MergedLayer& l : report.layers) add_row(table, l.layer, l, untrained);
  model::MergedLayer mean;
  mean.change = report.mean(&model::MergedLayer::change);
  mean.rounding = report.mean(&model::MergedLayer::rounding);
  mean.kept = report.mean(&model::MergedLayer::kept);
  double sum = 0;
  for (const model::MergedLayer& l : report.layers) sum += l.untrained.value_or(0);
  mean.untrained = sum / static_cast<double>(report.layers.size());
  add_row(table, fmt::format("mean of {}", report.layers.size()), mean, untrained);
  const model::MergedLayer &most = report.largest_change(), &least = report.least_kept();
  add_row(table, "most changed: " + most.layer, most, untrained);
  add_row(table, "least kept: " + least.layer, least, untrained);
  fmt::print("{}", table.text());
}

/// What the way that was taken costs, in a sentence.
std::string cost(const model::MergeReport& report, const model::MergeOptions& o) {
  switch (o.into) {
    case model::MergeInto::original:
      return o.base ? fmt::format(
                          "off what was trained over {} by the share above: the base's rounding, which the "
                          "adapter had learned to answer for, is gone",
                          o.base->to_string())
                    : std::string(
                          "exact but for rounding if the adapter was trained over these very weights; if it "
                          "was over quantized ones, --base SPEC measures the difference");
    case model::MergeInto::dequantized:
      return fmt::format("what was trained, rounded to {}; the price is the size of an unquantized model",
                         nibble::name_of(o.type));
    case model::MergeInto::quantized: break;
  }
  return fmt::format("of all that the adapter changes {} survives its rounding to codes", percent(report.kept));
}

void run(const Options& o) {
  model::MergeOptions options = merge_options(o);
  // A GGUF adapter of some architectures needs the model's configuration to be read; one that is not known has none.
  const auto config = [&]() -> std::optional<model::Config> {
    if (!files::is_regular_file(o.adapter)) return std::nullopt;
    return model::Config::load(o.model);
  }();
  files::check_output({o.output, files::OutputKind::new_folder}, {o.model, o.adapter});
  const model::Adapter adapter = model::Adapter::load(o.adapter, config ? &*config : nullptr);
  ProgressBar bar("merging", o.quiet);
  options.progress = bar.callback();
  const model::MergeReport report = model::merge_adapter(o.model, adapter, o.output, options);
  for (const std::string& text : report.notes) note(text);
  if (o.quiet) return;
  note_left_out(report.left_out);
  print_table(report, o.layers);
  const std::string others = report.rounded == 0
                                 ? std::string()
                                 : fmt::format(", {} others {}", report.rounded,
                                               options.into == model::MergeInto::quantized ? "quantized" : "decoded");
  fmt::print("{}: {} layers merged into {} weights{}; model.safetensors is {}\n{}\n", o.output, report.layers.size(),
             o.into, others, megabytes(report.file_bytes), cost(report, options));
}

}  // namespace

void add_merge_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("merge", "Write a model with a LoRA adapter merged into its weights");
  c->add_option("model", o->model, "Model directory, of floats or quantized in any layout, or GGUF file")->required();
  c->add_option("--adapter", o->adapter, "PEFT's folder (adapter_config.json) or a GGUF file of llama.cpp's")
      ->required();
  c->add_option("-o,--output", o->output, "Directory to write; must not exist")->required();
  c->add_option("--into", o->into,
                "original: the model's own weights and the change, in their type, which is not what was trained if "
                "that was over quantized weights. dequantized: what the quantized weights decode to and the change, "
                "which is. quantized: the same rounded to codes again, which undoes most of a change of a few per cent")
      ->required();
  c->add_option("--base", o->base,
                "What a model of floats was quantized as (nf4-dq, …) while the adapter was trained over it; a "
                "checkpoint that is quantized says it itself")
      ->check(kNamed);
  c->add_option("--type", o->type,
                "With --into dequantized: fp16 (the default: it rounds weights 8 times finer than bf16), bf16, whose "
                "range holds whatever a model computes, or fp32, which loses nothing")
      ->check(CLI::IsMember({"fp16", "bf16", "fp32"}));
  c->add_flag("--lossy", o->lossy, "With --into quantized: do it, whatever share of the change is lost");
  c->add_flag("--layers", o->layers, "Print the figures of every layer");
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
