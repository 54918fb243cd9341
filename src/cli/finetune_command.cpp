#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/files.h"
#include "core/json.h"
#include "core/pending.h"
#include "curve.h"
#include "interrupt.h"
#include "methods.h"
#include "nibble/core/error.h"
#include "nibble/engine/lora_model.h"
#include "nibble/text/records.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// The defaults are those of the usual recipe of QLoRA.
struct Options {
  std::string model, data, output, base = "nf4-dq", template_name = "alpaca", packing, checkpoints, log, plot,
                                   evaluation_data, optimizer = "adamw", decay = "linear";
  model::AdapterOptions adapter;
  train::FinetuneOptions loop;
  double evaluation_share = 0.05, weight_decay = 0;
  std::size_t max_length = 512, state_memory = std::size_t{1} << 30;
  int state_bits = 8;
  bool whole = false, skip_bad = false, no_checkpointing = false, resume = false, quiet = false, plan = false;
};

struct Data {
  std::vector<train::Row> train, evaluation;
  std::size_t samples = 0, tokens = 0, targets = 0;
};

bool is_records(const fs::path& path) { return path.extension() == ".jsonl" || path.extension() == ".json"; }

std::vector<train::Sample> read_samples(const Options& o, const fs::path& file, const text::Tokenizer& tokenizer,
                                        const model::Config& config) {
  ProgressBar bar("reading", o.quiet);
  text::RecordOptions options;
  options.template_name = o.template_name;
  options.completion_only = !o.whole;
  options.skip_bad = o.skip_bad;
  if (!config.eos.empty()) options.eos = config.eos.front();
  options.progress = bar.callback();
  text::Records records = text::read_records(file, tokenizer, options);
  for (const std::string& text : records.notes) note(text);
  return std::move(records.samples);
}

/// Of every 1/share samples the last is held out: the same ones whatever the seed is.
void hold_out(double share, std::vector<train::Sample>& samples, std::vector<train::Sample>& held) {
  if (!(share > 0) || samples.size() < 2) return;
  std::vector<train::Sample> kept;
  double due = 0;
  for (train::Sample& sample : samples) {
    due += share;
    auto& to = due >= 1 ? held : kept;
    if (due >= 1) due -= 1;
    to.push_back(std::move(sample));
  }
  samples = std::move(kept);
}

/// A long text is one sample; of its rows the last share is held out.
void hold_out(double share, std::vector<train::Row>& rows, std::vector<train::Row>& held) {
  const auto count = static_cast<std::size_t>(share * static_cast<double>(rows.size()));
  for (std::size_t i = 0; i < count; ++i) {
    held.push_back(std::move(rows.back()));
    rows.pop_back();
  }
  std::ranges::reverse(held);
}

Data read_data(const Options& o, const model::Config& config) {
  const auto tokenizer = text::load_tokenizer(o.model);
  std::vector<train::Sample> samples = read_samples(o, o.data, *tokenizer, config), held;
  const bool wraps =
      o.packing.empty() ? !is_records(o.data) : train::parse_packing(o.packing) == train::Packing::wrapped;
  const train::Packing packing = !o.packing.empty() ? train::parse_packing(o.packing)
                                 : wraps            ? train::Packing::wrapped
                                                    : train::Packing::best_fit;
  Data out;
  if (!o.evaluation_data.empty()) held = read_samples(o, o.evaluation_data, *tokenizer, config);
  else if (!wraps) hold_out(o.evaluation_share, samples, held);
  out.samples = samples.size();
  out.train = train::pack_rows(samples, o.max_length, packing);
  out.evaluation = train::pack_rows(held, o.max_length, packing);
  if (o.evaluation_data.empty() && wraps) hold_out(o.evaluation_share, out.train, out.evaluation);
  if (out.train.empty())
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("'{}' has nothing to train on within {} tokens; a longer --max-length, or --whole, may help",
                    o.data, o.max_length));
  for (const train::Row& row : out.train) {
    out.tokens += row.ids.size();
    out.targets += row.targets();
  }
  return out;
}

