// How the heads of a model are turned by their position.
#pragma once

#include "nibble/engine/operations.h"
#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::engine {

inline Rotary rotary_of(const model::Config& config) {
  return {.head_dim = config.head_dim, .width = config.turned_dim(), .pairs = config.architecture().rope_pairs};
}

}  // namespace nibble::inline NIBBLE_ABI::engine
