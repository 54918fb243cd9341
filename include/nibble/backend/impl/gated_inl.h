// What backend/gated.h declares.
#pragma once

#include "nibble/backend/gated.h"

#include <cmath>
#include <numbers>
#include <string>

#include "nibble/core/error.h"
#include "nibble/core/rounded_product.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline float silu(float g) { return g / (1 + std::exp(-g)); }

inline float gelu_tanh(float g) {
  constexpr float scale = 0.79788456f;  // √(2/π)
  const RoundedProduct<float> times;
  return 0.5f * g * (1 + std::tanh(scale * (g + times(0.044715f, g * g * g))));
}

inline float gelu(float g) { return 0.5f * g * (1 + std::erf(g * (std::numbers::sqrt2_v<float> / 2))); }

template <float (*Activation)(float)>
void apply(std::span<const float> gate, std::span<const float> up, std::span<float> y) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = Activation(gate[i]) * up[i];
}

}  // namespace detail

NIBBLE_INLINE void apply_gate(GatedActivation activation, std::span<const float> gate, std::span<const float> up,
                              std::span<float> y) {
  if (gate.size() != y.size() || up.size() != y.size())
    throw Error(ErrorCode::shape_mismatch, "apply_gate: the gate has " + std::to_string(gate.size()) + " values, up " +
                                               std::to_string(up.size()) + " and the output " +
                                               std::to_string(y.size()));
  switch (activation) {
    case GatedActivation::silu: return detail::apply<detail::silu>(gate, up, y);
    case GatedActivation::gelu_tanh: return detail::apply<detail::gelu_tanh>(gate, up, y);
    case GatedActivation::gelu: return detail::apply<detail::gelu>(gate, up, y);
  }
  throw Error(ErrorCode::invalid_argument,
              "apply_gate: there is no activation " + std::to_string(static_cast<int>(activation)));
}

}  // namespace nibble::inline NIBBLE_ABI