engine::Model load_base(const Options& o) {
  engine::LoadOptions load;
  load.backend = chosen_backend();
  const Method method = parse_loading_method(o.base);
  if (method.int8_activations)
    throw Error(ErrorCode::invalid_argument, "--base '" + o.base + "': activations stay in fp32 in training");
  load.quantize = method.spec;
  ProgressBar bar("loading", o.quiet);
  load.progress = bar.callback();
  return engine::Model::load(o.model, load);
}

/// The lines of --log, one for each step. Of a run that goes on, the steps that are done again are written again.
class Log {
 public:
  Log(std::string path, bool resume) : path_(std::move(path)) {
    if (path_.empty()) return;
    if (resume && fs::exists(path_)) read_earlier();
    else open(0);
  }
  void write(const train::StepRecord& r) {
    if (!path_.empty() && !file_.is_open()) open(r.step);
    points_.push_back({r.step, r.loss, r.learning_rate, r.evaluation_loss});
    if (path_.empty()) return;
    nlohmann::ordered_json line{{"step", r.step},
                                {"steps", r.steps},
                                {"epoch", r.epoch},
                                {"loss", r.loss},
                                {"learning_rate", r.learning_rate},
                                {"gradient_norm", r.gradient_norm},
                                {"tokens", r.tokens},
                                {"targets", r.targets},
                                {"seconds", r.seconds},
                                {"tokens_per_s", static_cast<double>(r.tokens) / r.seconds},
                                {"peak_rss_bytes", peak_rss_bytes()}};
    if (r.evaluation_loss) line["evaluation_loss"] = *r.evaluation_loss;
    put(line.dump());
  }
  [[nodiscard]] const std::vector<CurvePoint>& points() const { return points_; }

 private:
  void read_earlier() {
    std::ifstream in(path_);
    for (std::string line; std::getline(in, line) && !in.eof();
         lines_.push_back(line)) {  // a last one without end is cut
      const json::Document record = json::parse(line, path_);
      CurvePoint& p = points_.emplace_back();
      p.step = record->value("step", std::size_t{0});
      p.loss = record->value("loss", 0.0);
      p.learning_rate = record->value("learning_rate", 0.0);
      if (record->contains("evaluation_loss")) p.evaluation = record->value("evaluation_loss", 0.0);
    }
  }
  /// With the earlier lines of the steps before `step`.
  void open(std::size_t step) {
    file_.open(path_, std::ios::trunc);
    std::erase_if(points_, [&](const CurvePoint& p) { return p.step >= step; });
    for (std::size_t i = 0; i < points_.size(); ++i) put(lines_[i]);
    if (!file_) throw Error(ErrorCode::io, "--log '" + path_ + "' cannot be written");
  }
  void put(const std::string& line) {
    file_ << line << '\n' << std::flush;
    if (!file_) throw Error(ErrorCode::io, "--log '" + path_ + "' cannot be written to: is the disk full?");
  }

  std::string path_;
  std::ofstream file_;
  std::vector<std::string> lines_;  ///< Of the run before.
  std::vector<CurvePoint> points_;
};

