// A group's parameters by half-quadratic splitting: the inner part of what solver/hqq.h declares.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "nibble/core/power.h"
#include "nibble/core/rounded_product.h"
#include "nibble/matrix/group_params.h"
#include "nibble/scheme/rounding.h"
#include "nibble/solver/hqq.h"

namespace nibble::inline NIBBLE_ABI::hqq::detail {

/// Columns that are added up side by side: an order of sums that no vector width changes.
inline constexpr std::size_t kLanes = 16;
/// Adding and subtracting it rounds a float below 2^22 to an integer, half to even.
inline constexpr float kRounder = 12582912.0f;

/// A group's values with what their errors count, padded by values that count nothing.
struct Group {
  std::vector<float> x, counts;
  std::size_t size = 0;

  void assign(std::span<const float> values, std::span<const float> weights) {
    size = values.size();
    const std::size_t padded = (size + kLanes - 1) / kLanes * kLanes;
    x.assign(padded, values[0]);
    counts.assign(padded, 0.0f);
    std::copy(values.begin(), values.end(), x.begin());
    if (weights.empty()) std::fill_n(counts.begin(), size, 1.0f);
    else std::copy(weights.begin(), weights.end(), counts.begin());
  }
};

/// What one look at a group under some parameters gives: its error, and the sums that the next parameters follow from.
/// c: what an error counts; q: a code; u: (w − e' − low)/unit, where low is the group's least value.
struct Sums {
  double error = 0;                            ///< Σ c·|e/unit|^p
  double c = 0, q = 0, u = 0, qq = 0, qu = 0;  ///< Σ c, Σ c·q, Σ c·u, Σ c·q², Σ c·q·u
};

/// The parameters under trial: a zero point is held as a float, whatever the spec stores.
struct Grid {
  float scale = 1, zero = 0;
};

class GroupSolver {
 public:
  explicit GroupSolver(const Options& o) : o_(o), spec_(o.spec), rule_(affine_rule(o.spec)) {
    if (spec_.has_real_zeros()) rule_ = {spec_.bits, false, false, false, spec_.scale_type};
  }

  struct Solution {
    Grid grid;
    double error = 0, rounding_error = 0;
  };

  /// The grid of least error. An infinite scale where none fits its type.
  Solution solve(const Group& group, Range range) {
    low_ = range.min;
    Grid grid = first(range);
    if (!is_finite(grid.scale)) return {grid};
    unit_ = grid.scale;
    Solution best;
    float beta = o_.beta;
    for (int turn = 0; turn < o_.iterations; ++turn) {
      const Sums sums = spec_.has_real_zeros() ? look<true>(group, grid, beta) : look<false>(group, grid, beta);
      if (turn == 0) best.rounding_error = sums.error;
      else if (!(sums.error < best.error)) break;
      best.grid = grid;
      best.error = sums.error;
      const Grid next = follow(sums, grid);
      if (next.scale == grid.scale && next.zero == grid.zero) break;
      grid = next;
      beta *= o_.kappa;
    }
    const double measure = static_cast<double>(positive_power(unit_, o_.lp_norm));
    best.error *= measure;
    best.rounding_error *= measure;
    return best;
  }

 private:
  [[nodiscard]] Grid first(Range range) const {
    if (spec_.has_real_zeros()) {
      const RealZeroParams p = fit_real_zero(range, spec_.bits, spec_.scale_type);
      return {p.scale, o_.round_zero ? stored(static_cast<double>(round_half_even(p.zero))) : p.zero};
    }
    const AffineParams p = fit_affine(range, rule_);
    return {p.scale, static_cast<float>(p.zero_point)};
  }

