// The error of a group's share of an output is δᵀ·G·δ, δ the change of its weights and G = Σ x·xᵀ over the sample, so
// the tokens are gone through once per group and not once per row and limit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "nibble/core/rounded_product.h"
#include "nibble/matrix/group_params.h"
#include "nibble/quantize/quantize.h"
#include "nibble/scheme/affine.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/impl/panel.h"
#include "nibble/solver/impl/upcast.h"

namespace nibble::inline NIBBLE_ABI::awq {

namespace detail {

using solver::kDepth;
using solver::kLanes;

/// One group of columns, for all rows.
class GroupSearch {
 public:
  GroupSearch(const LinearWeights& linear, MatrixView<const float> x, std::size_t first, std::size_t last,
              const ClipOptions& o)
      : linear_(linear),
        options_(o),
        first_(first),
        n_(last - first),
        gram_(n_ * n_),
        change_(n_ * kLanes),
        product_(n_ * kLanes),
        weights_(n_ * kLanes) {
    std::vector<double> sums(n_ * n_);
    for (std::size_t t = 0; t < x.rows; ++t)
      for (std::size_t i = 0; i < n_; ++i)
        for (std::size_t j = 0; j <= i; ++j)
          sums[i * n_ + j] += static_cast<double>(x(t, first + i)) * static_cast<double>(x(t, first + j));
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t j = 0; j <= i; ++j) gram_[i * n_ + j] = gram_[j * n_ + i] = static_cast<float>(sums[i * n_ + j]);
  }

  /// The limits of rows [row, row + rows), rows ≤ kLanes.
  void run(std::size_t row, std::size_t rows, float* limits) {
    float largest[kLanes] = {}, least[kLanes];
    load(row, rows);
    for (std::size_t i = 0; i < n_ * kLanes; ++i)
      largest[i % kLanes] = std::max(largest[i % kLanes], std::abs(weights_[i]));
    std::fill_n(least, kLanes, std::numeric_limits<float>::infinity());
    std::copy_n(largest, rows, limits);
    for (int step = 0; step < options_.steps; ++step) {
      float tried[kLanes];
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        tried[lane] = largest[lane] * (1 - static_cast<float>(step) / static_cast<float>(options_.grid));
      clip_and_round(tried);
      float error[kLanes] = {};
      squared_change(error);
      for (std::size_t lane = 0; lane < rows; ++lane)
        if (error[lane] < least[lane]) {
          least[lane] = error[lane];
          limits[lane] = tried[lane];
        }
    }
  }

 private:
  void load(std::size_t row, std::size_t rows) {
    std::fill(weights_.begin(), weights_.end(), 0.0f);
    std::vector<float> values(rows * n_);
    const FloatMatrix& w = linear_.weights;
    const auto* begin = static_cast<const std::byte*>(w.row(row)) + first_ * size_of(w.type);
    solver::upcast({begin, w.type, rows, n_, w.stride}, linear_.name, values.data());
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < n_; ++c) {
        weights_[c * kLanes + r] = values[r * n_ + c];
        if (!is_finite(values[r * n_ + c]))
          throw Error(ErrorCode::non_finite, "tensor '" + linear_.name + "': row " + std::to_string(row + r) +
                                                 ", column " + std::to_string(first_ + c) + " is " +
                                                 std::to_string(values[r * n_ + c]));
      }
  }

  /// change = Q(clamp(w, ± limit)) − w
  void clip_and_round(const float* limit) {
    const RoundedProduct<float> times;
    const AffineRule rule = affine_rule(options_.spec);
    const auto clamped = [&](std::size_t i) { return std::clamp(weights_[i], -limit[i % kLanes], limit[i % kLanes]); };
    Range ranges[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) ranges[lane] = {clamped(lane), clamped(lane)};
    for (std::size_t i = kLanes; i < n_ * kLanes; ++i) {
      Range& r = ranges[i % kLanes];
      r = {std::min(r.min, clamped(i)), std::max(r.max, clamped(i))};
    }
    AffineParams grids[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) grids[lane] = fit_affine(ranges[lane], rule);
    for (std::size_t i = 0; i < n_ * kLanes; ++i) {
      const AffineParams& grid = grids[i % kLanes];
      const std::uint8_t code = affine_encode(clamped(i), grid, rule.lowest_code(), rule.highest_code());
      change_[i] = times(static_cast<float>(code - grid.zero_point), grid.scale) - weights_[i];
    }
  }

