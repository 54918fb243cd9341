// Matmul of the CPU backends: weights are decoded a block at a time into a panel and multiplied in fp32.
#pragma once

#include "kernels/cpu/kernels.h"
#include "nibble/backend/backend.h"

namespace nibble {

PackedMatrixPtr cpu_pack(const Backend& backend, QuantizedMatrix q);
PackedMatrixPtr cpu_pack(const Backend& backend, const kernels::KernelTable& isa, FloatMatrix weights);
void cpu_matmul(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                Executor& executor);
void cpu_matmul_transposed(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& w,
                           MatrixView<float> y, Executor& executor);

}  // namespace nibble
