// The numbers of core/exponential.h, plain data: the kernels, which may not include functions of other headers, compute
// the same from them.
#pragma once

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::exponential_terms {

/// Below it e^x counts as 0; its value there, 2.7e-38, is still a normal number.
constexpr float kLeast = -86.5f;
/// Above it e^x overflows.
constexpr float kMost = 88.8f;
constexpr float kPerLog2 = 0x1.715476p+0f;  // 1/ln 2
/// ln 2 in two parts: the first in 24 bits, so that x − n·kLog2 is exact in a fused multiply-add.
constexpr float kLog2 = 0x1.62e43p-1f, kLog2Rest = -0x1.05c61p-29f;
/// e^r ≈ 1 + r + r²·(k0 + k1·r + k2·r² + k3·r³ + k4·r⁴): the least relative error for |r| ≤ ½·ln 2, 3.1e-9 (found by
/// Lawson's iteration, reweighted least squares on 400 nodes).
constexpr float k0 = 0x1.fffffcp-2f, k1 = 0x1.555492p-3f, k2 = 0x1.5558f2p-5f, k3 = 0x1.1239e2p-7f,
                k4 = 0x1.6a2428p-10f;

}  // namespace nibble::inline NIBBLE_ABI::exponential_terms
