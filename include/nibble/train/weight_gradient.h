// The gradient of a dense weight: what full fine-tuning and quantization-aware training need beside the gradient of the
// input, which is Backend::matmul_transposed's.
#pragma once

#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI {

class Backend;

namespace train {

/// grad_w [out, in] += grad_yᵀ · x, for y [n, out] = x [n, in] · Wᵀ.
///
/// The sums over the tokens are fused multiply-adds in their order, 256 from zero and those sums added up, then added
/// to grad_w: on every CPU and for any number of threads the same bits. ε = 2⁻²⁴: |error| ≤ (256 + n/256 + 1)·ε·S,
/// S = |grad_w| + Σ_t |grad_y_to·x_ti|. `backend` says whose kernels compute (null: default_backend()); it never shows
/// in a result. Error{shape_mismatch} names the shapes, before anything is written.
void add_weight_gradient(MatrixView<const float> x, MatrixView<const float> grad_y, MatrixView<float> grad_w,
                         Executor& executor = default_executor(), const Backend* backend = nullptr);

}  // namespace train
}  // namespace nibble::inline NIBBLE_ABI
