// What solver/impl/gptq_factor.h declares.
#pragma once

#include "nibble/solver/impl/gptq_factor.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "nibble/solver/impl/cholesky.h"
#include "nibble/solver/impl/eigen_scalar.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

using solver::GemmPanel;
using solver::SquareMatrix;

using solver::EigenMatrix;

inline Eigen::Index index(std::size_t i) { return static_cast<Eigen::Index>(i); }

/// scale·sum, both triangles, columns in their own order.
template <class T>
SquareMatrix<T> expand(const FactorInput& in, Executor& executor) {
  constexpr std::size_t tile = 64;
  const std::size_t n = in.plan.cols();
  SquareMatrix<T> full(n);
  parallel_for(executor, (n + tile - 1) / tile, 1, [&](std::size_t first, std::size_t last) {
    for (std::size_t i0 = first * tile; i0 < std::min(n, last * tile); i0 += tile)
      for (std::size_t j0 = 0; j0 <= i0; j0 += tile)
        for (std::size_t i = i0; i < std::min(n, i0 + tile); ++i)
          for (std::size_t j = j0; j < std::min(j0 + tile, i + 1); ++j) {
            const T value = static_cast<T>(in.scale * in.hessian.row(i)[j]);
            full.row(i)[j] = value;
            full.row(j)[i] = value;
          }
  });
  return full;
}

/// Fills each step's matrices from L, the reversed factor: R_kj is L at (n − 1 − k, n − 1 − j).
template <class T>
class StepBuilder {
 public:
  StepBuilder(const SquareMatrix<T>& l, Factor<T>& steps, const kernels::KernelTable& isa)
      : l_(l), steps_(steps), multiply_(solver::gemm_panel<T>(isa)) {}

  void run(Executor& executor) {
    parallel_for(executor, steps_.size(), 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t s = begin; s < end; ++s) invert(steps_[s]);
    });
    struct Part {
      std::size_t step, first;
    };
    std::vector<Part> parts;
    for (std::size_t s = 0; s < steps_.size(); ++s)
      for (std::size_t first = 0; first < steps_[s].step.begin; first += kDepth) parts.push_back({s, first});
    parallel_for(executor, parts.size(), 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t p = begin; p < end; ++p) couple(steps_[parts[p].step], parts[p].first);
    });
  }

 private:
  [[nodiscard]] T r(std::size_t k, std::size_t j) const { return l_.row(l_.n - 1 - k)[l_.n - 1 - j]; }

  void invert(StepFactor<T>& s) const {
    const std::size_t w = s.width(), begin = s.step.begin;
    EigenMatrix<T> upper = EigenMatrix<T>::Zero(index(w), index(w));
    for (std::size_t i = 0; i < w; ++i)
      for (std::size_t j = i; j < w; ++j) upper(index(i), index(j)) = r(begin + i, begin + j);
    EigenMatrix<T> inverse = EigenMatrix<T>::Identity(index(w), index(w));
    upper.template triangularView<Eigen::Upper>().solveInPlace(inverse);
    s.inverse.assign(w * w, T(0));
    for (std::size_t i = 0; i < w; ++i)
      for (std::size_t j = i; j < w; ++j) s.inverse[j * w + i] = static_cast<T>(inverse(index(i), index(j)));
    s.coupling.resize(s.chunk(begin + kDepth - 1));
  }

  /// coupling of positions [first, first + kDepth): U_GGᵀ · R_{k,G}ᵀ, kLanes of k at a time.
  void couple(StepFactor<T>& s, std::size_t first) const {
    const std::size_t w = s.width(), begin = s.step.begin, depth = std::min(kDepth, begin - first);
    T* out = s.coupling.data() + s.chunk(first);
    std::vector<T> panel(w * kLanes), product(w * kLanes);
    for (std::size_t k = 0; k < depth; k += kLanes) {
      const std::size_t lanes = std::min(kLanes, depth - k);
      std::fill(panel.begin(), panel.end(), T(0));
      for (std::size_t lane = 0; lane < lanes; ++lane)
        for (std::size_t m = 0; m < w; ++m) panel[m * kLanes + lane] = r(first + k + lane, begin + m);
      for (std::size_t m = 0; m < w; m += kDepth) {
        multiply_(s.inverse.data() + m, w, w, panel.data() + m * kLanes, std::min(kDepth, w - m), product.data());
        for (std::size_t j = 0; j < w; ++j)
          for (std::size_t lane = 0; lane < lanes; ++lane) {
            T& to = out[j * kRow + k + lane];
            to = m == 0 ? product[j * kLanes + lane] : to + product[j * kLanes + lane];
          }
      }
    }
  }

  const SquareMatrix<T>& l_;
  Factor<T>& steps_;
  GemmPanel<T> multiply_;
};

