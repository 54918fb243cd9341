// The dense model that a calibration run reads besides the engine, and the model directory that the finished blocks
// are put together to.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "calibrate_plan.h"
#include "calibration_folder.h"
#include "nibble/format/checkpoint.h"

namespace nibble::inline NIBBLE_ABI::model {

class CalibratedCheckpoint {
 public:
  /// Error{invalid_argument} where a layer is quantized already, and those of find_linear_layers.
  explicit CalibratedCheckpoint(const std::filesystem::path& from);

  [[nodiscard]] const std::filesystem::path& from() const { return from_; }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] CheckpointLayout layout() const { return layout_; }
  /// Linear layers, the head too, that stay in floating point.
  [[nodiscard]] const std::vector<std::string>& skipped() const { return skipped_; }

  /// Error{not_found | shape_mismatch} names a layer that the engine has and the checkpoint has not, or otherwise.
  void check_shapes(const CalibrationPlan& plan) const;
  /// Finds the layout to write, and changes the plan's specs to what it holds: a layout has its own type of scales, and
  /// what is rounded is rounded to that. Error{unsupported} where it has no room for a layer; those of check_shapes.
  void choose_layout(CalibrationPlan& plan, const CalibrateOptions& options);
  /// Of the plan, and what the output depends on besides: the model, and the layout.
  [[nodiscard]] CalibrationSink::Manifest manifest(const CalibrationPlan& plan,
                                                   std::span<const std::int32_t> ids) const;

  /// Writes the model `to` by way of `folder`, which holds the finished blocks, and fills in the report.
  void write(const CalibrationPlan& plan, const CalibrateOptions& options, const CalibrationFolder& folder,
             const CalibrationSink::Manifest& manifest, const std::filesystem::path& to, CalibrateReport& report) const;

 private:
  std::filesystem::path from_;
  Checkpoint checkpoint_;
  std::vector<std::string> left_;  ///< Linear layers found by rule, and what else stays whatever the engine names.
  std::vector<std::string> skipped_;
  CheckpointLayout layout_ = CheckpointLayout::nibble;
};

/// Whether the model in `directory` was made by a run of this manifest, whose digest its file then carries.
bool made_by(const std::filesystem::path& directory, const CalibrationSink::Manifest& manifest);

}  // namespace nibble::inline NIBBLE_ABI::model
