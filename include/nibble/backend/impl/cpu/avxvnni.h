// AVX2 with AVX-VNNI: byte products in one instruction, without AVX-512.
#pragma once

#include "nibble/backend/impl/cpu/vec_avx2.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

inline I dot4(I sum, I a, I b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
/// No cheaper for codes below 128.
inline I dot4_small(I sum, I a, I b) { return dot4(sum, a, b); }

}  // namespace vec

#include "nibble/backend/impl/cpu/generic/byte_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

}  // namespace simd

NIBBLE_KERNEL_TABLE(avxvnni, simd, make_table);

}  // namespace nibble::inline NIBBLE_ABI::kernels
