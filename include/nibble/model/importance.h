// An importance matrix (format/imatrix.h) of any engine's model: what its linear layers multiply, on a calibration
// text.
//
//   auto importance = nibble::engine::importance("model", token_ids);            // this engine's, by GGUF's names
//   nibble::model::export_gguf("model", "model.gguf", {.type = BlockType::q4_k, .importance = &importance});
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "nibble/backend/backend.h"
#include "nibble/core/progress.h"
#include "nibble/format/imatrix.h"
#include "nibble/model/calibrated_block.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Where a layer's inputs are counted.
struct ImportancePlace {
  std::string weight;  ///< "blk.3.ffn_down.weight"
  std::size_t expert = 0, experts = 1;
};

struct ImportanceOptions {
  std::size_t samples = 128;        ///< Sequences, evenly spaced over the text; as many as it has, if fewer.
  std::size_t sample_tokens = 512;  ///< Tokens of a sequence, or of the model's context if that is less.
  bool head = false;                ///< The head's inputs too; the model has a head.
  /// Hidden states of all sequences that may be held in memory; more go to a file in the system's folder for such.
  std::size_t cache_bytes = std::size_t{4} << 30;
  /// Under which name a layer is; empty: its own and ".weight".
  std::function<ImportancePlace(const std::string& layer)> place = {};
  Progress progress = {};
};

/// Runs the model block by block, with the weights that it has, and sums the squares of what each linear layer
/// multiplies. Holds one block and the hidden states. Errors: invalid_argument (a text of less than two tokens, one
/// that is not in the vocabulary, a head that is not there), non_finite names layer, token and channel, those of the
/// model's functions; cancelled.
ImportanceMatrix importance(CalibratedModel& model, std::span<const std::int32_t> ids,
                            const ImportanceOptions& options = {});

}  // namespace nibble::inline NIBBLE_ABI::model
