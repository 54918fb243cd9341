// e^x in fp32, the same bits on every machine: a C library's differ from one to the next, and within one between
// processors with and without fused multiply-add. The kernels (KernelTable::exp_sum) compute it a vector at a time.
#pragma once

#include <cmath>
#include <initializer_list>

#include "nibble/core/abi.h"
#include "nibble/core/exponential_terms.h"
#include "nibble/core/rounded_product.h"
#include "nibble/core/strict_math.h"

namespace nibble::inline NIBBLE_ABI {

/// e^x, within one unit in the last place (tests/core/exponential_test.cpp goes through all floats); 0 below −86.5,
/// where it is less than 2.8e-38; infinity where it overflows; NaN of a NaN.
///
/// x = n·ln 2 + r with a whole n and |r| ≤ ½·ln 2, so that e^x = 2^n·e^r (Cody and Waite 1980, chapter 6).
inline float exponential(float x) {
  namespace terms = exponential_terms;
  if (x < terms::kLeast) return 0;
  const float most = x < terms::kMost ? x : terms::kMost;  // of a NaN, too
  constexpr float round = 0x1.8p23f;                       // its unit in the last place is 1
  const float n = (RoundedProduct<float>()(most, terms::kPerLog2) + round) - round;
  const float part = std::fma(-n, terms::kLog2, x);  // exact
  const float r = std::fma(-n, terms::kLog2Rest, part);
  float q = terms::k4;
  for (const float term : {terms::k3, terms::k2, terms::k1, terms::k0}) q = std::fma(q, r, term);
  // r is rounded; added in its parts, it costs nothing.
  const float e = 1 + (part + std::fma(r * r, q, -n * terms::kLog2Rest));
  return e * std::ldexp(1.0f, static_cast<int>(n) - 1) * 2;  // 2^128 is no float
}

}  // namespace nibble::inline NIBBLE_ABI
