// Small work on whole matrices that GPTQ on the device needs beside cuBLAS and cuSOLVER. All pointers are the device's;
// functions return the cudaError_t of their launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/core/abi.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::inline NIBBLE_ABI::cuda {

/// to[i] = from[i], rounded.
int gptq_downcast(const double* from, float* to, std::size_t count, cudaStream_t stream);

/// Sets element (r, c) of a columns-first n × n matrix to 0 for all r ≥ c.
template <class T>
int gptq_keep_above_diagonal(T* matrix, std::size_t n, cudaStream_t stream);

/// out = a − b, row-major, the rows of each so many elements apart. `out` may be b.
int gptq_subtract(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride, float* out,
                  std::size_t out_stride, std::size_t rows, std::size_t cols, cudaStream_t stream);

/// sums[r] = Σ_c a_rc·b_rc in fp64, in one fixed order; a and b are row-major without gaps.
int gptq_row_products(const float* a, const float* b, std::size_t rows, std::size_t cols, double* sums,
                      cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
