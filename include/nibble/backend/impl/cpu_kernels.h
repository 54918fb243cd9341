// The built-in kernels for code of the library that is no backend: solvers, which multiply plain fp32 matrices.
#pragma once

#include <cstddef>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/core/dtype.h"

namespace nibble::inline NIBBLE_ABI {

/// The table of a backend (null: default_backend()) where that is a built-in one, else the fastest that this CPU runs.
/// Which one it is never shows in a result.
const kernels::KernelTable& kernels_of(const Backend* backend);

/// `count` floats of a matrix type as fp32: the data itself where it is fp32, else `scratch`, upcast by the kernels.
inline const float* cpu_upcast(const kernels::KernelTable& isa, DType type, const void* from, std::size_t count,
                               float* scratch) {
  if (type == DType::f32) return static_cast<const float*>(from);
  (type == DType::f16 ? isa.load_f16 : isa.load_bf16)(static_cast<const std::uint16_t*>(from), count, scratch);
  return scratch;
}

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/cpu_kernels_inl.h"
#endif
