// Rounding that is the same in constant expressions, on every CPU, under -ffp-contract=fast, and on the device.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "nibble/core/abi.h"
#include "nibble/core/portability.h"
#include "nibble/core/strict_math.h"

#if defined(__SSE2__) && !defined(__CUDA_ARCH__)
#include <emmintrin.h>
#endif

namespace nibble::inline NIBBLE_ABI {

/// Nearest integer, ties to even, for |x| < 2^31. The usual trick of adding 1.5·2^23 is not used: a multiply before
/// that addition may be contracted into a fused multiply-add, which changes the result.
NIBBLE_HD constexpr std::int32_t round_half_even(float x) {
  if (!std::is_constant_evaluated()) {
#if defined(__CUDA_ARCH__)
    return __float2int_rn(x);
#elif defined(__SSE2__)
    return _mm_cvtss_si32(_mm_set_ss(x));
#else
    return static_cast<std::int32_t>(std::lrintf(x));
#endif
  }
  const auto truncated = static_cast<std::int32_t>(x);
  const float rest = x - static_cast<float>(truncated);
  const float distance = rest < 0 ? -rest : rest;
  const bool away = distance > 0.5f || (distance == 0.5f && (truncated & 1) != 0);
  return truncated + (away ? (x < 0 ? -1 : 1) : 0);
}

/// A product, as rounded to float: what an addition may take without the compiler making one fused multiply-add of the
/// two (GCC does by default, where the processor has one). Only for the few formats whose definition has such a sum.
constexpr float rounded(float product) {
  if (!std::is_constant_evaluated()) {
#if defined(__SSE2__)
    asm("" : "+x"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#else
    volatile float kept = product;
    product = kept;
#endif
  }
  return product;
}

/// |x| without a library call, so that it is constexpr; clears the sign of NaN too.
NIBBLE_HD constexpr float magnitude(float x) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7fffffffu);
}

/// Finite means neither NaN nor infinity.
NIBBLE_HD constexpr bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }

}  // namespace nibble::inline NIBBLE_ABI