/// GPTAQ's P = share·triu(D·Uᵀ, 1)·U, D the cross statistic in the order of solving: row i says how the columns after i
/// make up for what w_i does on the difference of the inputs. U = R⁻¹, so both products are triangular solves; with
/// everything reversed they are with L and Lᵀ.
template <class T>
void add_drift(const FactorInput& in, const SquareMatrix<T>& l, Factor<T>& steps, Executor& executor) {
  const std::size_t n = l.n;
  for (auto& s : steps) {
    s.drift_inside.assign(s.width() * s.width(), T(0));
    s.drift.resize(s.coupling.size());
  }
  const Eigen::Map<const EigenMatrix<T>, 0, Eigen::OuterStride<>> lower(solver::for_eigen(l.row(0)), index(n), index(n),
                                                                        Eigen::OuterStride<>(index(l.stride)));
  constexpr std::size_t together = 64;
  parallel_for(executor, (n + together - 1) / together, 1, [&](std::size_t first, std::size_t last) {
    for (std::size_t i0 = first * together; i0 < std::min(n, last * together); i0 += together) {
      const std::size_t rows = std::min(together, n - i0);
      EigenMatrix<T> p(index(n), index(rows));  // Pᵀ of these rows, reversed
      const double factor = in.scale * in.alpha;
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t i = 0; i < rows; ++i)
          p(index(n - 1 - j), index(i)) =
              static_cast<T>(factor * in.hessian.cross(in.plan.order[i0 + i], in.plan.order[j]));
      lower.template triangularView<Eigen::Lower>().solveInPlace(p);
      for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t m = 0; m <= i0 + i; ++m) p(index(n - 1 - m), index(i)) = T(0);
      lower.transpose().template triangularView<Eigen::Upper>().solveInPlace(p);
      for (auto& s : steps)
        for (std::size_t i = i0; i < std::min(i0 + rows, s.step.window); ++i) {
          const std::size_t w = s.width();
          for (std::size_t j = 0; j < w; ++j) {
            const T value = static_cast<T>(p(index(n - 1 - s.step.begin - j), index(i - i0)));
            if (i < s.step.begin) s.drift[s.chunk(i) + j * kRow + i % kDepth] = value;
            else s.drift_inside[j * w + i - s.step.begin] = value;
          }
        }
    }
  });
}

}  // namespace detail

template <class T>
solver::SquareMatrix<T> reversed_hessian(const FactorInput& in, double lambda, bool dominant, Executor& executor) {
  const std::size_t n = in.plan.cols();
  const solver::SquareMatrix<T> full = detail::expand<T>(in, executor);
  const std::vector<std::size_t> order(in.plan.order.rbegin(), in.plan.order.rend());
  solver::SquareMatrix<T> out(n);
  parallel_for(executor, n, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const T* from = full.row(order[i]);
      for (std::size_t j = 0; j < i; ++j) out.row(i)[j] = from[order[j]];
      double diagonal = in.diagonal[order[i]];
      if (dominant) {
        double others = 0;
        for (std::size_t j = 0; j < n; ++j)
          if (j != order[i]) others += std::abs(static_cast<double>(from[j]));
        diagonal = std::max(diagonal, others);
      }
      out.row(i)[i] = static_cast<T>(diagonal + lambda);
    }
  });
  return out;
}

template <class T>
std::optional<solver::SquareMatrix<T>> reversed_factor(const FactorInput& in, double lambda, bool dominant,
                                                       const kernels::KernelTable& isa, Executor& executor) {
  solver::SquareMatrix<T> l = reversed_hessian<T>(in, lambda, dominant, executor);
  std::vector<T> diagonal(l.n);
  for (std::size_t i = 0; i < l.n; ++i) diagonal[i] = l.row(i)[i];
  if (!solver::cholesky(l, isa, executor)) return std::nullopt;
  for (std::size_t i = 0; i < l.n; ++i)
    if (!is_significant(l.row(i)[i], diagonal[i])) return std::nullopt;
  return l;
}

template <class T>
Factor<T> factor_of(const FactorInput& in, const solver::SquareMatrix<T>& l, const kernels::KernelTable& isa,
                    Executor& executor) {
  Factor<T> steps;
  for (const Step& step : in.plan.steps) steps.push_back({step, {}, {}, {}, {}});
  detail::StepBuilder<T>(l, steps, isa).run(executor);
  if (in.alpha != 0) detail::add_drift(in, l, steps, executor);
  return steps;
}

NIBBLE_INLINE Factor<float> rounded(const Factor<double>& factor) {
  const auto round = [](const std::vector<double>& x) { return std::vector<float>(x.begin(), x.end()); };
  Factor<float> out;
  for (const auto& s : factor)
    out.push_back({s.step, round(s.inverse), round(s.coupling), round(s.drift_inside), round(s.drift)});
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
