// Weights and products of the tensor-core kernels (kernels/cuda/gemm_w4a16.h, gemm_w8a8.h).
#pragma once

#include <cstdint>

#include "backend/cuda/matrix.h"
#include "backend/cuda/pieces.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Whether one of the kernels takes the matrix.
bool has_tensor_core_layout(const QuantizedMatrix& q);
/// Makes s.tensor of a matrix that has the layout, and has s.view read those codes where there are no others. Waits for
/// the stream.
void pack_tensor_core(const Context& context, const QuantizedMatrix& q, Matrix::Storage& s, cudaStream_t stream);
/// The canonical codes. Waits for the stream.
void unpack_tensor_core(const Matrix::Storage& s, QuantizedMatrix& q, cudaStream_t stream);

/// How gemm_w4a16 cuts a product of so many tokens; no blocks where it does not take it.
GemmPlan tensor_core_plan(const Matrix::Storage& s, std::size_t tokens, DType x_type);
std::size_t tensor_core_workspace(const Matrix::Storage& s, std::size_t tokens, DType x_type);
/// y = x · Wᵀ by gemm_w4a16; operands and workspace are checked.
void gemm_tensor_core(const Matrix::Storage& s, const DeviceMatrix& x, const MutableDeviceMatrix& y,
                      DeviceSpan workspace, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
