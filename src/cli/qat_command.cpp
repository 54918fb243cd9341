#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/engine/qat_model.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/quantize.h"
#include "progress_bar.h"
#include "training_data.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, method = "int2-g32-asym", start = "error", decay = "cosine";
  RunOptions run;
  DataOptions data;
  engine::QatModelOptions qat;
  train::FinetuneOptions loop;
  double weight_decay = 0;
  int state_bits = 32;
  bool no_checkpointing = false;
};

/// "range", "mean" and "error", or the folder of a quantized model.
std::optional<train::GridStart> grid_start(const std::string& text) {
  if (text == "range") return train::GridStart::range;
  if (text == "mean") return train::GridStart::mean;
  if (text == "error") return train::GridStart::error;
  return std::nullopt;
}

engine::Model load_base(const Options& o) {
  engine::LoadOptions load;
  load.backend = chosen_backend();
  ProgressBar bar("loading", o.run.quiet);
  load.progress = bar.callback();
  return engine::Model::load(o.model, load);
}

/// Where the grids begin, in the options of the model.
void set_start(const Options& o, const QuantSpec& spec, engine::QatModelOptions& qat) {
  if (const auto start = grid_start(o.start)) {
    qat.start = *start;
    return;
  }
  const auto from = std::make_shared<Checkpoint>(Checkpoint::open(o.start));
  qat.start_from = [from, spec, folder = o.start](const std::string& layer) {
    std::optional<QuantizedMatrix> q = decode_quantized(*from, layer);
    if (!q || q->spec != spec)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("--start '{}': layer '{}' is {} there, and {} here; quantize it by the method that is "
                              "trained, or choose range, mean or error",
                              folder, layer, q ? q->spec.to_string() : "not quantized", spec.to_string()));
    return q;
  };
}

void set_loop(const Options& o, train::FinetuneOptions& loop) {
  loop.optimizer.rule = AdamOptions{.weight_decay = o.weight_decay};
  loop.optimizer.state_bits = o.state_bits;
  loop.optimizer.backend = chosen_backend();
  loop.decay = train::parse_decay(o.decay);
}

void print_plan(const Options& o, const engine::QatModel& qat, const TrainingData& data) {
  fmt::print("data: {} rows of up to {} tokens, {} tokens; {} rows held out\n", data.train.size(), o.data.max_length,
             data.tokens, data.evaluation.size());
  fmt::print("steps: {} of {} × {} rows; {} for a pass\n", train::steps_of(o.loop, data.train.size()), o.loop.batch,
             o.loop.accumulation, megabytes(qat.activation_bytes(longest_pass(o.loop.batch, data.train))));
}

void write_model(const Options& o, const QuantSpec& spec, const engine::QatModel& qat) {
  ProgressBar bar("writing", o.run.quiet);
  model::QuantizeModelOptions write;
  write.spec = spec;
  write.matrix = [&](const std::string& layer) { return qat.quantized(layer); };
  write.backend = chosen_backend();
  write.progress = bar.callback();
  const model::QuantizeModelReport report = model::quantize_model(o.model, o.run.output, write);
  note_left_out(report.left_out);
  for (const std::string& text : report.notes) note(text);
}

void run(Options o) {
  if (o.model.empty()) o.model = (example_data() / "austen-5m").string();
  if (o.data.data.empty()) o.data.data = (example_data() / "calibration.txt").string();
  check_run_places(o.run, {o.model, o.data.data, o.data.evaluation_data, grid_start(o.start) ? "" : o.start});
  const QuantSpec spec = QuantSpec::parse(o.method);
  const engine::Model base = load_base(o);
  for (const std::string& text : base.config().notes) note(text);
  const TrainingData data = read_training_data(o.data, o.model, base.config(), o.run.quiet);
  set_start(o, spec, o.qat);
  o.qat.checkpointing = !o.no_checkpointing;
  engine::QatModel qat(base, spec, o.qat);
  set_loop(o, o.loop);
  if (!o.run.quiet) print_plan(o, qat, data);
  const train::FinetuneReport report =
      run_training(qat, data, o.run, o.loop, "Training " + fs::path(o.model).filename().string() + " at " + o.method);
  write_model(o, spec, qat);
  finish_training(o.run, report);
}

void add_training_options(CLI::App& c, Options& o) {
  const std::string group = "Training";
  const auto add = [&](const char* name, auto& value, const char* help) {
    return c.add_option(name, value, help)->capture_default_str()->group(group);
  };
  add("--start", o.start,
      "Where the grids begin: range (from the smallest to the largest weight), mean (LSQ), error (the least squared "
      "error), or the folder of a model quantized by this method, by GPTQ say");
  add("--distillation", o.qat.distillation,
      "Share of the loss that is the divergence from the full-precision model; the rest is the text's")
      ->check(CLI::Range(0.0f, 1.0f));
  add("--epochs", o.loop.epochs, "How often the data is gone through");
  add("--max-steps", o.loop.max_steps, "End after so many steps (0: by --epochs)");
  add("--batch", o.loop.batch, "Rows a pass")->check(CLI::PositiveNumber);
  add("--accumulation", o.loop.accumulation, "Passes a step")->check(CLI::PositiveNumber);
  add("--learning-rate", o.loop.learning_rate, "The highest learning rate, in mean steps of a layer's grid");
  add("--scale-rate", o.qat.scale_rate, "Of the scales, as a multiple of it");
  add("--zero-point-rate", o.qat.zero_point_rate, "Of the zero points, as a multiple of it");
  add("--warmup", o.loop.warmup, "Share of the steps in which it rises");
  add("--decay", o.decay, "How it falls then: constant, linear or cosine");
  add("--state-bits", o.state_bits, "Of the optimizer's moments: 8 or 32")->check(CLI::IsMember({8, 32}));
  add("--weight-decay", o.weight_decay, "Decoupled weight decay, of the weights alone");
  add("--max-grad-norm", o.loop.optimizer.max_grad_norm, "Clip gradients to this global norm (0: do not)");
  add("--seed", o.loop.seed, "Of the order of the data");
  c.add_flag("--no-gradient-checkpointing", o.no_checkpointing,
             "Keep all activations: a quarter less time, and memory for every block's")
      ->group(group);
}

}  // namespace

void add_qat_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  o->data.max_length = 256;
  o->loop.epochs = 3;
  o->loop.batch = 4;
  o->loop.accumulation = 1;
  o->loop.learning_rate = 5e-3;
  o->loop.optimizer.max_grad_norm = 1;
  CLI::App* c = app.add_subcommand("qat", "Train a model's weights and grids for the method it is quantized by");
  c->add_option("model", o->model, "Model directory or GGUF file (default: the embedded model)");
  c->add_option("-o,--output", o->run.output, "Quantized model to write, a folder; must not exist")
      ->required()
      ->check(kNamed);
  c->add_option("--method", o->method, "An integer method with groups or channels, as quantize takes it")
      ->capture_default_str();
  add_run_options(*c, o->run, o->loop);
  add_data_options(*c, o->data, o->loop.evaluate_every, "the embedded calibration text");
  add_training_options(*c, *o);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
