// What solver/impl/gptq_grid.h declares.
#pragma once

#include "nibble/solver/impl/gptq_grid.h"

#include <algorithm>
#include <limits>

#include "nibble/core/rounded_product.h"
#include "nibble/solver/gptq_grid.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

using solver::kLanes;

inline GridRule rule_of(const Options& o) { return {o.bits, o.symmetric, o.compat, o.scale_type}; }

/// Σ |q − w|^2.4 of each lane, added up no further than until no lane can beat `least`.
template <class T>
void add_errors(const T* w, std::size_t n, const LaneGrid<float>& grid, float top, const float* least, float* error) {
  const RoundedProduct<float> times;
  std::fill_n(error, kLanes, 0.0f);
  for (std::size_t c = 0; c < n; ++c) {
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      error[lane] +=
          nibble::search_error(static_cast<float>(w[c * kLanes + lane]), grid.scale[lane], grid.zero[lane], top, times);
    if (c % 16 != 15) continue;
    bool lost = true;
    for (std::size_t lane = 0; lane < kLanes; ++lane) lost = lost && !(error[lane] < least[lane]);
    if (lost) return;
  }
}

/// The least-error shrinking of each lane's range.
template <class T>
void search(const T* w, std::size_t n, const Range* ranges, const Options& o, AffineParams* best) {
  const auto top = static_cast<float>((1 << o.bits) - 1);
  alignas(64) float least[kLanes];
  alignas(64) float error[kLanes];
  std::fill_n(least, kLanes, std::numeric_limits<float>::infinity());
  for (int step = 0; step < kShrinkings; ++step) {
    const float p = shrinking(step);
    LaneGrid<float> grid;
    AffineParams tried[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      tried[lane] = grid_of({ranges[lane].min * p, ranges[lane].max * p}, rule_of(o));
      grid.scale[lane] = tried[lane].scale;
      grid.zero[lane] = static_cast<float>(tried[lane].zero_point);
    }
    add_errors(w, n, grid, top, least, error);
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      if (error[lane] < least[lane]) {
        least[lane] = error[lane];
        best[lane] = tried[lane];
      }
  }
}

}  // namespace detail

template <class T>
LaneGrid<T> fit_grid(const T* w, std::size_t n, const Options& o) {
  T low[solver::kLanes], high[solver::kLanes];
  std::copy_n(w, solver::kLanes, low);
  std::copy_n(w, solver::kLanes, high);
  for (std::size_t c = 1; c < n; ++c)
    for (std::size_t lane = 0; lane < solver::kLanes; ++lane) {
      const T x = w[c * solver::kLanes + lane];
      low[lane] = x < low[lane] ? x : low[lane];
      high[lane] = x > high[lane] ? x : high[lane];
    }
  Range ranges[solver::kLanes];
  AffineParams params[solver::kLanes];
  for (std::size_t lane = 0; lane < solver::kLanes; ++lane) {
    ranges[lane] = {static_cast<float>(low[lane]), static_cast<float>(high[lane])};
    params[lane] = grid_of(ranges[lane], detail::rule_of(o));
  }
  if (o.grid_search) detail::search(w, n, ranges, o, params);
  LaneGrid<T> out;
  for (std::size_t lane = 0; lane < solver::kLanes; ++lane) {
    out.scale[lane] = static_cast<T>(params[lane].scale);
    out.zero[lane] = static_cast<T>(params[lane].zero_point);
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
