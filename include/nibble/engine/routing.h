// Which experts of a mixture see which tokens, and how much each of them counts (Shazeer et al. 2017; Fedus et al.
// 2021).
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/core/abi.h"
#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// The tokens of each expert, in their order, those of one expert behind those of the one before. A token lies at as
/// many places as experts see it.
struct Routing {
  std::vector<std::size_t> begins;  ///< [experts + 1]: expert e's places are begins[e] to begins[e + 1] − 1.
  std::vector<std::size_t> tokens;  ///< By place.
  std::vector<float> weights;       ///< By place: what the expert's output is multiplied by.

  [[nodiscard]] std::size_t experts() const { return begins.size() - 1; }
  [[nodiscard]] std::size_t places() const { return tokens.size(); }
  /// How many tokens an expert sees.
  [[nodiscard]] std::size_t count(std::size_t expert) const { return begins[expert + 1] - begins[expert]; }
};

/// From what the router gives, logits [tokens, experts]: a token is seen by the `per_token` experts to which the
/// softmax gives the most, and weighted by that; `normalizes`: by their shares of what these experts get. Of equals the
/// lower numbers are taken. A token's places and weights do not depend on the other tokens. Error{invalid_argument}
/// unless per_token is 1 to experts.
Routing route(MatrixView<const float> logits, std::size_t per_token, bool normalizes);

}  // namespace nibble::inline NIBBLE_ABI::engine