std::string with_commas(std::size_t n) {
  std::string digits = std::to_string(n);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

/// Weights of the model, whatever they are stored as.
std::size_t parameters_of(const model::Config& c) {
  std::size_t block = 0;
  for (const model::Module& m : c.architecture().block)
    block += c.elements(m.out) * (m.is_linear() ? c.elements(m.in) : 1);
  return c.layers * block + c.hidden + c.vocab * c.hidden * (c.tied_embeddings ? 1 : 2);
}

std::size_t longest_pass(const Options& o, const std::vector<train::Row>& rows) {
  std::vector<std::size_t> lengths;
  for (const train::Row& row : rows) lengths.push_back(row.ids.size());
  std::ranges::sort(lengths, std::greater());
  std::size_t sum = 0;
  for (std::size_t i = 0; i < std::min(o.loop.batch, lengths.size()); ++i) sum += lengths[i];
  return sum;
}

void print_plan(const Options& o, const engine::Model& base, const engine::LoraModel& lora, const Data& data) {
  const std::size_t trained = lora.adapter().parameters(), all = parameters_of(base.config()) + trained;
  fmt::print("trainable params: {} || all params: {} || trainable%: {:.4f}\n", with_commas(trained), with_commas(all),
             100 * static_cast<double>(trained) / static_cast<double>(all));
  fmt::print("data: {} samples in {} rows of up to {} tokens, {} tokens, {} of them predicted; {} rows held out\n",
             data.samples, data.train.size(), o.max_length, data.tokens, data.targets, data.evaluation.size());
  fmt::print("steps: {} of {} × {} rows\n", train::steps_of(o.loop, data.train.size()), o.loop.batch,
             o.loop.accumulation);
  const std::size_t state = trained * (o.state_bits == 8 ? 2 : 8) / (o.optimizer == "lion" ? 2 : 1),
                    pass = lora.activation_bytes(longest_pass(o, data.train));
  fmt::print("memory: {} of weights at {:.3f} bits in the blocks, {} for a pass, {} of optimizer state\n",
             megabytes(base.weight_bytes()), base.bits_per_weight(), megabytes(pass), megabytes(state));
}

void set_loop(const Options& o, train::FinetuneOptions& loop, const fs::path& checkpoints) {
  if (o.optimizer == "lion") loop.optimizer.rule = LionOptions{.weight_decay = o.weight_decay};
  else loop.optimizer.rule = AdamOptions{.weight_decay = o.weight_decay};
  loop.optimizer.state_bits = o.state_bits;
  loop.optimizer.backend = chosen_backend();
  loop.optimizer.resident_bytes = o.state_memory;
  loop.optimizer.paging_folder = files::parent_of(checkpoints);
  loop.decay = train::parse_decay(o.decay);
  loop.seed = o.adapter.seed;
  loop.checkpoints = checkpoints;
  loop.resume = o.resume;
}

void print_result(const Options& o, const train::FinetuneReport& report) {
  fmt::print("{}: {} steps", o.output, report.steps);
  if (report.resumed_at != 0) fmt::print(", {} of them before", report.resumed_at);
  if (report.steps > report.resumed_at)
    fmt::print(", {} tokens in {:.0f} s ({:.0f} tokens/s)", report.tokens, report.seconds,
               static_cast<double>(report.tokens) / report.seconds);
  fmt::print("\n");
  if (report.evaluation_before && report.evaluation_after)
    fmt::print("held-out loss {:.4f}, was {:.4f} before (perplexity {:.4f}, was {:.4f})\n", *report.evaluation_after,
               *report.evaluation_before, std::exp(*report.evaluation_after), std::exp(*report.evaluation_before));
  fmt::print("memory: {} of optimizer state, {} at the peak of the process\n", megabytes(report.state_bytes),
             megabytes(peak_rss_bytes()));
}

void check_places(const Options& o) {
  using enum files::OutputKind;
  check_given_outputs({{o.output, new_folder}, {o.log, file, "--log"}, {o.plot, file, "--plot"}},
                      {o.model, o.data, o.evaluation_data});
}

void run(Options o) {
  if (o.model.empty()) o.model = (example_data() / "austen-5m").string();
  if (o.data.empty()) o.data = (example_data() / "instructions.jsonl").string();
  check_places(o);
  const engine::Model base = load_base(o);
  for (const std::string& text : base.config().notes) note(text);
  const Data data = read_data(o, base.config());
  model::Adapter adapter = model::Adapter::make(base.config(), o.adapter);
  adapter.base_model = o.model;
  engine::LoraModel lora(base, std::move(adapter), {.checkpointing = !o.no_checkpointing, .seed = o.adapter.seed});
  if (!o.quiet) print_plan(o, base, lora, data);
  if (o.plan) return;

  const fs::path checkpoints =
      o.checkpoints.empty() ? files::without_slash(o.output).string() + ".checkpoints" : o.checkpoints;
  set_loop(o, o.loop, checkpoints);
  Log log(o.log, o.resume);
  const SlowToStop until_the_step_ends;
  train::FinetuneReport report;
  {
    ProgressBar bar("training", o.quiet);
    o.loop.stopped = [] { return interrupted(); };
    o.loop.on_step = [&](const train::StepRecord& r) {
      log.write(r);
      return bar.update(static_cast<double>(r.step) / static_cast<double>(r.steps),
                        fmt::format("step {}/{} loss {:.4f}", r.step, r.steps, r.loss));
    };
    report = train::finetune(lora, data.train, data.evaluation, o.loop);
  }
  if (!o.plot.empty())
    save_text(o.plot, curve_svg(log.points(), "Fine-tuning " + fs::path(o.model).filename().string()));
  if (report.stopped)
    throw Error(ErrorCode::cancelled,
                fmt::format("interrupted after step {}, which is kept in '{}'; the same command with --resume goes on",
                            report.steps, report.last_checkpoint.string()));
  lora.adapter().save(o.output);
  if (o.checkpoints.empty()) files::remove_quietly(checkpoints);
  if (!o.quiet) print_result(o, report);
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
  c.add_flag("--no-gradient-checkpointing", o.no_checkpointing,
             "Keep all activations: a quarter less time, and memory for every block's")
      ->group(group);
}

void add_data_options(CLI::App& c, Options& o) {
  const std::string group = "Data";
  const auto add = [&](const char* name, auto& value, const char* help) {
    return c.add_option(name, value, help)->group(group);
  };
  std::string templates;
  for (const text::PromptTemplate& t : text::prompt_templates())
    templates += (templates.empty() ? "" : ", ") + std::string(t.name);
  add("--data", o.data,
      "JSON lines of instructions, prompts, chats or texts, or a plain text file (default: the packaged instructions)");
  add("--template", o.template_name, "How an instruction or a chat becomes text")
      ->capture_default_str()
      ->description("How an instruction or a chat becomes text: " + templates);
  add("--max-length", o.max_length, "Tokens of a row; longer samples are cut")->capture_default_str();
  add("--packing", o.packing,
      "best-fit: several samples a row, none of which sees another; none: one; wrapped: one long text, cut (default: "
      "best-fit for records, wrapped for plain text)");
  c.add_flag("--whole", o.whole, "Train on prompts, too, not on answers alone")->group(group);
  c.add_flag("--skip-bad", o.skip_bad, "Leave records out that cannot be read, and say which")->group(group);
  add("--evaluation-data", o.evaluation_data, "Held-out data (default: a share of --data)");
  add("--evaluation-share", o.evaluation_share, "Share of --data that is held out")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 0.9));
  add("--evaluate-every", o.loop.evaluate_every, "Steps between evaluations (0: before and after)")
      ->capture_default_str();
}

}  // namespace

