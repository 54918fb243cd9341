// Adam with moments in 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), in bitsandbytes'
// format: blocks of 256 elements share an fp32 absmax; the first moment is coded by the signed dynamic map, the second
// by the unsigned one. The only definition of the arithmetic; the CUDA kernel is checked against it.
//
// Where a product meets a sum, fma() is spelled, so every build gives the same bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "nibble/core/portability.h"
#include "nibble/scheme/codebook.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

/// Elements that share the absmax of a moment.
inline constexpr std::size_t kAdam8Block = 256;

struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay =
      0;  ///< Decoupled (AdamW): parameters shrink by 1 − learning_rate·weight_decay before the update.
};

/// What one step does to every element alike.
struct AdamStep {
  float beta1, rest1;  ///< rest = 1 − beta
  float beta2, rest2;
  float rate;     ///< learning_rate·√(1−beta2^t)/(1−beta1^t)
  float epsilon;  ///< epsilon·√(1−beta2^t)
  float keep;     ///< 1 − learning_rate·weight_decay
};
/// Step t = 1, 2, … of the options (Kingma & Ba 2015, section 2, the form with the corrections in the rate).
inline AdamStep adam_step(const AdamOptions& o, std::uint64_t t) {
  const double correction1 = 1 - std::pow(o.beta1, static_cast<double>(t));
  const double correction2 = std::sqrt(1 - std::pow(o.beta2, static_cast<double>(t)));
  return {static_cast<float>(o.beta1),
          static_cast<float>(1 - o.beta1),
          static_cast<float>(o.beta2),
          static_cast<float>(1 - o.beta2),
          static_cast<float>(o.learning_rate * correction2 / correction1),
          static_cast<float>(o.epsilon * correction2),
          static_cast<float>(1 - o.learning_rate * o.weight_decay)};
}

/// One element. A gradient that is not finite, or whose square is not, clears both moments and leaves the parameter.
NIBBLE_HD inline void adam_update(const AdamStep& s, float gradient, float& m, float& v, float& parameter) {
  m = std::fma(s.beta1, m, s.rest1 * gradient);
  v = std::fma(s.beta2, v, s.rest2 * gradient * gradient);
  if (!is_finite(gradient) || !is_finite(v)) {
    m = v = 0;
    return;
  }
  parameter = std::fma(-s.rate, m / (std::sqrt(v) + s.epsilon), parameter * s.keep);
}

/// The code of a first moment, given the rank its scaled value has in the signed map: a negative moment never becomes
/// 0 (whose update would have lost its direction), but the negative value next to it.
NIBBLE_HD constexpr std::uint8_t adam8_signed_code(std::uint8_t code, float value_of_code, float m) {
  return m < 0 && value_of_code >= 0 ? static_cast<std::uint8_t>(code - 1) : code;
}

/// One block of n ≤ kAdam8Block elements, in place: codes [n] and an absmax of each moment. A state begins as absmax 0.
inline void adam8_block(const AdamStep& step, std::size_t n, const float* gradients, std::uint8_t* m_codes,
                        float& m_absmax, std::uint8_t* v_codes, float& v_absmax, float* parameters) {
  using Signed = Codebook<dynamic_map<true>>;
  using Unsigned = Codebook<dynamic_map<false>>;
  float m[kAdam8Block], v[kAdam8Block];
  float m_most = 0, v_most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    m[i] = Signed::decode(m_codes[i], {m_absmax});
    v[i] = Unsigned::decode(v_codes[i], {v_absmax});
    adam_update(step, gradients[i], m[i], v[i], parameters[i]);
    m_most = m_most < magnitude(m[i]) ? magnitude(m[i]) : m_most;
    v_most = v_most < v[i] ? v[i] : v_most;
  }
  m_absmax = stored_absmax(m_most);
  v_absmax = stored_absmax(v_most);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint8_t code = Signed::encode(m[i], {m_absmax});
    m_codes[i] = adam8_signed_code(code, Signed::values()[code], m[i]);
    v_codes[i] = Unsigned::encode(v[i], {v_absmax});
  }
}

}  // namespace nibble::inline NIBBLE_ABI
