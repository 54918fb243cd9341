// Left-looking by blocks of columns: block column k first loses its product with everything left of it (nearly all the
// work, one call of the micro-kernel per 256 of depth), then its diagonal block is factored, then the rows below are
// multiplied by that factor's inverse. A column is therefore written once, however large the matrix.
#pragma once

#include "nibble/solver/impl/cholesky.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <vector>

#include "nibble/solver/impl/eigen_scalar.h"

namespace nibble::inline NIBBLE_ABI::solver {

namespace detail {

inline constexpr std::size_t kBlock = 128, kBlockPanels = kBlock / kLanes;
inline constexpr std::size_t kRowsTogether = 96;

template <class T>
class Factorisation {
 public:
  Factorisation(SquareMatrix<T>& a, const kernels::KernelTable& isa, Executor& executor)
      : a_(a), executor_(executor), multiply_(gemm_panel<T>(isa)), panels_(a.n * kBlock), inverse_(kBlock * kBlock) {}

  bool run() {
    for (std::size_t k = 0; k < a_.n; k += kBlock) {
      width_ = std::min(kBlock, a_.n - k);
      subtract_left(k);
      if (!factor_diagonal(k)) return false;
      scale_below(k);
    }
    return true;
  }

 private:
  T* panel(std::size_t p, std::size_t depth) { return panels_.data() + (p * a_.n + depth) * kLanes; }

  /// a[k:, k:k+width] −= L[k:, :k]·L[k:k+width, :k]ᵀ
  void subtract_left(std::size_t k) {
    if (k == 0) return;
    parallel_for(executor_, k / kBlock, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t p = 0; p < kBlockPanels; ++p)
        for (std::size_t depth = begin * kBlock; depth < end * kBlock; ++depth)
          for (std::size_t lane = 0; lane < kLanes; ++lane)
            panel(p, depth)[lane] = p * kLanes + lane < width_ ? a_.row(k + p * kLanes + lane)[depth] : T(0);
    });
    parallel_for(executor_, a_.n - k, 24, [&](std::size_t begin, std::size_t end) {
      std::vector<T> product(kRowsTogether * kLanes);
      for (std::size_t r = k + begin; r < k + end; r += kRowsTogether) {
        const std::size_t rows = std::min(kRowsTogether, k + end - r);
        for (std::size_t depth = 0; depth < k; depth += kDepth)
          for (std::size_t p = 0; p * kLanes < width_; ++p) {
            multiply_(a_.row(r) + depth, a_.stride, rows, panel(p, depth), std::min(kDepth, k - depth), product.data());
            const std::size_t lanes = std::min(kLanes, width_ - p * kLanes);
            for (std::size_t i = 0; i < rows; ++i) {
              T* to = a_.row(r + i) + k + p * kLanes;
              for (std::size_t lane = 0; lane < lanes; ++lane) to[lane] -= product[i * kLanes + lane];
            }
          }
      }
    });
  }

  bool factor_diagonal(std::size_t k) {
    using Matrix = EigenMatrix<T>;
    const auto n = static_cast<Eigen::Index>(width_);
    Eigen::Map<Matrix, 0, Eigen::OuterStride<>> block(for_eigen(a_.row(k) + k), n, n,
                                                      Eigen::OuterStride<>(static_cast<Eigen::Index>(a_.stride)));
    Eigen::LLT<Matrix> factor(block);
    if (factor.info() != Eigen::Success || !factor.matrixLLT().diagonal().allFinite()) return false;
    block.template triangularView<Eigen::Lower>() = factor.matrixLLT();
    Matrix inverse = Matrix::Identity(n, n);
    factor.matrixL().solveInPlace(inverse);
    // As panels [p][m][lane] of the transposed inverse.
    std::fill(inverse_.begin(), inverse_.end(), T(0));
    for (std::size_t j = 0; j < width_; ++j)
      for (std::size_t m = 0; m <= j; ++m)
        inverse_[(j / kLanes * kBlock + m) * kLanes + j % kLanes] =
            static_cast<T>(inverse(static_cast<Eigen::Index>(j), static_cast<Eigen::Index>(m)));
    return true;
  }

  /// a[k+width:, k:k+width] ·= L_kk⁻ᵀ
  void scale_below(std::size_t k) {
    const std::size_t first = k + width_;
    parallel_for(executor_, a_.n - first, 24, [&](std::size_t begin, std::size_t end) {
      std::vector<T> product(kBlockPanels * kRowsTogether * kLanes);
      for (std::size_t r = first + begin; r < first + end; r += kRowsTogether) {
        const std::size_t rows = std::min(kRowsTogether, first + end - r);
        for (std::size_t p = 0; p * kLanes < width_; ++p)
          multiply_(a_.row(r) + k, a_.stride, rows, inverse_.data() + p * kBlock * kLanes, width_,
                    product.data() + p * kRowsTogether * kLanes);
        for (std::size_t i = 0; i < rows; ++i)
          for (std::size_t p = 0; p * kLanes < width_; ++p)
            std::copy_n(product.data() + (p * kRowsTogether + i) * kLanes, std::min(kLanes, width_ - p * kLanes),
                        a_.row(r + i) + k + p * kLanes);
      }
    });
  }

  SquareMatrix<T>& a_;
  Executor& executor_;
  GemmPanel<T> multiply_;
  std::size_t width_ = 0;
  std::vector<T> panels_;   ///< [panel][depth][lane] of the block's rows, transposed.
  std::vector<T> inverse_;  ///< Of the diagonal block's factor.
};

}  // namespace detail

template <class T>
bool cholesky(SquareMatrix<T>& a, const kernels::KernelTable& isa, Executor& executor) {
  return detail::Factorisation<T>(a, isa, executor).run();
}

}  // namespace nibble::inline NIBBLE_ABI::solver
