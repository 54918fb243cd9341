// One block of a calibration run: its sequences sent through it, and its linear layers quantized on the way.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "calibration_store.h"
#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"
#include "nibble/solver/hessian.h"

namespace nibble::inline NIBBLE_ABI::model {

/// What quantizing needs to know of the run.
struct CalibrationContext {
  const CalibrateOptions& options;
  const Backend& backend;
  Executor& executor;
  CalibrationStore& states;
  CalibrationStore* full;  ///< The same of the model that was never quantized; null where no method asks for it.
  const std::filesystem::path& folder;  ///< For files of the run's own.
  Progress progress;                    ///< Of this block.
  /// How a layer is quantized; nothing: it stays.
  std::function<std::optional<CalibratedMethod>(const std::string& layer)> method_of;

  [[nodiscard]] std::uint64_t tokens() const { return std::uint64_t{states.sequences()} * states.tokens(); }
};

/// Fills `states`, and `also` where there is one, with the sequences of `ids` that begin at `starts`.
void embed(CalibratedModel& model, std::span<const std::int32_t> ids, std::span<const std::size_t> starts,
           CalibrationStore& states, CalibrationStore* also = nullptr);

/// The hidden states of every sequence in turn.
class SequenceStates {
 public:
  using Visit = std::function<void(std::size_t sequence, MatrixView<float> x)>;

  explicit SequenceStates(const CalibrationContext& context) : SequenceStates(context, context.states) {}
  SequenceStates(const CalibrationContext& context, CalibrationStore& states)
      : context_(context), states_(states), values_(states.tokens() * states.width()) {}

  /// Shows `visit` the states of each sequence; `keep`: what it makes of them is what the next pass starts from.
  /// Reports progress from `first` to `last` with `what`.
  void each(bool keep, double first, double last, const std::string& what, const Visit& visit);
  /// Through the whole block, kept.
  void advance(CalibratedBlock& block, double first, double last);

 private:
  const CalibrationContext& context_;
  CalibrationStore& states_;
  std::vector<float> values_;
};

/// "inputs of model.layers.3.mlp.down_proj": the first of those that share them.
std::string input_name(const LayerGroup& group);
/// Error{shape_mismatch}, for an engine's author, unless `input` is [tokens, cols] of the group, or of some of the
/// tokens where it is routed.
void check_input(const LayerGroup& group, MatrixView<const float> input, std::size_t tokens);
/// Error{invalid_argument} or {shape_mismatch} names what the groups say that cannot be: no layers, layers of different
/// inputs, a source that does not fit, comes later, or is another group's too.
void check_groups(std::span<const LayerGroup> groups);
/// Error{invalid_argument}, for an engine's author, unless the block `shown` this group.
void require_shown(const LayerGroup& group, bool shown);
/// A layer's weights, of the shape and type that its group states: Error{shape_mismatch}.
FloatMatrix weights_of(CalibratedBlock& block, LayerId id);

/// Quantizes the block and moves the sequences' states past it. `full`: the same block, for as long as the run carries
/// the full-precision model's states; they move too.
FinishedBlock gptq_block(const CalibrationContext& context, CalibratedBlock& block, CalibratedBlock* full);
FinishedBlock awq_block(const CalibrationContext& context, CalibratedBlock& block);
/// The head, behind which nothing comes: by GPTQ, or to nearest, and its loss in both cases.
FinishedBlock quantize_head(const CalibrationContext& context, CalibratedBlock& head, CalibratedBlock* full);

/// The first group behind those that are gathered in one pass with group `first`.
std::size_t end_of_pass(std::span<const LayerGroup> groups, std::size_t first);

/// The block multiplies by the finished layer from now on.
void put(CalibratedBlock& block, LayerId id, FinishedBlock::Layer layer);

/// One layer rounded to nearest.
FinishedBlock::Layer round_layer(const CalibrationContext& context, const std::string& name, FloatMatrix weights,
                                 const CalibratedMethod& method);

}  // namespace nibble::inline NIBBLE_ABI::model
