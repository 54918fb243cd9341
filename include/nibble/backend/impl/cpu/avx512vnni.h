// AVX-512 with VNNI: byte products in one instruction.
#pragma once

#include "nibble/backend/impl/cpu/vec_avx512vnni.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {

#include "nibble/backend/impl/cpu/generic/byte_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

}  // namespace simd

NIBBLE_KERNEL_TABLE(avx512vnni, simd, make_table);

}  // namespace nibble::inline NIBBLE_ABI::kernels
