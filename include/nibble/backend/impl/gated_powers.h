// What the gated activations and their gradients share: of those that are g/(1 + e^−z(g)), the powers.
#pragma once

#include <cstddef>

#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/core/rounded_product.h"

namespace nibble::inline NIBBLE_ABI::detail {

/// ½·(1 + tanh u) = 1/(1 + e^−2u), so that gelu_tanh has z = 2·kGeluScale·(g + kGeluCubic·g³).
inline constexpr float kGeluScale = 0.79788456f, kGeluCubic = 0.044715f;  // √(2/π)

inline void silu_powers(const kernels::KernelTable& isa, const float* gate, std::size_t n, float* powers) {
  isa.exp_sum(gate, n, -1, 0, powers);
}

inline void gelu_tanh_powers(const kernels::KernelTable& isa, const float* gate, std::size_t n, float* powers) {
  const RoundedProduct<float> times;
  for (std::size_t i = 0; i < n; ++i) powers[i] = gate[i] + times(kGeluCubic, gate[i] * gate[i] * gate[i]);
  isa.exp_sum(powers, n, -2 * kGeluScale, 0, powers);
}

}  // namespace nibble::inline NIBBLE_ABI::detail
