// What solver/impl/gptq_correction.h declares.
#pragma once

#include "nibble/solver/impl/gptq_correction.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "nibble/core/visit_float.h"
#include "nibble/solver/impl/eigen_scalar.h"
#include "nibble/solver/impl/gptq_setup.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

/// An index as Eigen counts.
inline Eigen::Index place(std::size_t i) { return static_cast<Eigen::Index>(i); }

/// Dᵀ in the order of solving: the micro-kernel's left operand.
template <class T>
solver::SquareMatrix<T> transposed_cross(const FactorInput& in, Executor& executor) {
  const std::size_t n = in.plan.cols();
  solver::SquareMatrix<T> out(n);
  parallel_for(executor, n, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = begin; j < end; ++j)
        out.row(j)[i] = static_cast<T>(in.scale * in.hessian.cross(in.plan.order[i], in.plan.order[j]));
  });
  return out;
}

/// Rows of a correction, so many at a time that the triangular solves have something to share. Which rows are solved
/// together does not depend on the threads.
template <class T>
class CorrectionRows {
 public:
  static constexpr std::size_t kTogether = 4 * kLanes;

  CorrectionRows(FloatMatrix weights, const FactorInput& in, const solver::SquareMatrix<T>& l,
                 const solver::SquareMatrix<T>& cross, const Options& o)
      : weights_(weights),
        in_(in),
        l_(l),
        cross_(cross),
        n_(in.plan.cols()),
        options_(o),
        multiply_(solver::gemm_panel<T>(kernels_of(o.backend))),
        row_(n_),
        panel_(n_ * kLanes),
        product_(n_ * kLanes),
        solved_(place(n_), place(kTogether)) {}

  void run(std::size_t first, std::size_t rows, Correction<T>& out) {
    solved_.setZero();
    for (std::size_t r = 0; r < rows; r += kLanes) multiply(first, r, std::min(kLanes, rows - r), out);
    const Eigen::Map<const solver::EigenMatrix<T>, 0, Eigen::OuterStride<>> lower(
        solver::for_eigen(l_.row(0)), place(n_), place(n_), Eigen::OuterStride<>(place(l_.stride)));
    lower.template triangularView<Eigen::Lower>().solveInPlace(solved_);
    lower.transpose().template triangularView<Eigen::Upper>().solveInPlace(solved_);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t j = 0; j < n_; ++j) {
        const T value = static_cast<T>(solved_(place(n_ - 1 - j), place(r)));
        if (!std::isfinite(value)) refuse(first + r, in_.plan.order[j], static_cast<double>(value));
        out.change[(first + r) * n_ + j] = value;
      }
  }

 private:
  [[noreturn]] void refuse(std::size_t row, std::size_t column, double value) {
    upcast_floats(weights_.type, weights_.row(row), n_, row_.data());
    for (std::size_t c = 0; c < n_; ++c)
      if (!is_finite(row_[c])) refuse_weight(options_, row, c, row_[c]);
    throw Error(ErrorCode::non_finite, "tensor '" + options_.name + "': what row " + std::to_string(row) + ", column " +
                                           std::to_string(column) + " has to make up for is " + text_of(value) +
                                           "; its inputs are too far from those in full precision");
  }

  /// W·D of kLanes rows, reversed, into their columns of solved_; and what it says of the first column. The weights of
  /// channels that are dead now count too: in full precision they gave something.
  void multiply(std::size_t first, std::size_t at, std::size_t rows, Correction<T>& out) {
    std::fill(panel_.begin(), panel_.end(), T(0));
    for (std::size_t r = 0; r < rows; ++r) {
      upcast_floats(weights_.type, weights_.row(first + at + r), n_, row_.data());
      for (std::size_t i = 0; i < n_; ++i) panel_[i * kLanes + r] = static_cast<T>(row_[in_.plan.order[i]]);
    }
    for (std::size_t k = 0; k < n_; k += kDepth) {
      multiply_(cross_.row(0) + k, cross_.stride, n_, panel_.data() + k * kLanes, std::min(kDepth, n_ - k),
                product_.data());
      for (std::size_t j = 0; j < n_; ++j)
        for (std::size_t r = 0; r < rows; ++r) {
          auto& to = solved_(place(n_ - 1 - j), place(at + r));
          to = to + product_[j * kLanes + r];
        }
    }
    const T diagonal = static_cast<T>(in_.diagonal[in_.plan.order.front()]);
    for (std::size_t r = 0; r < rows; ++r)
      out.first[first + at + r] = static_cast<T>(solved_(place(n_ - 1), place(at + r))) / diagonal;
  }

  FloatMatrix weights_;
  const FactorInput& in_;
  const solver::SquareMatrix<T>&l_, &cross_;
  std::size_t n_;
  const Options& options_;
  solver::GemmPanel<T> multiply_;
  std::vector<float> row_;
  std::vector<T> panel_, product_;
  solver::EigenMatrix<T> solved_;  ///< [reversed position][row]
};

}  // namespace detail

template <class T>
Correction<T> correction_of(FloatMatrix weights, const FactorInput& in, const solver::SquareMatrix<T>& l,
                            const Options& o, Executor& executor) {
  using Rows = detail::CorrectionRows<T>;
  const std::size_t n = in.plan.cols(), rows = weights.rows;
  const solver::SquareMatrix<T> cross = detail::transposed_cross<T>(in, executor);
  Correction<T> out{std::vector<T>(rows * n), std::vector<T>(rows)};
  parallel_for(executor, (rows + Rows::kTogether - 1) / Rows::kTogether, 1, [&](std::size_t begin, std::size_t end) {
    Rows solver(weights, in, l, cross, o);
    for (std::size_t i = begin; i < end; ++i)
      solver.run(i * Rows::kTogether, std::min(Rows::kTogether, rows - i * Rows::kTogether), out);
  });
  return out;
}

NIBBLE_INLINE Correction<float> rounded(const Correction<double>& x) {
  return {{x.change.begin(), x.change.end()}, {x.first.begin(), x.first.end()}};
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
