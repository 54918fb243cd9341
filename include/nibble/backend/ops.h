// Products by packed matrices, as functions: the matrix knows who packed it.
#pragma once

#include "nibble/backend/backend.h"

namespace nibble::inline NIBBLE_ABI {

/// y [n, out] = x [n, in] · Wᵀ on the backend that packed W.
inline void matmul(MatrixView<const float> x, const PackedMatrix& w, MatrixView<float> y,
                   Executor& executor = default_executor()) {
  w.backend().matmul(x, w, y, executor);
}
/// The same for fp16 and bf16 activations; sums are fp32.
inline void matmul(MatrixView<const f16> x, const PackedMatrix& w, MatrixView<float> y,
                   Executor& executor = default_executor()) {
  w.backend().matmul(x, w, y, executor);
}
inline void matmul(MatrixView<const bf16> x, const PackedMatrix& w, MatrixView<float> y,
                   Executor& executor = default_executor()) {
  w.backend().matmul(x, w, y, executor);
}

}  // namespace nibble::inline NIBBLE_ABI
