// What a calibration run will do, settled and checked before any work.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/format/quantization_config.h"
#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"

namespace nibble::inline NIBBLE_ABI::model {

/// FNV-1a: tells different runs apart; nobody forges them.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) value_ = (value_ ^ static_cast<std::uint64_t>(b)) * 1099511628211u;
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  [[nodiscard]] std::string text() const;

 private:
  std::uint64_t value_ = 14695981039346656037u;
};

/// Tokens of a sequence: no more than the model's context.
std::size_t sample_length(const CalibratedModel& model, std::size_t sample_tokens);
/// Error{invalid_argument} for a text that says nothing, and for a token that is not in the vocabulary.
void check_ids(const CalibratedModel& model, std::span<const std::int32_t> ids);

class CalibrationPlan {
 public:
  /// What options can be wrong in whatever the model is: Error{invalid_argument | unsupported}.
  static void check(const CalibrateOptions& options);
  /// Keeps references to both. Errors as calibrate().
  CalibrationPlan(CalibratedModel& model, const CalibrateOptions& options);

  /// Nothing for a layer that stays as it is.
  [[nodiscard]] std::optional<CalibratedMethod> method_of(const std::string& layer) const;
  /// Those that are quantized, in the order of the forward pass, as they will be.
  [[nodiscard]] const std::vector<QuantizedLayer>& layers() const { return layers_; }
  /// A layer's codes are stored as `spec` says: layers()[index].
  void set_spec(std::size_t index, const QuantSpec& spec);
  /// A layer is stored in blocks of this type.
  void set_blocks(std::size_t index, BlockType type) { methods_.at(layers_.at(index).name).blocks = type; }
  /// The layers for which that is false stay as they are. Error{invalid_argument} where none is left.
  void keep_if(const std::function<bool(const QuantizedLayer&)>& wanted);
  /// The layers, of those that the model names, that stay in floating point.
  [[nodiscard]] const std::vector<std::string>& skipped() const { return skipped_; }

  /// Whether a layer's method needs its input in full precision: the run then carries that model's states too.
  [[nodiscard]] bool corrects_inputs() const;

  [[nodiscard]] std::size_t blocks() const { return block_bytes_.size(); }
  /// Whether the head is quantized. It then is the block behind the last.
  [[nodiscard]] bool has_head() const { return has_head_; }
  /// Blocks to be finished, the head among them.
  [[nodiscard]] std::size_t count() const { return blocks() + (has_head_ ? 1 : 0); }
  /// Of a block's matrices as fp32.
  [[nodiscard]] std::size_t block_bytes(std::size_t index) const { return block_bytes_.at(index); }

  [[nodiscard]] std::size_t sample_tokens() const { return sample_length(model_, options_.sample_tokens); }
  void check_ids(std::span<const std::int32_t> ids) const { model::check_ids(model_, ids); }
  /// All that the finished blocks depend on but the model.
  [[nodiscard]] CalibrationSink::Manifest manifest(std::span<const std::int32_t> ids) const;

 private:
  void assign(const CalibratedLayer& layer, std::vector<bool>& rule_used);
  void require_layers() const;

  CalibratedModel& model_;
  const CalibrateOptions& options_;
  std::map<std::string, CalibratedMethod> methods_;
  std::vector<QuantizedLayer> layers_;
  std::vector<std::string> skipped_;
  std::vector<std::size_t> block_bytes_;
  bool has_head_ = false;
};

/// Where the sequences begin: at most `samples`, of `length` tokens each, evenly spaced and without overlap; one that
/// is shorter if the text is.
std::vector<std::size_t> sample_starts(std::size_t tokens, std::size_t samples, std::size_t length);

}  // namespace nibble::inline NIBBLE_ABI::model
