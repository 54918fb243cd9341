// The activations of gated feed-forward layers: y = activation(x·gateᵀ) · (x·upᵀ) (Shazeer 2020, "GLU Variants Improve
// Transformer"). Backend::matmul_gated computes both products and this in one pass.
#pragma once

#include <cstdint>
#include <span>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// What the gate goes through. In quotes what Hugging Face's hidden_act calls it.
enum class GatedActivation : std::uint8_t {
  silu,       ///< g/(1 + e^−g): SwiGLU, of Llama and most after it. "silu" or "swish".
  gelu_tanh,  ///< ½·g·(1 + tanh(√(2/π)·(g + 0.044715·g³))): GEGLU as Gemma has it. "gelu_pytorch_tanh".
  gelu,       ///< ½·g·(1 + erf(g/√2)) = g·Φ(g): GEGLU, exact. "gelu".
};

class Backend;

/// y[i] = activation(gate[i])·up[i], in fp32; y may be gate or up. The backend (null: default_backend()) shows in no
/// bit. Error{shape_mismatch} unless the three are equally long.
void apply_gate(GatedActivation activation, std::span<const float> gate, std::span<const float> up, std::span<float> y,
                const Backend* backend = nullptr);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/backend.h"  // which has the definitions
#endif
