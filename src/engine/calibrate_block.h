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
  std::span<const float> rope;          ///< Of the positions of one sequence.
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

  /// The inputs of the four groups of linears that share one: q, k, v; o; gate, up; down. For the first two x holds the
  /// block's input, for the others what attention was added to. Valid until the next call.
  [[nodiscard]] MatrixView<const float> input(std::size_t group, MatrixView<const float> x);
  void add_attention(MatrixView<float> x) { pass_.add_attention(block_, x, context_.rope, cache(), scratch_); }
  /// The rest of attention, from what input() gave for o.
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

/// The linears of a block by the input they share: of block.linears(), first and one past the last.
inline constexpr std::array<std::pair<std::size_t, std::size_t>, 4> kGroups{{{0, 3}, {3, 4}, {4, 6}, {6, 7}}};

/// "model.layers.3: inputs of o_proj"
std::string group_name(const Block& block, std::size_t group);

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
