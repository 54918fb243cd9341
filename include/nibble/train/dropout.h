// Dropout whose mask can be made again: a function of the place, not of a generator's past, so that nothing of it is
// kept between the forward pass and the backward one, and neither threads nor a resumed run change it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "nibble/core/matrix_view.h"

namespace nibble::inline NIBBLE_ABI::train {

/// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", section 3.3): 128 random bits that
/// depend on a counter and a key alone.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t low = std::uint64_t{0xD2511F53} * counter[0], high = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(high >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(high),
               static_cast<std::uint32_t>(low >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(low)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

struct Dropout {
  float rate = 0;  ///< The share of elements that become 0, at random; below 1. The others grow by 1/(1 − rate).
  std::uint64_t seed = 0;    ///< Of the run.
  std::uint64_t stream = 0;  ///< What tells masks of one run apart: a number for each step and layer.

  /// Error{invalid_argument} for a rate outside [0, 1).
  void validate() const;
  /// out = the masked x, element by element; they may be the same memory. Row r and column c are kept or not whatever
  /// the shape is. Error{shape_mismatch}; errors of validate().
  void apply(MatrixView<const float> x, MatrixView<float> out) const;
};

}  // namespace nibble::inline NIBBLE_ABI::train
