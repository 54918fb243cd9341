// What a calibration run will do, settled and checked before any work.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/format/checkpoint.h"
#include "nibble/model/calibrate.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

class CalibrationPlan {
 public:
  /// Keeps a reference to the options. Errors as quantize_calibrated.
  CalibrationPlan(const std::filesystem::path& from, const CalibrateOptions& options);

  [[nodiscard]] const std::filesystem::path& from() const { return from_; }
  [[nodiscard]] const Config& config() const { return config_; }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] CheckpointLayout layout() const { return layout_; }
  /// What the configuration says of the run.
  [[nodiscard]] QuantizationRun run() const;
  /// Nothing for a layer that stays as it is.
  [[nodiscard]] std::optional<CalibratedMethod> method_of(const std::string& layer) const;
  /// Linear layers, the head too, that stay in floating point.
  [[nodiscard]] const std::vector<std::string>& skipped() const { return skipped_; }

  /// Tokens of a sequence: no more than the model's context.
  [[nodiscard]] std::size_t sample_tokens() const;

  void check_ids(std::span<const std::int32_t> ids) const;
  /// All that the output's bytes depend on.
  [[nodiscard]] std::map<std::string, std::string> manifest(std::span<const std::int32_t> ids) const;

 private:
  void check_options() const;
  void assign(const std::string& layer, std::vector<bool>& rule_used);
  void choose_layout();

  std::filesystem::path from_;
  const CalibrateOptions& options_;
  Config config_;
  Checkpoint checkpoint_;
  std::map<std::string, CalibratedMethod> methods_;
  std::vector<QuantizedLayer> layers_;  ///< As they will be.
  std::vector<std::string> skipped_;
  CheckpointLayout layout_ = CheckpointLayout::nibble;
};

/// Where the sequences begin: at most `samples`, of `length` tokens each, evenly spaced and without overlap; one that
/// is shorter if the text is.
std::vector<std::size_t> sample_starts(std::size_t tokens, std::size_t samples, std::size_t length);

/// A digest of a manifest, which the output's file carries in its metadata.
std::string digest(const std::map<std::string, std::string>& manifest);
constexpr const char* kDigestKey = "nibble.calibration";
/// Whether the model in `directory` carries that of this manifest.
bool made_by(const std::filesystem::path& directory, const std::map<std::string, std::string>& manifest);

}  // namespace nibble::inline NIBBLE_ABI::model
