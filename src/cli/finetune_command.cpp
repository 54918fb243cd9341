#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "commands.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/engine/lora_model.h"
#include "progress_bar.h"
#include "training_data.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// The defaults are those of the usual recipe of QLoRA.
struct Options {
  std::string model, base = "nf4-dq", optimizer = "adamw", decay = "linear", adapter_type = "f32",
                     activation_type = "f32";
  RunOptions run;
  DataOptions data;
  model::AdapterOptions adapter;
  train::FinetuneOptions loop;
  double weight_decay = 0;
  std::size_t state_memory = std::size_t{1} << 30;
  int state_bits = 8;
  bool no_checkpointing = false, plan = false;
};

engine::Model load_base(const Options& o) {
  engine::LoadOptions load;
  load.backend = chosen_backend();
  const Method method = parse_loading_method(o.base);
  if (method.int8_activations)
    throw Error(ErrorCode::invalid_argument, "--base '" + o.base + "': activations stay in fp32 in training");
  load.quantize = method.spec;
  ProgressBar bar("loading", o.run.quiet);
  load.progress = bar.callback();
  return engine::Model::load(o.model, load);
}

/// Weights of the model, whatever they are stored as.
std::size_t parameters_of(const model::Config& c) {
  std::size_t block = 0;
  for (const model::Module& m : c.architecture().block)
    block += c.elements(m.out) * (m.is_norm() ? 1 : c.elements(m.in)) * (m.is_expert() ? c.experts : 1);
  return c.layers * block + c.hidden + c.vocab * c.hidden * (c.tied_embeddings ? 1 : 2);
}

void print_plan(const Options& o, const engine::Model& base, const engine::LoraModel& lora, const TrainingData& data) {
  const std::size_t trained = lora.adapter().parameters(), all = parameters_of(base.config()) + trained;
  fmt::print("trainable params: {} || all params: {} || trainable%: {:.4f}\n", with_commas(trained), with_commas(all),
             100 * static_cast<double>(trained) / static_cast<double>(all));
  fmt::print("data: {} samples in {} rows of up to {} tokens, {} tokens, {} of them predicted; {} rows held out\n",
             data.samples, data.train.size(), o.data.max_length, data.tokens, data.targets, data.evaluation.size());
  fmt::print("steps: {} of {} × {} rows\n", train::steps_of(o.loop, data.train.size()), o.loop.batch,
             o.loop.accumulation);
  const std::size_t state = trained * (o.state_bits == 8 ? 2 : 8) / (o.optimizer == "lion" ? 2 : 1),
                    pass = lora.activation_bytes(longest_pass(o.loop.batch, data.train));
  fmt::print("memory: {} of weights at {:.3f} bits in the blocks, {} for a pass, {} of optimizer state\n",
             megabytes(base.weight_bytes()), base.bits_per_weight(), megabytes(pass), megabytes(state));
}

void set_loop(const Options& o, train::FinetuneOptions& loop) {
  if (o.optimizer == "lion") loop.optimizer.rule = LionOptions{.weight_decay = o.weight_decay};
  else loop.optimizer.rule = AdamOptions{.weight_decay = o.weight_decay};
  loop.optimizer.state_bits = o.state_bits;
  loop.optimizer.backend = chosen_backend();
  loop.optimizer.resident_bytes = o.state_memory;
  loop.optimizer.paging_folder = files::parent_of(o.run.checkpoint_folder());
  loop.decay = train::parse_decay(o.decay);
  loop.seed = o.adapter.seed;
}

DType type_of(const std::string& name) { return name == "bf16" ? DType::bf16 : DType::f32; }

void run(Options o) {
  if (o.model.empty()) o.model = (example_data() / "austen-5m").string();
  if (o.data.data.empty()) o.data.data = (example_data() / "instructions.jsonl").string();
  check_run_places(o.run, {o.model, o.data.data, o.data.evaluation_data});
  const engine::Model base = load_base(o);
  for (const std::string& text : base.config().notes) note(text);
  const TrainingData data = read_training_data(o.data, o.model, base.config(), o.run.quiet);
  model::Adapter adapter = model::Adapter::make(base.config(), o.adapter);
  adapter.base_model = o.model;
  const engine::LoraModelOptions how{.checkpointing = !o.no_checkpointing,
                                     .adapter_type = type_of(o.adapter_type),
                                     .activation_type = type_of(o.activation_type),
                                     .seed = o.adapter.seed};
  engine::LoraModel lora(base, std::move(adapter), how);
  if (!o.run.quiet) print_plan(o, base, lora, data);
  if (o.plan) return;

  set_loop(o, o.loop);
  const train::FinetuneReport report =
      run_training(lora, data, o.run, o.loop, "Fine-tuning " + fs::path(o.model).filename().string());
  lora.adapter().save(o.run.output, how.adapter_type);
  finish_training(o.run, report);
}

