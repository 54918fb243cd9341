// Products on the device beyond what the public header offers.
#pragma once

#include "backend/cuda/matrix.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// x [n, in] and y [n, out] must fit each other, the weights, the context's device, the kernels and cuBLAS. Errors as
/// matmul's.
void check_operands(const Context& context, const DeviceMatrix& x, const Matrix& w, const DeviceMatrix& y,
                    std::size_t in, std::size_t out);
/// Error{invalid_argument} for a workspace of less than `least` bytes or not aligned to 256.
void check_workspace(DeviceSpan workspace, std::size_t least, std::size_t best);

/// Whether a tier can make such a product, whatever the table of tiers says.
bool can_serve(const Matrix& w, Tier tier, std::size_t tokens, DType x_type);
/// matmul_workspace() and matmul() by one tier, which must be one that can serve; operands are checked, tokens not 0.
std::size_t tier_workspace(const Matrix& w, Tier tier, std::size_t tokens, DType x_type);
void matmul_by(Tier tier, const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
               DeviceSpan workspace, cudaStream_t stream);

/// y [n, in] = x [n, out] · W, both f32. The workspace is matmul_workspace() of more than kMaxGemvTokens tokens.
/// Errors as matmul's.
void matmul_transposed(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
                       DeviceSpan workspace, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
