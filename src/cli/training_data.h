// What the commands that train (finetune, qat) have in common: their data, and the log of their steps.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "commands.h"
#include "curve.h"
#include "nibble/train/finetune.h"

namespace nibble::cli {

/// The options under "Data".
struct DataOptions {
  std::string data, evaluation_data, template_name = "alpaca", packing;
  double evaluation_share = 0.05;
  std::size_t max_length = 512;
  bool whole = false, skip_bad = false;
};
/// `data_help` says what --data is by default.
void add_data_options(CLI::App& command, DataOptions& options, std::size_t& evaluate_every,
                      const std::string& data_help);

/// Rows to train on and rows held out.
struct TrainingData {
  std::vector<train::Row> train, evaluation;
  std::size_t samples = 0, tokens = 0, targets = 0;
};
/// By the tokenizer of the model. Error{invalid_argument} where nothing is left to train on.
TrainingData read_training_data(const DataOptions& options, const std::string& model, const model::Config& config,
                                bool quiet);

/// The lines of --log, one for each step; of a run that goes on, the steps that are done again are written again.
/// Without a path the points alone.
class TrainingLog {
 public:
  TrainingLog(std::string path, bool resume);
  void write(const train::StepRecord& r);
  [[nodiscard]] const std::vector<CurvePoint>& points() const { return points_; }

 private:
  void read_earlier();
  /// With the earlier lines of the steps before `step`.
  void open(std::size_t step);
  void put(const std::string& line);

  std::string path_;
  std::ofstream file_;
  std::vector<std::string> lines_;  ///< Of the run before.
  std::vector<CurvePoint> points_;
};

/// Where a run of either command writes, and how it goes on.
struct RunOptions {
  std::string output, checkpoints, log, plot;
  bool resume = false, quiet = false;

  /// --checkpoints, or a folder beside the output.
  [[nodiscard]] std::filesystem::path checkpoint_folder() const;
};
/// All of them but the output, whose meaning is the command's.
void add_run_options(CLI::App& command, RunOptions& options, train::FinetuneOptions& loop);
/// Error before the work if one of the outputs cannot be written, or reaches an input.
void check_run_places(const RunOptions& options, const std::vector<std::filesystem::path>& inputs);
/// train::finetune with progress, log, curve and Ctrl-C, which is Error{cancelled} that says how to go on.
train::FinetuneReport run_training(train::Trainable& model, const TrainingData& data, const RunOptions& options,
                                   train::FinetuneOptions loop, const std::string& title);
/// When the output is written: removes the checkpoints unless they were asked for, and prints what came of the run.
void finish_training(const RunOptions& options, const train::FinetuneReport& report);

/// Tokens of the longest pass of `batch` rows.
std::size_t longest_pass(std::size_t batch, const std::vector<train::Row>& rows);
/// "1,234,567"
std::string with_commas(std::size_t n);

}  // namespace nibble::cli
