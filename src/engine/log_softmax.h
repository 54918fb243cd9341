// Logits as log-probabilities.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// In place. False where a logit is no finite number: then nothing is a probability, and nothing is changed.
[[nodiscard]] inline bool log_softmax(std::span<float> x) {
  for (const float v : x)
    if (!is_finite(v)) return false;
  const float most = *std::ranges::max_element(x);
  double sum = 0;
  for (const float v : x) sum += std::exp(static_cast<double>(v - most));
  const auto shift = static_cast<float>(std::log(sum)) + most;
  for (float& v : x) v -= shift;
  return true;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
