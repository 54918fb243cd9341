// What NIBBLE_HEADER_ONLY makes of the library (core/abi.h): which instruction set a unit's kernels are for, the inline
// namespace that is named after it, and that definitions are inline.
#pragma once

#include "nibble/core/strict_math.h"

#if !defined(__cpp_exceptions)
#error "nibble: NIBBLE_HEADER_ONLY needs exceptions; what works without them is in nibble/nibble.h, without that macro"
#endif

// The same sets of flags that the compiled library's units have (src/CMakeLists.txt); what is missing of a set, F16C
// beside AVX2 say, leaves the scalar kernels.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__FMA__) && defined(__F16C__)
#if defined(__AVX512VNNI__) && defined(__AMX_TILE__) && defined(__AMX_INT8__)
#define NIBBLE_ISA_AVX512AMX
#define NIBBLE_ISA_AVX512VNNI  // both of its tables
#define NIBBLE_ABI v0_1_headers_avx512amx
#elif defined(__AVX512VNNI__)
#define NIBBLE_ISA_AVX512VNNI
#define NIBBLE_ABI v0_1_headers_avx512vnni
#else
#define NIBBLE_ISA_AVX512
#define NIBBLE_ABI v0_1_headers_avx512
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#if defined(__AVXVNNI__)
#define NIBBLE_ISA_AVXVNNI
#define NIBBLE_ABI v0_1_headers_avxvnni
#else
#define NIBBLE_ISA_AVX2
#define NIBBLE_ABI v0_1_headers_avx2
#endif
#elif defined(__aarch64__)
#if defined(__ARM_FEATURE_DOTPROD)
#define NIBBLE_ISA_NEONDOT
#define NIBBLE_ABI v0_1_headers_neondot
#else
#define NIBBLE_ISA_NEON
#define NIBBLE_ABI v0_1_headers_neon
#endif
#else
#define NIBBLE_ISA_SCALAR
#define NIBBLE_ABI v0_1_headers_scalar
#endif

#define NIBBLE_INLINE inline