  void squared_change(float* error) {
    const RoundedProduct<float> times;
    for (std::size_t k = 0; k < n_; k += kDepth) {
      multiply_(gram_.data() + k, n_, n_, change_.data() + k * kLanes, std::min(kDepth, n_ - k), product_.data());
      for (std::size_t i = 0; i < n_ * kLanes; ++i) error[i % kLanes] += times(product_[i], change_[i]);
    }
  }

  const LinearWeights& linear_;
  const ClipOptions& options_;
  std::size_t first_, n_;
  solver::GemmPanel<float> multiply_ = solver::gemm_panel<float>(kernels_of(options_.backend));
  std::vector<float> gram_, change_, product_, weights_;
};

}  // namespace detail

NIBBLE_INLINE std::vector<float> search_clip(const LinearWeights& linear, const ActivationStats& stats,
                                             const ClipOptions& o) {
  const auto need = [&](bool ok, const std::string& why) {
    if (!ok) throw Error(ErrorCode::invalid_argument, "awq clipping of '" + linear.name + "': " + why);
  };
  o.spec.validate();
  need(o.spec.is_affine() && (o.spec.granularity == Granularity::group || o.spec.granularity == Granularity::channel),
       "the spec " + o.spec.to_string() + " has no groups inside rows");
  need(o.grid >= 1 && o.steps >= 1 && o.steps <= o.grid,
       std::to_string(o.steps) + " steps of a grid of " + std::to_string(o.grid) + "; 1 to all of them can be tried");
  need(stats.tokens() > 0, "no tokens were observed");
  const std::size_t cols = linear.weights.cols, rows = linear.weights.rows;
  if (cols != stats.channels() || linear.weights.stride < cols)
    throw Error(ErrorCode::shape_mismatch, "tensor '" + linear.name + "' has " + std::to_string(cols) +
                                               " columns; its inputs '" + stats.name() + "' have " +
                                               std::to_string(stats.channels()) + " channels");
  need(rows > 0, "the tensor is empty");
  linear.weights.validate(linear.name);
  const std::size_t groups = o.spec.groups_per_row(cols);
  const std::size_t size = o.spec.granularity == Granularity::group ? o.spec.group_size : cols;
  std::vector<float> limits(rows * groups);
  Executor& executor = o.executor ? *o.executor : default_executor();
  parallel_for(executor, groups, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t g = begin; g < end; ++g) {
      detail::GroupSearch search(linear, stats.sample(), g * size, std::min(cols, (g + 1) * size), o);
      for (std::size_t row = 0; row < rows; row += solver::kLanes) {
        float found[solver::kLanes];
        const std::size_t n = std::min(solver::kLanes, rows - row);
        search.run(row, n, found);
        for (std::size_t r = 0; r < n; ++r) limits[(row + r) * groups + g] = found[r];
      }
    }
  });
  return limits;
}

NIBBLE_INLINE void apply_clip(MatrixView<float> weights, std::span<const float> limits, std::size_t group_size) {
  const std::size_t size = std::max<std::size_t>(1, group_size == 0 ? weights.cols : group_size);
  const std::size_t groups = (weights.cols + size - 1) / size;
  if (limits.size() != weights.rows * groups)
    throw Error(ErrorCode::shape_mismatch, "apply_clip: " + std::to_string(limits.size()) + " limits, but " +
                                               std::to_string(weights.rows) + " rows of " + std::to_string(groups) +
                                               " groups");
  weights.validate("weights");
  for (std::size_t i = 0; i < limits.size(); ++i)
    if (!(limits[i] >= 0))
      throw Error(ErrorCode::invalid_argument, "apply_clip: limit " + std::to_string(i) + " is " +
                                                   std::to_string(limits[i]) + "; it must be 0 or more");
  for (std::size_t r = 0; r < weights.rows; ++r)
    for (std::size_t c = 0; c < weights.cols; ++c) {
      const float limit = limits[r * groups + c / size];
      weights(r, c) = std::clamp(weights(r, c), -limit, limit);
    }
}

}  // namespace nibble::inline NIBBLE_ABI::awq
