// The kernels by headers alone: the reference, and those of the instruction set that the flags name.
#pragma once

#include "nibble/backend/impl/cpu/scalar.h"

#if defined(NIBBLE_ISA_AVX512AMX)
#include "nibble/backend/impl/cpu/avx512amx.h"
#define NIBBLE_ISA_KERNELS avx512vnni_kernels  ///< What code that is no backend multiplies by.
#elif defined(NIBBLE_ISA_AVX512VNNI)
#include "nibble/backend/impl/cpu/avx512vnni.h"
#define NIBBLE_ISA_KERNELS avx512vnni_kernels
#elif defined(NIBBLE_ISA_AVX512)
#include "nibble/backend/impl/cpu/avx512.h"
#define NIBBLE_ISA_KERNELS avx512_kernels
#elif defined(NIBBLE_ISA_AVXVNNI)
#include "nibble/backend/impl/cpu/avxvnni.h"
#define NIBBLE_ISA_KERNELS avxvnni_kernels
#elif defined(NIBBLE_ISA_AVX2)
#include "nibble/backend/impl/cpu/avx2.h"
#define NIBBLE_ISA_KERNELS avx2_kernels
#elif defined(NIBBLE_ISA_NEONDOT)
#include "nibble/backend/impl/cpu/neondot.h"
#define NIBBLE_ISA_KERNELS neondot_kernels
#elif defined(NIBBLE_ISA_NEON)
#include "nibble/backend/impl/cpu/neon.h"
#define NIBBLE_ISA_KERNELS neon_kernels
#else
#define NIBBLE_ISA_KERNELS scalar_kernels
#endif
