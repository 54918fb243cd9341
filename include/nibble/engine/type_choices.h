// What each of GGUF's types would cost each tensor of a model: bytes, and nats of KL divergence from the model as it
// is.
//
// The loss of a tensor in a type is that of rounding it so, each column's error counted as its inputs are large (the
// importance matrix), on a sample of its rows. What such a loss is worth in nats is measured: of each tensor, in one
// type of three to four bits and alone, by running the model. A tensor's losses in its other types are taken to be
// worth as much, which holds while they are small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/format/imatrix.h"
#include "nibble/model/type_plan.h"

namespace nibble::inline NIBBLE_ABI::engine {

struct TypeChoicesOptions {
  /// Of the model (engine::importance, or a file's), with the head where that is not tied. Null: all inputs alike.
  const ImportanceMatrix* importance = nullptr;
  std::size_t samples = 8;           ///< Sequences that the divergence is measured on, evenly spaced over the text.
  std::size_t sample_tokens = 128;   ///< Tokens of a sequence, or of the model's context if that is less.
  std::size_t rows = 64;             ///< Of each matrix that rounding is measured on, evenly spaced.
  const Backend* backend = nullptr;  ///< Null: default_backend().
  Executor* executor = nullptr;      ///< Null: default_executor().
  Progress progress = {};
};

/// Of the dense model at `path`, a directory: its blocks' linear layers, its embedding, and the head unless it is that,
/// in the order of a file; experts' matrices in their stacks. Choices are the types that a row is whole blocks of, and
/// F16. Holds the model, the hidden states of the samples and their logits, and one layer more. Errors as calibrate();
/// invalid_argument for a model that is quantized already.
std::vector<model::TensorChoices> type_choices(const std::filesystem::path& path, std::span<const std::int32_t> ids,
                                               const TypeChoicesOptions& options = {});

}  // namespace nibble::inline NIBBLE_ABI::engine
