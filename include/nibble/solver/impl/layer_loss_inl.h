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

}  // namespace detail

NIBBLE_INLINE double layer_loss(FloatMatrix weights, const QuantizedMatrix& q, const Hessian& hessian,
                                Executor& executor, const Backend* chosen) {
  if (weights.rows != q.rows || weights.cols != q.cols || q.cols != hessian.channels())
    throw Error(ErrorCode::shape_mismatch, "layer_loss: weights of " + std::to_string(weights.rows) + " × " +
                                               std::to_string(weights.cols) + ", quantized " + std::to_string(q.rows) +
                                               " × " + std::to_string(q.cols) + ", a Hessian of " +
                                               std::to_string(hessian.channels()) + " channels");
  weights.validate("weights");
  q.validate("quantized");
  const std::size_t n = q.cols;
  const auto h =
      detail::full(hessian, hessian.tokens() == 0 ? 1.0 : 2.0 / static_cast<double>(hessian.tokens()), executor);
  const Backend& backend = chosen ? *chosen : default_backend();
  const auto multiply = solver::gemm_panel<float>(kernels_of(&backend));
  const std::size_t panels = (q.rows + solver::kLanes - 1) / solver::kLanes;
  std::vector<double> losses(panels);
  parallel_for(executor, panels, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> decoded(solver::kLanes * n), original(solver::kLanes * n), panel(n * solver::kLanes),
        product(n * solver::kLanes);
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t first = p * solver::kLanes, rows = std::min(solver::kLanes, q.rows - first);
      const FloatMatrix part{weights.row(first), weights.type, rows, n, weights.stride};
      solver::upcast(part, "weights", original.data());
      backend.dequantize(q, first, {decoded.data(), rows, n}, serial_executor());
      std::fill(panel.begin(), panel.end(), 0.0f);
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < n; ++c) panel[c * solver::kLanes + r] = original[r * n + c] - decoded[r * n + c];
      for (std::size_t k = 0; k < n; k += solver::kDepth) {
        multiply(h.row(0) + k, h.stride, n, panel.data() + k * solver::kLanes, std::min(solver::kDepth, n - k),
                 product.data());
        for (std::size_t i = 0; i < n * solver::kLanes; ++i)
          losses[p] += static_cast<double>(product[i]) * static_cast<double>(panel[i]) / 2;
      }
    }
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
