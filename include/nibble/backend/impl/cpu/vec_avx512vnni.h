// The vector layer of the AVX-512 units with VNNI: byte products in one instruction.
#pragma once

#include "nibble/backend/impl/cpu/vec_avx512.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

/// Spelled as the instruction: from the intrinsic GCC 12 makes a copy of every sum in the loop, and spills a third.
inline I dot4(I sum, I a, I b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
/// No cheaper for codes below 128.
inline I dot4_small(I sum, I a, I b) { return dot4(sum, a, b); }

}  // namespace vec

}  // namespace simd
}  // namespace nibble::inline NIBBLE_ABI::kernels
