// NEON with the dot product (ARMv8.2): byte products in one instruction.
#pragma once

#include "nibble/backend/impl/cpu/vec_neon.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

/// Codes below 128 are signed bytes too.
inline I dot4_small(I sum, I a, I b) { return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)); }
/// The instruction takes signed by signed: a·b = (a − 128)·b + 64·b + 64·b.
inline I dot4(I sum, I a, I b) {
  const int8x16_t x = vreinterpretq_s8_s32(b), half = vdupq_n_s8(64);
  const int8x16_t codes = vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_s32(a), vdupq_n_u8(0x80)));
  return vdotq_s32(vdotq_s32(vdotq_s32(sum, codes, x), half, x), half, x);
}

}  // namespace vec

#include "nibble/backend/impl/cpu/generic/byte_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

}  // namespace simd

NIBBLE_KERNEL_TABLE(neondot, simd, make_table);

}  // namespace nibble::inline NIBBLE_ABI::kernels
