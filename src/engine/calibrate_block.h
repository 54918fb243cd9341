// One block of a calibration run: its sequences sent through it, and its linear layers quantized on the way.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/calibration_store.h"
#include "model/finished_block.h"
#include "nibble/engine/block.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/calibrate.h"
#include "nibble/solver/hessian.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// What quantizing needs to know of the run.
struct CalibrationContext {
  const model::Config& config;
  const Checkpoint& checkpoint;
  const model::CalibrateOptions& options;
  const Backend& backend;
  Executor& executor;
  model::CalibrationStore& states;
  const std::filesystem::path& folder;  ///< For files of the run's own.
  const RopeAngles& rope;               ///< Of the positions of one sequence.
  Progress progress;                    ///< Of this block.
  /// How a layer is quantized; nothing: it stays.
  std::function<std::optional<model::CalibratedMethod>(const std::string& layer)> method_of;

  [[nodiscard]] std::uint64_t tokens() const { return std::uint64_t{states.sequences()} * states.tokens(); }
};

/// A block's forward pass over every sequence in turn.
class BlockRunner {
 public:
  using Visit = std::function<void(std::size_t sequence, MatrixView<float> x)>;

  BlockRunner(const CalibrationContext& context, Block& block);

  /// Shows `visit` the states of each sequence; `keep`: what it makes of them is what the next pass starts from.
  /// Reports progress from `first` to `last` with `what`.
  void each(bool keep, double first, double last, const std::string& what, const Visit& visit);
  /// The whole block, kept.
  void advance(double first, double last);

  /// What linear layers multiply. Of attention and heads x holds the block's input, of ffn and gated what attention was
  /// added to. Valid until the next call.
  [[nodiscard]] MatrixView<const float> input(model::Input input, MatrixView<const float> x);
  void add_attention(MatrixView<float> x) {
    pass_.add_attention(block_, x, context_.rope.of(block_), cache(), scratch_);
  }
  /// The rest of attention, from what input() gave for the heads.
  void add_mixed(MatrixView<const float> mixed, MatrixView<float> x);
  void add_mlp(MatrixView<float> x) { pass_.add_mlp(block_, x, scratch_); }

  [[nodiscard]] const BlockPass& pass() const { return pass_; }
  [[nodiscard]] KeyValues cache();

 private:
  const CalibrationContext& context_;
  Block& block_;
  BlockPass pass_;
  BlockPass::Scratch scratch_;
  std::vector<float> states_, keys_, values_, normed_, inner_;
};

/// In the order of the forward pass.
inline constexpr std::array<model::Input, model::kInputs> kAllInputs{model::Input::attention, model::Input::heads,
                                                                     model::Input::ffn, model::Input::gated};
/// Something kept for each of them.
template <class T>
struct ByInput : std::array<T, model::kInputs> {
  T& operator[](model::Input input) { return this->at(static_cast<std::size_t>(input)); }
  const T& operator[](model::Input input) const { return this->at(static_cast<std::size_t>(input)); }
};

/// "inputs of model.layers.3.mlp.down_proj": the first of those that share it.
std::string input_name(const Block& block, const model::Architecture& architecture, model::Input input);

/// Quantizes the block and moves the sequences' states past it.
model::FinishedBlock gptq_block(const CalibrationContext& context, Block& block);
model::FinishedBlock awq_block(const CalibrationContext& context, Block& block, std::size_t index);

/// One layer by GPTQ, or to nearest where its method says so (or nothing was gathered: `hessian` null).
model::FinishedBlock::Layer gptq_layer(const CalibrationContext& context, const std::string& name,
                                       const model::CalibratedMethod& method, const Hessian* hessian);
/// One layer rounded to nearest.
model::FinishedBlock::Layer round_layer(const CalibrationContext& context, const std::string& name,
                                        const model::CalibratedMethod& method);

}  // namespace nibble::inline NIBBLE_ABI::engine
