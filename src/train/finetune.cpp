#include "nibble/train/finetune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "checkpoint.h"
#include "nibble/core/error.h"
#include "nibble/core/philox.h"

namespace nibble::inline NIBBLE_ABI::train {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::invalid_argument, "finetune: " + what); }

void check(const FinetuneOptions& o, std::span<const Row> rows) {
  if (rows.empty()) refuse("there are no rows to train on");
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i].targets() == 0) refuse("row " + std::to_string(i) + " has no token that is to be predicted");
  if (!(o.epochs > 0 && o.epochs <= 1e6)) refuse("epochs is " + std::to_string(o.epochs) + "; it must be above 0");
  if (o.batch == 0 || o.accumulation == 0) refuse("batch and accumulation must be 1 at least");
  if (!(o.learning_rate > 0 && std::isfinite(o.learning_rate)))
    refuse("learning_rate is " + std::to_string(o.learning_rate) + "; it must be above 0");
  if (o.resume && o.checkpoints.empty()) refuse("to resume, the folder of the checkpoints is needed");
  if (!o.checkpoints.empty() && o.checkpoint_every == 0) refuse("checkpoint_every must be 1 at least");
}

std::size_t steps_of_epoch(const FinetuneOptions& o, std::size_t rows) {
  const std::size_t each = o.batch * o.accumulation;
  return (rows + each - 1) / each;
}

/// An order of the rows that depends on the seed and the epoch alone (Fisher and Yates).
std::vector<std::size_t> order_of(std::size_t rows, std::uint64_t seed, std::size_t epoch) {
  std::vector<std::size_t> order(rows);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  for (std::size_t i = rows; i > 1; --i) {
    const auto bits = philox({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(std::uint64_t{i} >> 32),
                              static_cast<std::uint32_t>(epoch), 0x726f7773},  // "rows": no dropout's counter
                             key);
    const std::uint64_t draw = std::uint64_t{bits[1]} << 32 | bits[0];
    std::swap(order[i - 1], order[static_cast<std::size_t>(draw % i)]);  // off from even by i/2⁶⁴ at most
  }
  return order;
}

class Run {
 public:
  Run(Trainable& model, std::span<const Row> rows, std::span<const Row> evaluation, const FinetuneOptions& options)
      : model_(model),
        rows_(rows),
        evaluation_(evaluation),
        options_(options),
        parameters_(model.parameters()),
        optimizer_(parameters_, options.optimizer),
        schedule_{.steps = steps_of(options, rows.size()),
                  .warmup_steps = warmup_steps_of(options.warmup, steps_of(options, rows.size())),
                  .decay = options.decay},
        description_(describe_run(options, rows, parameters_)) {
    description_.merge(model.description());
    report_.state_bytes = optimizer_.state_bytes();
  }

  FinetuneReport go() {
    begin();
    const Clock::time_point start = Clock::now();
    if (!evaluation_.empty() && done() < schedule_.steps) report_.evaluation_before = evaluate();
    while (done() < schedule_.steps && !report_.stopped) step();
    if (!evaluation_.empty() && !report_.stopped && !report_.evaluation_after) report_.evaluation_after = evaluate();
    save();
    report_.steps = done();
    report_.seconds = seconds_since(start);
    return report_;
  }

 private:
  /// Where an earlier run ended, if there is one.
  void begin() {
    if (options_.checkpoints.empty()) return;
    const auto last = last_checkpoint(options_.checkpoints);
    if (!last) return;
    if (!options_.resume)
      refuse("'" + last->string() + "' is of an earlier run; resume it, or name another folder for the checkpoints");
    report_.resumed_at = read_checkpoint(*last, description_, parameters_, optimizer_);
    report_.last_checkpoint = *last;
  }

  [[nodiscard]] std::size_t done() const { return static_cast<std::size_t>(optimizer_.steps()); }
  [[nodiscard]] bool asked_to_stop() const { return options_.stopped && options_.stopped(); }

  double evaluate() {
    Loss all;
    for (const Row& row : evaluation_) all += model_.loss(row);
    return all.mean();
  }

  void save() {
    if (options_.checkpoints.empty()) return;
    report_.last_checkpoint = write_checkpoint(options_, description_, parameters_, optimizer_, model_);
    if (options_.keep_checkpoints != 0) prune_checkpoints(options_.checkpoints, options_.keep_checkpoints);
  }

