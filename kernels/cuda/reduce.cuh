// Reductions over the lanes of a warp, in a fixed order, and floats as keys that integers compare like them.
#pragma once

#include <bit>

#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"
#include "nibble/core/portability.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

/// Every lane of a team (2^k neighbouring lanes) gets the team's combination. All lanes of the warp take part.
template <class T, class Combine>
NIBBLE_DEVICE T reduce_team(T value, int team, Combine combine) {
  for (int d = team / 2; d > 0; d /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, d));
  return value;
}

NIBBLE_DEVICE float larger(float a, float b) { return a > b ? a : b; }
NIBBLE_DEVICE float smaller(float a, float b) { return a < b ? a : b; }

/// Keys of finite floats are ordered as the floats are, and none is 0. Its own inverse is value_of_key.
NIBBLE_HD constexpr std::uint32_t order_key(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
NIBBLE_HD constexpr float value_of_key(std::uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
