// The loss of a student that shall say what its teacher says (Hinton et al. 2015, "Distilling the Knowledge in a Neural
// Network", at temperature 1).
#pragma once

#include "nibble/engine/operations.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Σ over the rows of `logits` [n, vocabulary] of share·KL(softmax(teacher)‖softmax(logits)) + (1 − share)·(−log
/// softmax(logits)[target]), in fp64 and in the order of the rows; logits become its gradient. Every row has a target.
CrossEntropy distillation_loss(MatrixView<float> logits, MatrixView<const float> teacher,
                               std::span<const std::size_t> targets, float share, Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI::engine