  template <bool RealZeros>
  [[nodiscard]] Sums look(const Group& group, Grid grid, float beta) const {
    const RoundedProduct<float> times;
    const auto lowest = static_cast<float>(rule_.lowest_code()), highest = static_cast<float>(rule_.highest_code());
    const float scale = grid.scale, zero = grid.zero, unit = unit_, low = low_, inverse = 1 / unit, shrink = 1 / beta;
    const float exponent = o_.lp_norm - 1;
    alignas(64) float error[kLanes] = {}, q1[kLanes] = {}, u1[kLanes] = {}, qq[kLanes] = {}, qu[kLanes] = {};
    Sums out;
    for (std::size_t first = 0; first < group.x.size(); first += kLanes) {
      const float* x = group.x.data() + first;
      const float* counts = group.counts.data() + first;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        // As real_zero_encode and affine_encode round.
        float t = RealZeros ? x[lane] / scale + zero : x[lane] / scale;
        const float floor = RealZeros ? lowest : lowest - zero, ceiling = RealZeros ? highest : highest - zero;
        t = t > floor ? t : floor;
        t = t < ceiling ? t : ceiling;
        t = (t + kRounder) - kRounder;
        const float q = RealZeros ? t : t + zero, steps = RealZeros ? t - zero : t;
        const float e = times(x[lane] - times(steps, scale), inverse), size = magnitude(e);
        const float power = positive_power(size, exponent, times);
        float rest = size - times(power, shrink);
        rest = rest > 0 ? rest : 0;
        const float u = times(x[lane] - low, inverse) - (e < 0 ? -rest : rest);
        const float c = counts[lane], cq = times(c, q);
        error[lane] += times(c, times(size, power));
        q1[lane] += cq;
        u1[lane] += times(c, u);
        qq[lane] += times(cq, q);
        qu[lane] += times(cq, u);
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      out.error += static_cast<double>(error[lane]);
      out.q += static_cast<double>(q1[lane]);
      out.u += static_cast<double>(u1[lane]);
      out.qq += static_cast<double>(qq[lane]);
      out.qu += static_cast<double>(qu[lane]);
    }
    for (std::size_t i = 0; i < group.size; ++i) out.c += static_cast<double>(group.counts[i]);
    return out;
  }

  /// Scale and zero point by least squares of (q − zero)·scale against w − e', rounded to what is stored.
  [[nodiscard]] Grid follow(const Sums& s, Grid grid) const {
    if (!(s.c > 0)) return grid;
    const RoundedProduct<double> times;
    const double low = static_cast<double>(low_), unit = static_cast<double>(unit_);
    const double mean_q = s.q / s.c, mean_u = s.u / s.c, mean_w = low + times(mean_u, unit);
    float scale = grid.scale, zero = grid.zero;
    const bool moves_zero = spec_.scheme != SchemeKind::symmetric;
    if (o_.fit_scale && moves_zero)
      scale = scale_or(times(s.qu - times(mean_q, s.u), unit) / (s.qq - times(mean_q, s.q)), scale);
    if (moves_zero) zero = stored(mean_q - mean_w / static_cast<double>(scale));
    if (o_.fit_scale && !spec_.has_real_zeros()) {  // a zero point that was rounded, or is fixed, asks for another one
      const double z = static_cast<double>(zero);
      const double products = times(low, s.q - times(z, s.c)) + times(unit, s.qu - times(z, s.u));
      scale = scale_or(products / (s.qq - times(2 * z, s.q) + times(times(z, z), s.c)), scale);
    }
    return {scale, zero};
  }

  /// A scale as it is stored; `before` where that is none.
  [[nodiscard]] float scale_or(double scale, float before) const {
    if (!(scale > 0) || !(scale < static_cast<double>(kMaxMagnitude))) return before;
    const float stored = stored_scale(static_cast<float>(scale), spec_.scale_type);
    return is_finite(stored) ? stored : before;
  }
  [[nodiscard]] float stored(double zero) const {
    const auto limit = static_cast<double>(kRounder) / 4;  // far beyond any code
    const auto x = static_cast<float>(std::clamp(zero, -limit, limit));
    if (spec_.has_real_zeros()) {
      const float real = stored_zero(x, spec_.scale_type);
      return is_finite(real) ? real : 0.0f;
    }
    return std::clamp(static_cast<float>(round_half_even(x)), 0.0f, static_cast<float>(rule_.highest_code()));
  }

  const Options& o_;
  const QuantSpec& spec_;
  AffineRule rule_;
  float low_ = 0, unit_ = 1;
};

}  // namespace nibble::inline NIBBLE_ABI::hqq::detail
