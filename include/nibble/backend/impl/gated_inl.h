// What backend/gated.h declares.
#pragma once

#include "nibble/backend/gated.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/backend/impl/gated.h"
#include "nibble/backend/impl/gated_powers.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// Gates whose powers are made together: they stay in the first cache.
inline constexpr std::size_t kGatesTogether = 256;

template <void (*Powers)(const kernels::KernelTable&, const float*, std::size_t, float*)>
void apply_sigmoid(const kernels::KernelTable& isa, std::span<const float> gate, std::span<const float> up,
                   std::span<float> y) {
  float powers[kGatesTogether];
  for (std::size_t first = 0; first < y.size(); first += kGatesTogether) {
    const std::size_t count = std::min(kGatesTogether, y.size() - first);
    Powers(isa, gate.data() + first, count, powers);
    for (std::size_t i = 0; i < count; ++i) y[first + i] = gate[first + i] / (1 + powers[i]) * up[first + i];
  }
}

inline float gelu(float g) { return 0.5f * g * (1 + std::erf(g * (std::numbers::sqrt2_v<float> / 2))); }

NIBBLE_INLINE void apply_gate(const kernels::KernelTable& isa, GatedActivation activation, std::span<const float> gate,
                              std::span<const float> up, std::span<float> y) {
  if (gate.size() != y.size() || up.size() != y.size())
    throw Error(ErrorCode::shape_mismatch, "apply_gate: the gate has " + std::to_string(gate.size()) + " values, up " +
                                               std::to_string(up.size()) + " and the output " +
                                               std::to_string(y.size()));
  switch (activation) {
    case GatedActivation::silu: return apply_sigmoid<silu_powers>(isa, gate, up, y);
    case GatedActivation::gelu_tanh: return apply_sigmoid<gelu_tanh_powers>(isa, gate, up, y);
    case GatedActivation::gelu:
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = gelu(gate[i]) * up[i];
      return;
  }
  throw Error(ErrorCode::invalid_argument,
              "apply_gate: there is no activation " + std::to_string(static_cast<int>(activation)));
}

}  // namespace detail

NIBBLE_INLINE void apply_gate(GatedActivation activation, std::span<const float> gate, std::span<const float> up,
                              std::span<float> y, const Backend* backend) {
  detail::apply_gate(kernels_of(backend), activation, gate, up, y);
}

}  // namespace nibble::inline NIBBLE_ABI
