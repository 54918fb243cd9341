// What the engine's models have in common as calibration sees them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "loader.h"
#include "model/gguf_checkpoint.h"
#include "nibble/engine/block.h"
#include "nibble/model/calibrated_block.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// What all blocks of a model share.
class CalibratedParts {
 public:
  CalibratedParts(const std::filesystem::path& path, const Backend* backend, Executor* executor)
      : config(model::Config::load(path)),
        architecture(config.architecture()),
        checkpoint(open_checkpoint(path, model::GgufView::decoded)) {
    options_.backend = backend;
    options_.executor = executor;
    loader.emplace(path, config, options_);
  }

  /// A layer as the file has it.
  [[nodiscard]] model::CalibratedLayer layer(const std::string& name) const {
    const TensorInfo& weights = checkpoint.matrix_info(name + ".weight");
    return {.name = name, .rows = weights.shape[0], .cols = weights.shape[1], .type = weights.type};
  }
  /// Empty where the file has no such tensor.
  [[nodiscard]] model::StoredVector vector(const std::string& name) const {
    if (!checkpoint.contains(name)) return {.name = name};
    return {name, checkpoint.read_f32(name), checkpoint.info(name).type};
  }
  /// Cosines and sines of the first `tokens` positions.
  std::span<const float> rope(const Block& block, std::size_t tokens) {
    if (rope_tokens_ != tokens) rope_.emplace(config, 0, tokens);
    rope_tokens_ = tokens;
    return rope_->of(block);
  }

  const model::Config config;
  const model::Architecture& architecture;
  const Checkpoint checkpoint;
  std::optional<Loader> loader;

 private:
  LoadOptions options_;
  std::optional<RopeAngles> rope_;
  std::size_t rope_tokens_ = 0;
};

/// The weights of one layer at a time, whose pages may leave memory when another's are asked for.
class LentWeights {
 public:
  explicit LentWeights(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  ~LentWeights() { take_back(); }
  LentWeights(const LentWeights&) = delete;
  LentWeights& operator=(const LentWeights&) = delete;

  FloatMatrix lend(const std::string& layer) {
    const std::string name = layer + ".weight";
    if (name != lent_) take_back();
    lent_ = name;
    return checkpoint_.matrix(name);
  }
  void take_back() {
    if (!lent_.empty()) checkpoint_.release(lent_);
    lent_.clear();
  }

 private:
  const Checkpoint& checkpoint_;
  std::string lent_;
};

/// Block `index`, its layers in groups by model::Input.
std::unique_ptr<model::CalibratedBlock> calibrated_block(CalibratedParts& parts, std::size_t index);

}  // namespace nibble::inline NIBBLE_ABI::engine
