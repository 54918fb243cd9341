// What a rotation of a model does to each of its tensors: read off the table of its architecture, and refused where the
// table says that the model would not stay what it is.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nibble/core/hadamard.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/config.h"
#include "nibble/model/rotate.h"

namespace nibble::inline NIBBLE_ABI::model {

/// One tensor of the output. A vector, a bias, is a matrix of one column.
struct TensorChange {
  std::string norm = {};                   ///< Not empty: the columns are multiplied by this norm.
  const RandomRotation* input = nullptr;   ///< Each stretch of its size of a row is rotated.
  const RandomRotation* output = nullptr;  ///< Each stretch of its size of the rows, from first_row on.
  std::size_t first_row = 0;
  bool neutral_norm = false;       ///< It is a norm that was folded: all of it is what multiplies by 1.
  std::size_t rows = 0, cols = 0;  ///< The shape it must have.

  [[nodiscard]] bool rotates() const { return input != nullptr || output != nullptr; }
};

class RotatePlan {
 public:
  /// Error{unsupported} names the part of the architecture, the tensor or the size that stands in the way, and says
  /// what is possible; Error{shape_mismatch} a tensor of another shape.
  RotatePlan(const Config& config, const Checkpoint& in, const RotateOptions& options);

  /// Null for a tensor that stays as it is.
  [[nodiscard]] const TensorChange* find(const std::string& tensor) const;
  /// What a head that was the embedding becomes of it; nothing where the file has a head, or the two stay one.
  [[nodiscard]] const std::optional<TensorChange>& new_head() const { return new_head_; }
  /// Whether the configuration says that they are one and the output has two.
  [[nodiscard]] bool unties() const { return config_.tied_embeddings && options_.fold_norms; }
  /// γ of a norm, or 1 + the stored weight where the architecture multiplies by that.
  [[nodiscard]] std::vector<double> norm(const std::string& tensor) const;
  [[nodiscard]] float neutral_norm() const { return config_.architecture().norm_plus_one ? 0.0f : 1.0f; }

  [[nodiscard]] std::size_t r1_order() const { return r1_ ? r1_->order() : 0; }
  [[nodiscard]] std::size_t r2_order() const { return r2_.empty() ? 0 : r2_.front().order(); }

 private:
  void check_architecture() const;
  void make_rotations();
  void plan_block(std::size_t index);
  void plan_module(std::size_t index, const BlockModule& module);
  void plan_ends();
  void check_tensors() const;
  [[nodiscard]] const RandomRotation* r1() const { return r1_ ? &*r1_ : nullptr; }
  [[nodiscard]] const RandomRotation* r2(std::size_t index) const { return r2_.empty() ? nullptr : &r2_[index]; }

  const Config& config_;
  const Checkpoint& in_;
  const RotateOptions& options_;
  std::optional<RandomRotation> r1_;
  std::vector<RandomRotation> r2_;  ///< By block.
  std::map<std::string, TensorChange> changes_;
  std::optional<TensorChange> new_head_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
