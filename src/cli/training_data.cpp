#include "training_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json.h"
#include "core/pending.h"
#include "interrupt.h"
#include "nibble/core/error.h"
#include "nibble/text/records.h"
#include "progress_bar.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

bool is_records(const fs::path& path) { return path.extension() == ".jsonl" || path.extension() == ".json"; }

std::vector<train::Sample> read_samples(const DataOptions& o, const fs::path& file, const text::Tokenizer& tokenizer,
                                        const model::Config& config, bool quiet) {
  ProgressBar bar("reading", quiet);
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

/// Steps, time, held-out loss before and after, memory.
void print_result(const std::string& output, const train::FinetuneReport& report) {
  fmt::print("{}: {} steps", output, report.steps);
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

}  // namespace

TrainingData read_training_data(const DataOptions& o, const std::string& model, const model::Config& config,
                                bool quiet) {
  const auto tokenizer = text::load_tokenizer(model);
  std::vector<train::Sample> samples = read_samples(o, o.data, *tokenizer, config, quiet), held;
  const bool wraps =
      o.packing.empty() ? !is_records(o.data) : train::parse_packing(o.packing) == train::Packing::wrapped;
  const train::Packing packing = !o.packing.empty() ? train::parse_packing(o.packing)
                                 : wraps            ? train::Packing::wrapped
                                                    : train::Packing::best_fit;
  TrainingData out;
  if (!o.evaluation_data.empty()) held = read_samples(o, o.evaluation_data, *tokenizer, config, quiet);
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

TrainingLog::TrainingLog(std::string path, bool resume) : path_(std::move(path)) {
  if (path_.empty()) return;
  if (resume && files::exists(path_)) read_earlier();
  else open(0);
}

void TrainingLog::write(const train::StepRecord& r) {
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

void TrainingLog::read_earlier() {
  std::ifstream in(path_);
  std::string line;
  while (std::getline(in, line) && !in.eof()) {  // a last line without an end was cut by what ended the run
    const json::Document record = json::parse(line, path_);
    CurvePoint& p = points_.emplace_back();
    p.step = record->value("step", std::size_t{0});
    p.loss = record->value("loss", 0.0);
    p.learning_rate = record->value("learning_rate", 0.0);
    if (record->contains("evaluation_loss")) p.evaluation = record->value("evaluation_loss", 0.0);
    lines_.push_back(line);
  }
}

void TrainingLog::open(std::size_t step) {
  file_.open(path_, std::ios::trunc);
  std::erase_if(points_, [&](const CurvePoint& p) { return p.step >= step; });
  for (std::size_t i = 0; i < points_.size(); ++i) put(lines_[i]);
  if (!file_) throw Error(ErrorCode::io, "--log '" + path_ + "' cannot be written");
}

void TrainingLog::put(const std::string& line) {
  file_ << line << '\n' << std::flush;
  if (!file_) throw Error(ErrorCode::io, "--log '" + path_ + "' cannot be written to: is the disk full?");
}

std::size_t longest_pass(std::size_t batch, const std::vector<train::Row>& rows) {
  std::vector<std::size_t> lengths;
  for (const train::Row& row : rows) lengths.push_back(row.ids.size());
  std::ranges::sort(lengths, std::greater());
  std::size_t sum = 0;
  for (std::size_t i = 0; i < std::min(batch, lengths.size()); ++i) sum += lengths[i];
  return sum;
}

std::string with_commas(std::size_t n) {
  std::string digits = std::to_string(n);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

fs::path RunOptions::checkpoint_folder() const {
  return checkpoints.empty() ? fs::path(files::without_slash(output).string() + ".checkpoints") : fs::path(checkpoints);
}

void add_run_options(CLI::App& c, RunOptions& o, train::FinetuneOptions& loop) {
  c.add_option("--checkpoints", o.checkpoints,
               "Folder for what a run goes on from (default: beside the output, and removed when that is written)");
  c.add_option("--checkpoint-every", loop.checkpoint_every, "Steps between checkpoints")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  c.add_option("--keep-checkpoints", loop.keep_checkpoints, "How many of them are kept (0: all)")
      ->capture_default_str();
  c.add_flag("--resume", o.resume, "Go on where an earlier run with the same options ended");
  c.add_option("--log", o.log, "Write a line of JSON for each step")->check(kNamed);
  c.add_option("--plot", o.plot, "Write the curve of the loss as SVG")->check(kNamed);
  c.add_flag("--quiet", o.quiet, "Print nothing on success");
}

void check_run_places(const RunOptions& o, const std::vector<fs::path>& inputs) {
  using enum files::OutputKind;
  check_given_outputs({{o.output, new_folder}, {o.log, file, "--log"}, {o.plot, file, "--plot"}}, inputs);
}

train::FinetuneReport run_training(train::Trainable& model, const TrainingData& data, const RunOptions& o,
                                   train::FinetuneOptions loop, const std::string& title) {
  TrainingLog log(o.log, o.resume);
  const SlowToStop until_the_step_ends;
  train::FinetuneReport report;
  {
    ProgressBar bar("training", o.quiet);
    loop.checkpoints = o.checkpoint_folder();
    loop.resume = o.resume;
    loop.stopped = [] { return interrupted(); };
    loop.on_step = [&](const train::StepRecord& r) {
      log.write(r);
      return bar.update(static_cast<double>(r.step) / static_cast<double>(r.steps),
                        fmt::format("step {}/{} loss {:.4f}", r.step, r.steps, r.loss));
    };
    report = train::finetune(model, data.train, data.evaluation, loop);
  }
  if (!o.plot.empty()) save_text(o.plot, curve_svg(log.points(), title));
  if (report.stopped)
    throw Error(ErrorCode::cancelled,
                fmt::format("interrupted after step {}, which is kept in '{}'; the same command with --resume goes on",
                            report.steps, report.last_checkpoint.string()));
  return report;
}

void finish_training(const RunOptions& o, const train::FinetuneReport& report) {
  if (o.checkpoints.empty()) files::remove_quietly(o.checkpoint_folder());
  if (!o.quiet) print_result(o.output, report);
}

void add_data_options(CLI::App& c, DataOptions& o, std::size_t& evaluate_every, const std::string& data_help) {
  const std::string group = "Data";
  const auto add = [&](const char* name, auto& value, const char* help) {
    return c.add_option(name, value, help)->group(group);
  };
  std::string templates;
  for (const text::PromptTemplate& t : text::prompt_templates())
    templates += (templates.empty() ? "" : ", ") + std::string(t.name);
  add("--data", o.data,
      ("JSON lines of instructions, prompts, chats or texts, or a plain text file (default: " + data_help + ")")
          .c_str());
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
  add("--evaluate-every", evaluate_every, "Steps between evaluations (0: before and after)")->capture_default_str();
}

}  // namespace nibble::cli
