// What this CPU can run. "Was it compiled in" is the backend registry's question, not this one's.
#pragma once

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// Instruction sets of the running CPU that the operating system has enabled.
struct CpuFeatures {
  bool avx2 = false;         ///< AVX2, FMA and F16C together: what the avx2 kernels are built with.
  bool avx_vnni = false;     ///< AVX-VNNI on top of avx2.
  bool avx512 = false;       ///< AVX-512 F, BW, DQ, VL on top of avx2.
  bool avx512_vnni = false;  ///< AVX-512 VNNI on top of avx512.
  bool amx_int8 = false;     ///< AMX tiles of 8-bit integers on top of avx512_vnni, allowed by the system.
  bool neon_dot = false;     ///< AArch64: the dot product of ARMv8.2. NEON itself is always there.
};

/// Read once, at first use.
CpuFeatures cpu_features() noexcept;

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/core/impl/cpu_features_inl.h"
#endif
