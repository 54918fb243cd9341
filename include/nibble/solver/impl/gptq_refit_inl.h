// What solver/impl/gptq_refit.h declares.
#pragma once

#include "nibble/solver/impl/gptq_refit.h"

#include <algorithm>

namespace nibble::inline NIBBLE_ABI::gptq {

template <class T>
RefitHessian<T> refit_hessian(const FactorInput& in, double lambda, bool dominant, Executor& executor) {
  const std::size_t n = in.plan.cols();
  const solver::SquareMatrix<T> lower = reversed_hessian<T>(in, lambda, dominant, executor);
  RefitHessian<T> out;
  std::vector<std::vector<std::size_t>> members(in.plan.groups);
  for (std::size_t i = 0; i < n; ++i) members[in.plan.group[i]].push_back(i);
  for (const auto& group : members) {
    out.begins.push_back(out.positions.size());
    out.positions.insert(out.positions.end(), group.begin(), group.end());
  }
  out.begins.push_back(n);
  out.values = solver::SquareMatrix<T>(n);
  parallel_for(executor, n, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        const std::size_t a = n - 1 - out.positions[i], b = n - 1 - out.positions[j];
        out.values.row(i)[j] = lower.row(std::max(a, b))[std::min(a, b)];
      }
  });
  return out;
}

NIBBLE_INLINE RefitHessian<float> rounded(const RefitHessian<double>& x) {
  RefitHessian<float> out{x.positions, x.begins, solver::SquareMatrix<float>(x.values.n)};
  for (std::size_t i = 0; i < x.values.n; ++i)
    for (std::size_t j = 0; j < x.values.n; ++j) out.values.row(i)[j] = static_cast<float>(x.values.row(i)[j]);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
