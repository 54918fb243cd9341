// Sequences sent through one block again and again, each time no farther back than the block lets a pass begin; and
// beside it the same of the block as it was, for methods that compare what the two show.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "calibrate_block.h"
#include "nibble/core/function_ref.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Rounds of passes, one round for some of the groups: prepare(), then through() for each sequence, then finish().
class BlockPasses {
 public:
  using Show = FunctionRef<void(std::size_t group, MatrixView<const float> input)>;

  BlockPasses(const CalibrationContext& context, CalibratedBlock& block)
      : c_(context), block_(block), groups_(block.groups()) {}

  /// Whether a round up to `group` leaves its sequences' states where the next rounds begin, so that they are kept.
  [[nodiscard]] bool settles(std::size_t group) const { return resume_at(group) == Resume::with_states; }
  /// Of a round for groups from `group` on.
  void prepare(std::size_t group);
  /// From where passes begin to the inputs of groups `first` … `end` − 1, each of which is shown. Error, for an
  /// engine's author, unless all of them are, of the shapes that they state.
  void through(std::size_t sequence, MatrixView<float> x, std::size_t first, std::size_t end, Show show);
  void finish(std::size_t group);
  /// From there to the end of the block.
  void to_the_end(std::size_t sequence, MatrixView<float> x);

 private:
  using Resume = CalibratedBlock::Resume;

  [[nodiscard]] Resume resume_at(std::size_t group) const {
    return group == 0 ? Resume::never : block_.resumes_at(group);
  }
  void pass(std::size_t sequence, MatrixView<float> x, CalibratedBlock::Listener listen);

  const CalibrationContext& c_;
  CalibratedBlock& block_;
  std::span<const LayerGroup> groups_;
  std::optional<std::size_t> from_;  ///< The group at whose input passes begin; none: at that of the block.
  std::unique_ptr<CalibrationStore> kept_, keeping_;  ///< That group's input, where it takes that; of this round's.
  std::vector<float> kept_values_;
};

/// The block with its own weights, and the states that the model's own blocks before it give.
class FullPrecision {
 public:
  FullPrecision(const CalibrationContext& context, CalibratedBlock& block)
      : c_(context), block_(block), passes_(context, block), values_(context.full->tokens() * context.full->width()) {}

  void prepare(std::size_t group) { passes_.prepare(group); }
  /// The inputs of groups `first` … `end` − 1 in one sequence, for beside().
  void through(std::size_t sequence, std::size_t first, std::size_t end);
  void finish(std::size_t group) { passes_.finish(group); }
  void to_the_end(std::size_t sequence);

  /// What the rows of `input`, which `quantized` is showing of `group`, are in full precision, row by row. Of a routed
  /// group the quantized model's routing holds; a token that in full precision does not go to this expert has no other
  /// input there, and counts as what it is.
  MatrixView<const float> beside(const CalibratedBlock& quantized, std::size_t group, MatrixView<const float> input);

 private:
  /// Of a group, in one sequence.
  struct Input {
    std::vector<float> values;
    std::size_t rows = 0, cols = 0;
    std::vector<std::size_t> tokens;  ///< Of a routed group.
  };
  MatrixView<float> states() { return {values_.data(), c_.full->tokens(), c_.full->width()}; }

  const CalibrationContext& c_;
  CalibratedBlock& block_;
  BlockPasses passes_;
  std::vector<float> values_;
  std::size_t first_ = 0;
  std::vector<Input> inputs_;  ///< Of groups from first_ on.
  std::vector<float> paired_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
