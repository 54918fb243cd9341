// How the learning rate goes from step to step: the factors by which it is multiplied, as in transformers'
// optimization.py, so that a run here and one there see the same rates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::train {

enum class Decay : std::uint8_t {
  constant,  ///< 1
  linear,    ///< Straight down to 0 behind the last step.
  cosine,    ///< Half a cosine down to 0 behind the last step (Loshchilov and Hutter 2017, without restarts).
};

struct Schedule {
  std::size_t steps = 0;         ///< Of the whole run.
  std::size_t warmup_steps = 0;  ///< Straight up from 0 in the first of them: step 0 of a run with any has factor 0.
  Decay decay = Decay::cosine;
  double floor = 0;  ///< The share of the rate that is left at the end, for linear and cosine.

  /// At step t = 0, 1, …; floor behind the last one.
  [[nodiscard]] double factor(std::size_t step) const;
  /// Error{invalid_argument}: more warm-up than steps, or a floor outside 0 … 1.
  void validate() const;
};

/// ⌈share·steps⌉ of a warm-up that is stated as a share of the run.
std::size_t warmup_steps_of(double share, std::size_t steps);

/// "constant", "linear" or "cosine". Error{invalid_argument} lists them.
Decay parse_decay(std::string_view name);
std::string_view name_of(Decay decay);

}  // namespace nibble::inline NIBBLE_ABI::train
