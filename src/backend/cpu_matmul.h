// Matmul of the CPU backends. Few tokens: weights are decoded in registers. Many: a block at a time into a panel that
// all tokens share. Or activations in 8 bits, with integer sums (cpu_matmul_int8.cpp).
#pragma once

#include "kernels/cpu/kernels.h"
#include "nibble/backend/backend.h"

namespace nibble {

PackedMatrixPtr cpu_pack(const Backend& backend, QuantizedMatrix q);
PackedMatrixPtr cpu_pack(const Backend& backend, const kernels::KernelTable& isa, FloatMatrix weights);
QuantizedMatrix cpu_unpack(const PackedMatrix& packed);
void cpu_matmul(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                Executor& executor);
bool cpu_has_int8_matmul(const PackedMatrix& w);
void cpu_matmul_int8(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& w,
                     MatrixView<float> y, Executor& executor);
void cpu_matmul_transposed(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& w,
                           MatrixView<float> y, Executor& executor);

/// Error{shape_mismatch} unless y = x·Wᵀ has these shapes.
void check_matmul_shapes(MatrixView<const float> x, std::size_t in, std::size_t out, MatrixView<float> y,
                         const char* what);

}  // namespace nibble