void add_finetune_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("finetune", "Train a LoRA adapter over a model's quantized weights (QLoRA)");
  c->add_option("model", o->model, "Model directory or GGUF file, dense or quantized (default: the embedded model)");
  c->add_option("-o,--output", o->output, "Adapter to write, a folder as PEFT reads it; must not exist")->required();
  c->add_option("--checkpoints", o->checkpoints,
                "Folder for what a run goes on from (default: beside the output, and removed when that is written)");
  c->add_option("--checkpoint-every", o->loop.checkpoint_every, "Steps between checkpoints")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c->add_option("--keep-checkpoints", o->loop.keep_checkpoints, "How many of them are kept (0: all)")
      ->capture_default_str();
  c->add_flag("--resume", o->resume, "Go on where an earlier run with the same options ended");
  c->add_flag("--plan", o->plan, "Say what would be trained and what memory that takes, and end");
  c->add_option("--log", o->log, "Write a line of JSON for each step")->check(kNamed);
  c->add_option("--plot", o->plot, "Write the curve of the loss as SVG")->check(kNamed);
  c->add_flag("--quiet", o->quiet, "Print nothing on success");
  add_data_options(*c, *o);
  add_adapter_options(*c, *o);
  add_training_options(*c, *o);
  c->callback([o] { run(*o); });
}

}  // namespace nibble::cli
