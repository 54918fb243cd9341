// Matmul of the CPU backends. Integer codes meet activations in fixed point, or in 8 bits, with integer sums. Codebooks
// are decoded in registers for few tokens, and for many a chunk at a time into a panel that all tokens share, as dense
// weights are. All of them make 64 output columns at a time, so that products which share their input are one list of
// tasks.
#pragma once

#include <span>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/backend/impl/cpu_packer.h"

namespace nibble::inline NIBBLE_ABI {

PackedMatrixPtr cpu_pack(const Packer& by, QuantizedMatrix q);
PackedMatrixPtr cpu_pack(const Packer& by, FloatMatrix weights);
PackedMatrixPtr cpu_pack(const Packer& by, BlockMatrix blocks);
QuantizedMatrix cpu_unpack(const PackedMatrix& packed);

/// Backend::matmul_fused.
void cpu_matmul(const kernels::KernelTable& isa, MatrixView<const float> x, std::span<const Projection> projections,
                Activations activations, Executor& executor);
/// Backend::matmul_gated.
void cpu_matmul_gated(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& gate,
                      const PackedMatrix& up, GatedActivation activation, MatrixView<float> y, Activations activations,
                      Executor& executor);
bool cpu_has_int8_matmul(const PackedMatrix& w);
bool cpu_has_gather_rows(const PackedMatrix& w);
void cpu_gather_rows(const kernels::KernelTable& isa, const PackedMatrix& w, std::span<const std::int32_t> rows,
                     MatrixView<float> out, Executor& executor);
void cpu_matmul_transposed(const kernels::KernelTable& isa, MatrixView<const float> x, const PackedMatrix& w,
                           MatrixView<float> y, Executor& executor);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/block_matrix_packed_inl.h"
#include "nibble/backend/impl/cpu_matmul_inl.h"
#include "nibble/backend/impl/panel_matrix_inl.h"
#endif
