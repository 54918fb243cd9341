// The loop of a fine-tune: batches in a seeded order, gradients added up, steps of an optimizer on a schedule,
// checkpoints that a run goes on from to the same bits, evaluation. What is trained is the caller's: any engine
// implements Trainable (engine/lora_model.h does, for the reference engine), and the loop knows nothing of models.
//
//   train::FinetuneOptions options;
//   options.checkpoints = "run";
//   options.on_step = [](const train::StepRecord& s) { std::printf("%zu %f\n", s.step, s.loss); return true; };
//   train::finetune(trainable, rows, evaluation_rows, options);
//
// The loss of a step is the mean over all targets of its batches together, not the mean of the batches' means, so how a
// batch is cut into passes changes nothing but rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/train/optimizer.h"
#include "nibble/train/rows.h"
#include "nibble/train/schedule.h"

namespace nibble::inline NIBBLE_ABI::train {

/// −ln p(target), summed over the targets of a row.
struct Loss {
  double sum = 0;
  std::size_t targets = 0;
  [[nodiscard]] double mean() const { return targets == 0 ? 0 : sum / static_cast<double>(targets); }
  Loss& operator+=(const Loss& other) {
    sum += other.sum;
    targets += other.targets;
    return *this;
  }
};

/// A model under training.
class Trainable {
 public:
  virtual ~Trainable() = default;
  /// The tensors that are trained. Their memory stays where it is.
  virtual std::vector<Parameter> parameters() = 0;
  virtual void clear_gradients() = 0;
  /// Adds the gradient of the row's summed loss. `pass` numbers the passes of a run, so that what is random in one (a
  /// dropout's mask) depends on it alone.
  virtual Loss add_gradients(const Row& row, std::uint64_t pass) = 0;
  /// The loss alone, with nothing random.
  virtual Loss loss(const Row& row) = 0;
  /// What a checkpoint holds beside the parameters, for whoever wants to use it as it is: an adapter's files.
  virtual void save(const std::filesystem::path& folder) const { static_cast<void>(folder); }
  /// What of it, beside the parameters' names and sizes, must be the same for a run to go on from a checkpoint: names
  /// of options, none of them one of FinetuneOptions, and their values.
  [[nodiscard]] virtual std::map<std::string, std::string> description() const { return {}; }
};

/// What is said of a step.
struct StepRecord {
  std::size_t step = 0, steps = 0;  ///< Counted from 1.
  double epoch = 0;                 ///< Of the data, how often it has been gone through.
  double loss = 0;                  ///< Mean over the step's targets, in nats.
  double learning_rate = 0;
  double gradient_norm = 0;  ///< Before clipping.
  std::size_t tokens = 0, targets = 0;
  double seconds = 0;
  std::optional<double> evaluation_loss = std::nullopt;  ///< After the step, where it was measured.
};

struct FinetuneOptions {
  double epochs = 1;             ///< How often the rows are gone through; a part of an epoch is its first rows.
  std::size_t max_steps = 0;     ///< Ends the run earlier; the schedule then ends there too. 0: no limit.
  std::size_t batch = 4;         ///< Rows a pass, side by side.
  std::size_t accumulation = 4;  ///< Passes a step.
  double learning_rate = 2e-4;
  double warmup = 0.03;  ///< Share of the steps.
  Decay decay = Decay::cosine;
  std::uint64_t seed = 1;  ///< Of the order of the rows.
  OptimizerOptions optimizer{.rule = AdamOptions{}, .state_bits = 8, .max_grad_norm = 0.3};

  std::size_t evaluate_every = 0;  ///< Steps between evaluations; 0: only at the end. Without rows for it: never.
  /// Where checkpoints go, as "checkpoint-<step>", each written aside and renamed; empty: none.
  std::filesystem::path checkpoints;
  std::size_t checkpoint_every = 100;  ///< Steps; also at the end, and when the run is stopped.
  std::size_t keep_checkpoints = 2;    ///< Older ones are removed; 0: none is.
  bool resume = false;                 ///< Goes on from the last one in `checkpoints`, or begins if there is none.
  /// After each step; false stops the run, with a checkpoint.
  std::function<bool(const StepRecord&)> on_step;
  /// Asked before each pass; true stops the run as well, where the last step ended.
  std::function<bool()> stopped;
};

struct FinetuneReport {
  std::size_t steps = 0, resumed_at = 0;  ///< Done in all; of them before this call.
  bool stopped = false;                   ///< Before the end: `resume` goes on.
  double first_loss = 0, last_loss = 0;   ///< Of this call's steps.
  std::optional<double> evaluation_before, evaluation_after;
  double seconds = 0;
  std::size_t tokens = 0;                 ///< Gone through in this call.
  std::size_t state_bytes = 0;            ///< Of the optimizer.
  std::filesystem::path last_checkpoint;  ///< Or empty.
};

/// Steps of a run over so many rows.
std::size_t steps_of(const FinetuneOptions& options, std::size_t rows);

/// Neither the number of threads nor a stop and resume changes a bit of the parameters. Errors: invalid_argument for no
/// rows, rows without a target, an option out of range, a checkpoint of another run (it names what differs);
/// non_finite for a loss or gradient that is none, with the step and what to try: parameters are then those of the step
/// before, and a checkpoint of it is written; corrupt_file, io.
FinetuneReport finetune(Trainable& model, std::span<const Row> rows, std::span<const Row> evaluation,
                        const FinetuneOptions& options);

}  // namespace nibble::inline NIBBLE_ABI::train
