// Products on the device beyond what the public header offers.
#pragma once

#include "backend/cuda/matrix.h"

namespace nibble::cuda {

/// y [n, in] = x [n, out] · W, both f32. The workspace is matmul_workspace() of more than kMostGemvTokens tokens.
/// Errors as matmul's.
void matmul_transposed(const Context& context, const DeviceMatrix& x, const Matrix& w, const MutableDeviceMatrix& y,
                       DeviceSpan workspace, cudaStream_t stream);

}  // namespace nibble::cuda
