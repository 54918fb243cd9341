// What solver/gptq.h declares.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "nibble/solver/gptq.h"
#include "nibble/solver/impl/panel.h"
#include "nibble/solver/impl/upcast.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

using solver::kDepth;
using solver::kLanes;

/// H in fp32, both triangles.
inline solver::SquareMatrix<float> full(const Hessian& h, double scale, Executor& executor) {
  solver::SquareMatrix<float> out(h.channels());
  parallel_for(executor, out.n, 64, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
      for (std::size_t j = 0; j <= i; ++j) out.row(j)[i] = out.row(i)[j] = static_cast<float>(scale * h.row(i)[j]);
  });
  return out;
}

/// Of a matrix [rows, cols] whose rows from `first` on decode(first, to) writes.
template <class Decode>
double loss_of(FloatMatrix weights, std::size_t q_rows, std::size_t n, const Hessian& hessian, Executor& executor,
               const Backend& backend, const Decode& decode) {
  if (weights.rows != q_rows || weights.cols != n || n != hessian.channels())
    throw Error(ErrorCode::shape_mismatch, "layer_loss: weights of " + std::to_string(weights.rows) + " × " +
                                               std::to_string(weights.cols) + ", quantized " + std::to_string(q_rows) +
                                               " × " + std::to_string(n) + ", a Hessian of " +
                                               std::to_string(hessian.channels()) + " channels");
  weights.validate("weights");
  const auto h = full(hessian, hessian.tokens() == 0 ? 1.0 : 2.0 / static_cast<double>(hessian.tokens()), executor);
  const auto multiply = solver::gemm_panel<float>(kernels_of(&backend));
  const std::size_t panels = (q_rows + kLanes - 1) / kLanes;
  std::vector<double> losses(panels);
  parallel_for(executor, panels, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> decoded(kLanes * n), original(kLanes * n), panel(n * kLanes), product(n * kLanes);
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t first = p * kLanes, rows = std::min(kLanes, q_rows - first);
      const FloatMatrix part{weights.row(first), weights.type, rows, n, weights.stride};
      solver::upcast(part, "weights", original.data());
      decode(first, MatrixView<float>(decoded.data(), rows, n));
      std::fill(panel.begin(), panel.end(), 0.0f);
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < n; ++c) panel[c * kLanes + r] = original[r * n + c] - decoded[r * n + c];
      for (std::size_t k = 0; k < n; k += kDepth) {
        multiply(h.row(0) + k, h.stride, n, panel.data() + k * kLanes, std::min(kDepth, n - k), product.data());
        for (std::size_t i = 0; i < n * kLanes; ++i)
          losses[p] += static_cast<double>(product[i]) * static_cast<double>(panel[i]) / 2;
      }
    }
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace detail

NIBBLE_INLINE double layer_loss(FloatMatrix weights, const QuantizedMatrix& q, const Hessian& hessian,
                                Executor& executor, const Backend* chosen) {
  q.validate("quantized");
  const Backend& backend = chosen ? *chosen : default_backend();
  return detail::loss_of(
      weights, q.rows, q.cols, hessian, executor, backend,
      [&](std::size_t first, MatrixView<float> to) { backend.dequantize(q, first, to, serial_executor()); });
}

NIBBLE_INLINE double layer_loss(FloatMatrix weights, const BlockMatrix& q, const Hessian& hessian, Executor& executor,
                                const Backend* chosen) {
  q.validate("quantized");
  return detail::loss_of(weights, q.rows, q.cols, hessian, executor, chosen ? *chosen : default_backend(),
                         [&](std::size_t first, MatrixView<float> to) {
                           for (std::size_t r = 0; r < to.rows; ++r) q.decode_row(first + r, to.row(r).data());
                         });
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
