// NEON: every AArch64 CPU.
#pragma once

#include "nibble/backend/impl/cpu/vec_neon.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

/// sum + the four products of each lane's unsigned bytes a by signed bytes b, exact.
inline I dot4(I sum, I a, I b) {
  const uint8x16_t codes = vreinterpretq_u8_s32(a);
  const int8x16_t x = vreinterpretq_s8_s32(b);
  const int16x8_t a0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes))), b0 = vmovl_s8(vget_low_s8(x));
  const int16x8_t a1 = vreinterpretq_s16_u16(vmovl_high_u8(codes)), b1 = vmovl_high_s8(x);
  const I low = vpaddq_s32(vmull_s16(vget_low_s16(a0), vget_low_s16(b0)), vmull_high_s16(a0, b0));
  const I high = vpaddq_s32(vmull_s16(vget_low_s16(a1), vget_low_s16(b1)), vmull_high_s16(a1, b1));
  return add_int(sum, vpaddq_s32(low, high));
}
/// The same for codes below 128: their products fit 16 bits in pairs.
inline I dot4_small(I sum, I a, I b) {
  const int8x16_t codes = vreinterpretq_s8_s32(a), x = vreinterpretq_s8_s32(b);
  const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(x)), high = vmull_high_s8(codes, x);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}

}  // namespace vec

#include "nibble/backend/impl/cpu/generic/byte_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

}  // namespace simd

NIBBLE_KERNEL_TABLE(neon, simd, make_table);

}  // namespace nibble::inline NIBBLE_ABI::kernels
