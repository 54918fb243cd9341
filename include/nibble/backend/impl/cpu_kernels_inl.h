// What backend/impl/cpu_kernels.h declares.
#pragma once

#include "nibble/backend/impl/cpu_kernels.h"

#include <string_view>

#include "nibble/core/cpu_features.h"

namespace nibble::inline NIBBLE_ABI {

NIBBLE_INLINE const kernels::KernelTable& kernels_of(const Backend* backend) {
  const std::string_view name = (backend ? *backend : default_backend()).name();
  if (name == "scalar") return kernels::scalar_kernels;
#if defined(NIBBLE_HEADER_ONLY)
  return kernels::NIBBLE_ISA_KERNELS;
#elif defined(__x86_64__)
  if (name == "avx2") return kernels::avx2_kernels;
  const CpuFeatures cpu = cpu_features();
  if (cpu.avx512) return kernels::avx512_kernels;
  if (cpu.avx2) return kernels::avx2_kernels;
  return kernels::scalar_kernels;
#elif defined(__aarch64__)
  return kernels::neon_kernels;
#else
  return kernels::scalar_kernels;
#endif
}

}  // namespace nibble::inline NIBBLE_ABI
