// Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2), with its momentum in fp32 or
// in 8 bits: blocks of 256 elements share an fp32 absmax and are coded by the signed dynamic map, as Adam's first
// moment is (adam8.h). The only definition of the arithmetic; kernels are checked against it.
//
// Where a product meets a sum, fma() is spelled, so every build gives the same bits.
#pragma once

#include "nibble/train/adam8.h"

namespace nibble::inline NIBBLE_ABI {

struct LionOptions {
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 0;  ///< Decoupled: parameters shrink by 1 − learning_rate·weight_decay before the update.
};

/// What one step does to every element alike.
struct LionStep {
  float beta1, rest1;  ///< rest = 1 − beta
  float beta2, rest2;
  float rate;  ///< learning_rate
  float keep;  ///< 1 − learning_rate·weight_decay
};
/// The same for every t.
inline LionStep lion_step(const LionOptions& o) {
  return {static_cast<float>(o.beta1),         static_cast<float>(1 - o.beta1),
          static_cast<float>(o.beta2),         static_cast<float>(1 - o.beta2),
          static_cast<float>(o.learning_rate), static_cast<float>(1 - o.learning_rate * o.weight_decay)};
}

/// One element: it moves by the rate, against the sign of β1·m + (1−β1)·g, or not at all where that is 0. A gradient
/// that is not finite, or makes a momentum that is not, clears the momentum and leaves the parameter.
NIBBLE_HD inline void lion_update(const LionStep& s, float gradient, float& m, float& parameter) {
  const float direction = std::fma(s.beta1, m, s.rest1 * gradient);
  m = std::fma(s.beta2, m, s.rest2 * gradient);
  if (!is_finite(m)) {
    m = 0;
    return;
  }
  const float sign = direction > 0 ? 1.0f : direction < 0 ? -1.0f : 0.0f;
  parameter = std::fma(-s.rate, sign, parameter * s.keep);
}

/// One block of n ≤ kAdam8Block elements, in place: codes [n] and their absmax. A state begins as absmax 0.
inline void lion8_block(const LionStep& step, std::size_t n, const float* gradients, std::uint8_t* codes, float& absmax,
                        float* parameters) {
  using Signed = Codebook<dynamic_map<true>>;
  float m[kAdam8Block];
  float most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    m[i] = Signed::decode(codes[i], {absmax});
    lion_update(step, gradients[i], m[i], parameters[i]);
    most = most < magnitude(m[i]) ? magnitude(m[i]) : most;
  }
  absmax = stored_absmax(most);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint8_t code = Signed::encode(m[i], {absmax});
    codes[i] = adam8_signed_code(code, Signed::values()[code], m[i]);
  }
}

}  // namespace nibble::inline NIBBLE_ABI
