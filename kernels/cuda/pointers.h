// Addresses from the host into an array on the device: what cuBLAS's grouped products read their operands from.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cuda/canonical.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// How many addresses one launch carries: 2 KiB of the 4 KiB that a kernel's parameters may take.
inline constexpr std::size_t kPointersALaunch = 256;

/// out[i] = pointers[i]. The addresses travel as parameters of the launches, so `pointers` may go as soon as this
/// returns, nothing waits, and a graph captures them by value: a copy from pageable memory gives none of that. Returns
/// the cudaError_t of the first launch that failed.
int store_pointers(std::span<const void* const> pointers, const void** out, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