  /// The rows of a step, joined to one for each of its passes.
  std::vector<Row> passes_of(std::size_t step) {
    const std::size_t each = steps_of_epoch(options_, rows_.size()), epoch = step / each;
    if (epoch_ != epoch || order_.empty()) order_ = order_of(rows_.size(), options_.seed, epoch);
    epoch_ = epoch;
    std::vector<Row> out;
    std::size_t at = step % each * options_.batch * options_.accumulation;
    for (std::size_t p = 0; p < options_.accumulation && at < order_.size(); ++p) {
      Row& joined = out.emplace_back();
      for (std::size_t r = 0; r < options_.batch && at < order_.size(); ++r) joined.append(rows_[order_[at++]]);
    }
    return out;
  }

  /// Nothing is changed by a step that cannot be done.
  [[noreturn]] void fail(const std::string& what) {
    const std::string place = "step " + std::to_string(done() + 1) + ": ";
    std::string kept;
    if (!options_.checkpoints.empty()) {
      save();
      kept = "; the state before it is in '" + report_.last_checkpoint.string() + "'";
    }
    throw Error(ErrorCode::non_finite, place + what + kept);
  }

  void step() {
    const Clock::time_point start = Clock::now();
    const std::size_t t = done();
    StepRecord record{.step = t + 1, .steps = schedule_.steps};
    record.learning_rate = options_.learning_rate * schedule_.factor(t);
    record.epoch = static_cast<double>(t + 1) / static_cast<double>(steps_of_epoch(options_, rows_.size()));
    model_.clear_gradients();
    Loss loss;
    std::uint64_t pass = std::uint64_t{t} * options_.accumulation;
    for (const Row& row : passes_of(t)) {
      if (asked_to_stop()) {
        report_.stopped = true;
        return;
      }
      loss += model_.add_gradients(row, pass++);
      record.tokens += row.ids.size();
    }
    if (!std::isfinite(loss.sum))
      fail("the loss is " + std::to_string(loss.sum) +
           "; a lower learning rate, a longer warm-up or clipping (max_grad_norm) may help");
    try {
      record.gradient_norm = optimizer_.step(record.learning_rate, 1 / static_cast<double>(loss.targets)).gradient_norm;
    } catch (const Error& e) {
      if (e.code() == ErrorCode::non_finite) fail(e.what());
      throw;
    }
    record.loss = loss.mean();
    record.targets = loss.targets;
    record.seconds = seconds_since(start);
    report_.tokens += record.tokens;
    if (!begun_) report_.first_loss = record.loss;
    begun_ = true;
    report_.last_loss = record.loss;
    finish(record);
  }

  void finish(StepRecord& record) {
    const bool last = done() == schedule_.steps;
    if (!evaluation_.empty() && (last || (options_.evaluate_every != 0 && done() % options_.evaluate_every == 0))) {
      record.evaluation_loss = evaluate();
      report_.evaluation_after = last ? record.evaluation_loss : std::nullopt;
    }
    if (options_.on_step && !options_.on_step(record)) report_.stopped = !last;
    if (!last && !report_.stopped && !options_.checkpoints.empty() && done() % options_.checkpoint_every == 0) save();
  }

  Trainable& model_;
  std::span<const Row> rows_, evaluation_;
  const FinetuneOptions& options_;
  std::vector<Parameter> parameters_;
  Optimizer optimizer_;
  Schedule schedule_;
  RunDescription description_;
  FinetuneReport report_;
  std::vector<std::size_t> order_;  ///< Of the rows in epoch_.
  std::size_t epoch_ = 0;
  bool begun_ = false;
};

}  // namespace

std::size_t steps_of(const FinetuneOptions& options, std::size_t rows) {
  const double steps = std::ceil(options.epochs * static_cast<double>(steps_of_epoch(options, rows)));
  const auto all = static_cast<std::size_t>(steps);
  return options.max_steps == 0 ? all : std::min(all, options.max_steps);
}

FinetuneReport finetune(Trainable& model, std::span<const Row> rows, std::span<const Row> evaluation,
                        const FinetuneOptions& options) {
  check(options, rows);
  return Run(model, rows, evaluation, options).go();
}

}  // namespace nibble::inline NIBBLE_ABI::train
