// The fused operations of cuda_fp16.h and cuda_bf16.h, which those headers define for devices only: exact products and
// sums, rounded once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace nibble::cuda_emulation {

/// a·b + c, whose product is exact, rounded to odd in double: rounding that again to a type of at most 51 bits gives
/// the exact value's rounding (Boldo, Melquiond, "Emulation of FMA and correctly rounded sums", 2008, theorem 1).
inline double fused_to_odd(double a, double b, double c) {
  const double product = a * b, sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double from_c = sum - product;  // Knuth's TwoSum: sum + error is exact
  const double error = (product - (sum - from_c)) + (c - from_c);
  const auto bits = std::bit_cast<std::uint64_t>(sum);
  if (error == 0 || (bits & 1) != 0) return sum;
  return std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

}  // namespace nibble::cuda_emulation

inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(nibble::cuda_emulation::fused_to_odd(__half2float(a), __half2float(b), __half2float(c)));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __double2bfloat16(
      nibble::cuda_emulation::fused_to_odd(__bfloat162float(a), __bfloat162float(b), __bfloat162float(c)));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return __nv_bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
