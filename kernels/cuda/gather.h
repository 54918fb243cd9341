// Columns of activations in another order: act-order weights are stored sorted by group, and their activations follow
// (gptq's g_idx); LLM.int8's outlier columns are picked out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/activations.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// out[t][k] = x[t][columns[k]] for k < n, in x's type; out is [x.tokens, n], rows `out_stride` elements apart. Each of
/// `columns` [n] must be below x.cols. With `count` (on the device, from find_outlier_columns), k from *count on get 0
/// and `columns` is not read there. Returns the cudaError_t of the launch.
int gather_columns(const ActivationMatrix& x, const std::int32_t* columns, std::size_t n, const std::int32_t* count,
                   void* out, std::size_t out_stride, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
