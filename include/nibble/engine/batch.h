// Several conversations in one pass over the weights, each with an adapter of its own or none: what a server does that
// holds one packed base for many users.
//
//   const Model base = Model::load("model", {.quantize = QuantSpec::parse("nf4-dq")});
//   const Model poet = base.with_adapter(a), lawyer = base.with_adapter(b);       // share the weights
//   auto logits = engine::forward_batch({{{poet, ids0, cache0}, {lawyer, ids1, cache1}, {base, ids2, cache2}}});
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/engine/model.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// The next tokens of one conversation.
struct BatchItem {
  const Model& model;  ///< All turns' are of one base: Model::with_adapter of it, or itself.
  std::span<const std::int32_t> ids;
  KvCache& cache;  ///< The conversation's own.
};

/// Logits [turns, vocab] of the last token of each: bit for bit those of Model::forward for each by itself, whatever is
/// in the batch. Each layer's product is one for all, and each adapter's small one for its rows.
/// Error{invalid_argument} names the turn that is of another base, has no ids, or whose cache is another turn's; others
/// as Model::forward. No cache has changed then.
std::vector<float> forward_batch(std::span<const BatchItem> turns);

}  // namespace nibble::inline NIBBLE_ABI::engine