void add_adapter_options(CLI::App& c, Options& o) {
  const std::string group = "Adapter";
  c.add_option("--base", o.base,
               "What the weights are held as: nf4-dq, nf4, int4-g128-sym, int8, fp32, …; layers that the checkpoint "
               "holds quantized stay as they are")
      ->capture_default_str()
      ->group(group);
  c.add_option("--rank", o.adapter.rank, "Rank of each adapter")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->group(group);
  c.add_option("--alpha", o.adapter.alpha, "The adapter is multiplied by alpha/rank")
      ->capture_default_str()
      ->group(group);
  c.add_option("--dropout", o.adapter.dropout, "Share of an adapter's input that is left out at random")
      ->capture_default_str()
      ->group(group);
  c.add_flag("--rslora", o.adapter.rslora, "Multiply by alpha/√rank instead")->group(group);
  c.add_flag("--dora", o.adapter.dora, "Train the rows' magnitudes apart from their direction (DoRA)")->group(group);
  c.add_option("--adapter-type", o.adapter_type,
               "What it is multiplied and saved as, f32 or bf16; the optimizer goes on in f32")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->group(group);
  c.add_option(
       "--target", o.adapter.target_modules,
       "Layers that get one: q_proj, down_proj, a whole name …; may be given again (default: every linear layer "
       "of every block)")
      ->group(group);
}

void add_training_options(CLI::App& c, Options& o) {
  const std::string group = "Training";
  const auto add = [&](const char* name, auto& value, const char* help) {
    return c.add_option(name, value, help)->capture_default_str()->group(group);
  };
  add("--epochs", o.loop.epochs = 3, "How often the data is gone through");
  add("--max-steps", o.loop.max_steps, "End after so many steps (0: by --epochs)");
  add("--batch", o.loop.batch, "Rows a pass")->check(CLI::PositiveNumber);
  add("--accumulation", o.loop.accumulation, "Passes a step")->check(CLI::PositiveNumber);
  add("--learning-rate", o.loop.learning_rate, "The highest learning rate");
  add("--warmup", o.loop.warmup, "Share of the steps in which it rises");
  add("--decay", o.decay, "How it falls then: constant, linear or cosine");
  add("--optimizer", o.optimizer, "adamw or lion")->check(CLI::IsMember({"adamw", "lion"}));
  add("--state-bits", o.state_bits, "Of the optimizer's moments: 8 or 32")->check(CLI::IsMember({8, 32}));
  c.add_option("--state-memory", o.state_memory,
               "Optimizer state to hold in memory (512MB, 4GB); more is paged to a file")
      ->transform(CLI::AsSizeValue(false))
      ->default_str("1GB")
      ->group(group);
  add("--weight-decay", o.weight_decay, "Decoupled weight decay");
  add("--max-grad-norm", o.loop.optimizer.max_grad_norm, "Clip gradients to this global norm (0: do not)");
  add("--seed", o.adapter.seed, "Of the adapter's first values, the order of the data and dropout");
  add("--activation-type", o.activation_type, "What is kept between blocks: f32, or bf16 in half the memory")
      ->check(CLI::IsMember({"f32", "bf16"}));
  c.add_flag("--no-gradient-checkpointing", o.no_checkpointing,
             "Keep all activations: a quarter less time, and memory for every block's")
      ->group(group);
}

}  // namespace

void add_finetune_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("finetune", "Train a LoRA adapter over a model's quantized weights (QLoRA)");
  c->add_option("model", o->model, "Model directory or GGUF file, dense or quantized (default: the embedded model)");
  c->add_option("-o,--output", o->run.output, "Adapter to write, a folder as PEFT reads it; must not exist")
      ->required()
      ->check(kNamed);
  add_run_options(*c, o->run, o->loop);
  c->add_flag("--plan", o->plan, "Say what would be trained and what memory that takes, and end");
  add_data_options(*c, o->data, o->loop.evaluate_every, "the packaged instructions");
  add_adapter_options(*c, *o);
  add_training_options(*c, *o);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
