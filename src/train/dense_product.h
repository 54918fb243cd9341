// Products of fp32 matrices for what is small beside a quantized weight: adapters and their gradients.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI::train {

/// Σ_k left(row, k)·right(k, col) for all rows of `left` and `cols` columns. The sums are fused multiply-adds in order
/// of k, kPanelDepth from zero and those added up, so they depend on nothing else.
///
/// right(k, col) is read once for each block of rows; store(row, first, sums, n) takes n sums of columns from `first`
/// on, from any thread, each once.
template <class Right, class Store>
void dense_product(const kernels::KernelTable& isa, Executor& executor, MatrixView<const float> left, std::size_t cols,
                   const Right& right, const Store& store) {
  constexpr std::size_t kLanes = kernels::kPanelWidth, kDepth = kernels::kPanelDepth, kRows = 128;
  const std::size_t panels = (cols + kLanes - 1) / kLanes, blocks = (left.rows + kRows - 1) / kRows;
  parallel_for(executor, panels * blocks, 1, [&](std::size_t begin, std::size_t end) {
    // The lanes beyond the columns are multiplied too, and nobody looks at the result: they must be numbers.
    std::vector<float> panel(std::min(kDepth, left.cols) * kLanes), product(kRows * kLanes), sums(kRows * kLanes);
    for (std::size_t task = begin; task < end; ++task) {
      const std::size_t first = task / blocks * kLanes, lanes = std::min(kLanes, cols - first),
                        row = task % blocks * kRows, rows = std::min(kRows, left.rows - row);
      if (left.cols == 0) std::fill(sums.begin(), sums.end(), 0.0f);
      for (std::size_t k = 0; k < left.cols; k += kDepth) {
        const std::size_t depth = std::min(kDepth, left.cols - k);
        for (std::size_t d = 0; d < depth; ++d)
          for (std::size_t lane = 0; lane < lanes; ++lane) panel[d * kLanes + lane] = right(k + d, first + lane);
        isa.gemm_panel(&left(row, k), left.stride, rows, panel.data(), depth, product.data());
        for (std::size_t i = 0; i < rows * kLanes; ++i) sums[i] = k == 0 ? product[i] : sums[i] + product[i];
      }
      for (std::size_t r = 0; r < rows; ++r) store(row + r, first, sums.data() + r * kLanes, lanes);
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI::train
