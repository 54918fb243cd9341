// The reference engine: decoders of the architectures of model/architecture.h, every linear layer through the library.
//
//   auto model = nibble::engine::Model::load("path/to/model");
//   nibble::engine::KvCache cache(model.config(), 512);
//   auto logits = model.forward(ids, cache);          // [ids, vocab]
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/engine/block.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/adapter.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Keys and values of the tokens seen so far, fp32. One per conversation.
class KvCache {
 public:
  /// Room for max_tokens. Takes 2·layers·max_tokens·kv_heads·head_dim·4 bytes.
  KvCache(const model::Config& config, std::size_t max_tokens);
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }
  void clear() { size_ = 0; }

  /// What a pass of one's own needs: a layer's keys and values, with room behind those seen; and, when every layer has
  /// got its own behind them, that `tokens` more are seen.
  [[nodiscard]] KeyValues layer(std::size_t index) {
    return {{keys_[index].data(), capacity_, width_}, {values_[index].data(), capacity_, width_}, size_};
  }
  void append(std::size_t tokens) { size_ += tokens; }
  /// Error{shape_mismatch} unless it was made for such a model; {invalid_argument} if so many tokens do not fit.
  void check_room(const model::Config& config, std::size_t tokens) const;

 private:
  std::size_t capacity_, width_, size_ = 0;
  std::vector<std::vector<float>> keys_, values_;  ///< Per layer [token][kv_head][head_dim].
};

/// The vectors of the tokens: a matrix of their own, or the rows of the packed output head where that is the same
/// matrix (tied embeddings), which is then held once.
class Embedding {
 public:
  Embedding() = default;
  explicit Embedding(BlockMatrix rows) : rows_(std::move(rows)) {}
  /// Needs a backend with has_gather_rows(*head).
  explicit Embedding(PackedMatrixPtr head) : head_(std::move(head)) {}
  /// out[t] = the vector of ids[t]; the ids must lie within the vocabulary.
  void look_up(std::span<const std::int32_t> ids, MatrixView<float> out, Executor& executor) const;
  /// Bytes it holds beside the head.
  [[nodiscard]] std::size_t storage_bytes() const { return rows_.storage_bytes(); }

 private:
  BlockMatrix rows_;
  PackedMatrixPtr head_;
};

struct LoadOptions {
  /// Quantize the linear layers of the blocks while loading; layers the checkpoint holds quantized stay as they are.
  std::optional<QuantSpec> quantize;
  /// The output head, too; with tied embeddings the vectors of the tokens are then rows of the quantized matrix.
  bool quantize_head = false;
  /// Multiply quantized layers by activations rounded to 8 bits per token where the backend can
  /// (Backend::has_int8_matmul: integer codes, and on a CPU NF4 and FP4): faster, at a loss. LLM.int8 and dense layers
  /// are not touched.
  bool int8_activations = false;
  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor(). Used by forward() too.
  Progress progress;
};

/// Immutable after loading: several threads may call forward() with caches of their own.
class Model {
 public:
  /// `path`: a model directory with config.json and weights, dense (F32, F16, BF16) or quantized; or a .gguf file.
  /// Errors name the tensor: those that the configuration promises and the file lacks, and those that are quantized in
  /// a way nothing decodes; or the architecture that is not known, or that check_architecture refuses.
  static Model load(const std::filesystem::path& path, const LoadOptions& options = {});

  [[nodiscard]] const model::Config& config() const { return config_; }
  /// Error{invalid_argument} names a token that the vocabulary has not, and says where there is none.
  void check_ids(std::span<const std::int32_t> ids) const;
  /// Logits [ids, vocab] of every given token, which continue those in the cache; `last_only` gives [1, vocab].
  /// Error{invalid_argument} for an id outside the vocabulary, a full cache, or no ids; the cache is then unchanged.
  std::vector<float> forward(std::span<const std::int32_t> ids, KvCache& cache, bool last_only = false) const;
  /// This model with an adapter on its layers: the weights are shared, so several adapters over one base cost their own
  /// size each, and each is used like a model. Another adapter that is there is replaced. Errors of Adapter::check.
  [[nodiscard]] Model with_adapter(model::Adapter adapter) const;
  /// Null without one.
  [[nodiscard]] const model::Adapter* adapter() const;

  /// What the model is made of, for passes of another kind (engine/lora_model.h trains it).
  [[nodiscard]] const std::vector<Block>& blocks() const { return blocks_; }
  [[nodiscard]] const Embedding& embedding() const { return embedding_; }
  [[nodiscard]] std::span<const float> final_norm() const { return norm_; }
  [[nodiscard]] const Linear& head() const { return head_; }
  [[nodiscard]] Executor& executor() const { return *executor_; }
  [[nodiscard]] Activations activations() const { return activations_; }

  /// The hook sees what each linear layer of every block multiplies, and the head: evaluate() finds where numbers end.
  void set_linear_hook(LinearHook hook) { hook_ = std::move(hook); }
  /// Bytes of all weights as held.
  [[nodiscard]] std::size_t weight_bytes() const;
  /// Stored bits per weight of the blocks' linear layers and of a quantized head, scales included.
  [[nodiscard]] double bits_per_weight() const { return linear_bits_ / linear_weights_; }

 private:
  model::Config config_;
  Executor* executor_ = nullptr;
  Activations activations_ = Activations::fp32;
  Embedding embedding_;
  std::vector<Block> blocks_;
  std::vector<float> norm_;
  Linear head_;
  double linear_bits_ = 0, linear_weights_ = 0;
  LinearHook hook_;
  struct Adapted;
  std::shared_ptr<const Adapted> adapted_;  ///< What the layers' adapters point into.
};

}  // namespace nibble::inline NIBBLE_ABI::engine
