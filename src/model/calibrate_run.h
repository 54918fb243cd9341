// The work of a calibration run: what its plan says, block by block, into a sink.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "calibrate_plan.h"
#include "calibration_folder.h"
#include "nibble/format/checkpoint.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Gathers a report from finished blocks.
class Tally {
 public:
  explicit Tally(CalibrateReport& report) : report_(report) {}
  void add(const FinishedBlock& block);

 private:
  CalibrateReport& report_;
  double bits_ = 0, weights_ = 0;
};

/// The figures that are known before the work.
CalibrateReport begin_report(const CalibrationPlan& plan, std::span<const std::int32_t> ids,
                             const CalibrateOptions& options);

/// Does the blocks from `found` on, those before being in the sink; all that it does is tallied.
void run_blocks(CalibratedModel& model, const CalibrationPlan& plan, std::span<const std::int32_t> ids,
                const CalibrateOptions& options, std::size_t found, CalibrationSink& sink, Tally& tally);

/// Files beside the output, until it is whole. Nothing is finished of a model that has changed under the run.
class CheckpointSink final : public FolderSink {
 public:
  CheckpointSink(const std::filesystem::path& to, bool resume, const Checkpoint& checkpoint)
      : FolderSink(CalibrationFolder::of(to), resume), checkpoint_(checkpoint) {}
  void write(std::size_t index, FinishedBlock block) override {
    checkpoint_.require_intact();
    FolderSink::write(index, std::move(block));
  }
  using FolderSink::files;

 private:
  const Checkpoint& checkpoint_;
};

}  // namespace nibble::inline NIBBLE_ABI::model
