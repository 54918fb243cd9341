// Reads the tensors of a model, checks their shapes, and turns them into what the forward pass wants.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/gguf_weights.h"
#include "nibble/engine/model.h"

namespace nibble::inline NIBBLE_ABI::engine {

class Loader {
 public:
  /// Keeps references to both. Errors as check_architecture and check_stored_weights.
  Loader(const std::filesystem::path& path, const model::Config& config, const LoadOptions& options);

  [[nodiscard]] Executor& executor() const { return executor_; }
  [[nodiscard]] const Backend& backend() const { return backend_; }

  /// Error{io} if a file has changed since it was opened.
  [[nodiscard]] Block block(std::size_t index);
  /// Of a block's matrices as fp32, the most that they take.
  [[nodiscard]] std::size_t block_bytes() const;
  [[nodiscard]] BlockMatrix embedding() const;
  /// The same for a model that has this head: its rows where both are one matrix.
  [[nodiscard]] Embedding embedding(const Linear& head) const;
  [[nodiscard]] std::vector<float> norm() const;
  /// The final norm stays floating point, and the head unless the checkpoint or the options have it quantized.
  [[nodiscard]] Linear head();

  /// Stored bits of the quantizable layers loaded so far, and how many weights they hold.
  [[nodiscard]] double linear_bits() const { return linear_bits_; }
  [[nodiscard]] double linear_weights() const { return linear_weights_; }

 private:
  [[nodiscard]] std::vector<float> vector(const std::string& name, std::size_t size) const;
  /// What the norm multiplies by.
  [[nodiscard]] std::vector<float> norm_weight(const std::string& name, std::size_t size) const;
  [[nodiscard]] Linear linear(const std::string& name, std::size_t out, std::size_t in);
  /// The same of a matrix that stays as it is stored, and is not counted.
  [[nodiscard]] Linear floats(const std::string& name, std::size_t out, std::size_t in) const;
  /// A matrix that no format of layers is looked for in.
  [[nodiscard]] BlockMatrix matrix(const std::string& name) const;
  [[nodiscard]] bool contains(const std::string& name) const {
    return gguf_ ? gguf_->contains(name) : checkpoint_.contains(name);
  }
  /// A tensor that is packed by now need not stay in memory.
  void release(const std::string& name) const {
    if (gguf_) gguf_->release(name);
    else if (checkpoint_.contains(name)) checkpoint_.release(name);
  }
  /// Floats go to the backend as such: not every backend need know blocks.
  [[nodiscard]] PackedMatrixPtr pack(const BlockMatrix& m) const {
    return is_float(m.type) ? backend_.pack(m.as_floats(), executor_) : backend_.pack(m, executor_);
  }

  const model::Config& config_;
  const model::Architecture& architecture_;
  const LoadOptions& options_;
  const Backend& backend_;
  Executor& executor_;
  std::optional<model::GgufWeights> gguf_;  ///< Where there is one it holds the weights, else checkpoint_ does.
  Checkpoint checkpoint_;
  bool head_is_embedding_ = false;  ///< As head() found.
  double linear_bits_ = 0, linear_weights_ = 0;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
