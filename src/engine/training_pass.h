// A pass of training over a model whose blocks are not the model's own: LoraModel's, with adapters, QatModel's, with
// weights that are taken for quantized ones.
#pragma once

#include <functional>
#include <span>

#include "block_gradient.h"
#include "nibble/core/dtype.h"
#include "nibble/engine/model.h"
#include "nibble/train/finetune.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Rows of logits that are there at once: 64 MB of them, so that a long batch over a large vocabulary never has all.
std::size_t logit_rows(std::size_t vocabulary);

/// Floats a token that one block's way forth and back holds at once at most.
std::size_t block_floats(const model::Config& config);

/// Error{unsupported} names an architecture whose blocks have no way back here: a mixture of experts. `what` is the
/// model that is to be trained.
void require_trainable(const model::Architecture& architecture, const char* what);

struct TrainingPass {
  const Model& base;  ///< Whose embedding, final norm and head are used.
  std::span<const Block> blocks;
  std::span<const BlockGradients> gradients;  ///< By block.
  std::size_t first_block = 0;                ///< The first with something to train.
  bool checkpointing = true;                  ///< Keep of each block its input alone.
  /// What the state between blocks is rounded to and kept as: f32 or bf16. Rounding has the gradient of the identity.
  DType activations = DType::f32;
  train::Dropout dropout = {};
  /// Distillation, if its share is not 0: the loss is share·KL(base‖blocks) + (1 − share)·cross-entropy. The base then
  /// runs each pass beside the blocks.
  float distillation = 0;
  /// When the gradients of a block are there.
  std::function<void(std::size_t block)> after_block = {};

  /// The loss that is trained, summed over the row's targets; the gradients are added to. Error{shape_mismatch |
  /// invalid_argument} for a row that is none, or of another vocabulary.
  [[nodiscard]] train::Loss add_gradients(const train::Row& row) const;
  /// The cross-entropy alone, without dropout.
  [[nodiscard]] train::Loss loss(const train::Row& row) const;
};

}  // namespace nibble::inline NIBBLE_ABI::engine
