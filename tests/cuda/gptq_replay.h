// A solution of GPTQ, followed in exact arithmetic (fp64 here): each row is solved again, forced to take the device's
// codes, and each code must be the nearest one to what is then to be rounded, within the bound that
// nibble/cuda/gptq.h derives. So a device may differ from the CPU only at what is nearly a tie, and after it the
// row goes on being checked, along its own path.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nibble/solver/gptq_grid.h"
#include "nibble/solver/impl/gptq_plan.h"
#include "nibble/solver/impl/gptq_setup.h"
#include "tests/cuda/machine.h"
#include "tests/solver/layers.h"

namespace nibble::cuda_test {

using testing_support::Doubles;
using testing_support::index;

/// What one operation loses.
struct Rounding {
  double epsilon = 0x1p-24;         ///< Of the solution.
  double factor_epsilon = 0x1p-24;  ///< Of the factorisation.
  /// The libraries add up in their own precision, in any order (cuda/gptq.h); the emulated ones in fp64, and round
  /// once.
  bool any_order = on_gpu;

  /// How many such losses one number of the factor has, and one of its inverse.
  [[nodiscard]] double factor_roundings(std::size_t n) const { return any_order ? static_cast<double>(n) + 3 : 3; }
  [[nodiscard]] double inverse_roundings(std::size_t n) const { return any_order ? static_cast<double>(n) : 1; }
};

class GptqReplay {
 public:
  GptqReplay(MatrixView<const float> weights, const Hessian& h, const gptq::Options& o, double damp, Rounding rounding,
             bool dominant = false)
      : weights_(weights), options_(o), rounding_(rounding), n_(h.channels()) {
    const auto dead = h.dead_channels();
    plan_ = gptq::make_plan(gptq::diagonal_of(h, dead, o.compat), o);
    dead_.resize(n_);
    for (const std::size_t c : dead) dead_[c] = true;
    in_order_ = permuted(testing_support::damped(h, damp, o.compat));
    if (dominant) raise_diagonal(damp);
    factor();
    cross_ = Doubles::Zero(index(n_), index(n_));
    if (o.alpha != 0) add_drift(h);
    propagate();
  }

  /// What a solution's codes were rounded from, and how near to the middle between two codes.
  struct Position {
    double distance;  ///< Of the code from what was to be rounded, in codes.
    double slack;     ///< The bound beyond ½.
  };

  /// Checks all codes and grids of a row; one Position each, in order of solving.
  std::vector<Position> row(const QuantizedMatrix& q, std::size_t r) {
    start(r);
    std::vector<Position> out(n_);
    for (std::size_t i = 0; i < n_; ++i) {
      if (plan_.grids_first ? i == 0 : options_.compat ? begins_step(i) : plan_.group_begins(i)) check_grids(q, r, i);
      const std::size_t group = r * plan_.groups + plan_.group[i];
      const double scale = double(q.scale(group)), zero = q.zero_point(group), top = (1 << options_.bits) - 1;
      const double v = x_[i], bound = bound_of(i);
      const double t = std::min(std::max(v / scale, -zero), top - zero);
      const double code = q.code(r, plan_.order[i]) - zero;
      out[i] = {std::abs(t - code), (bound + 2 * 0x1p-24 * std::abs(v)) / scale};
      if (rounding_.epsilon < 0x1p-24) out[i].slack = (bound + 2 * rounding_.epsilon * std::abs(v)) / scale;
      most_slack = std::max(most_slack, out[i].slack);
      most_used = std::max(most_used, (out[i].distance - 0.5) / out[i].slack);
      EXPECT_LE(out[i].distance, 0.5 + out[i].slack)
          << options_.name << ": row " << r << ", position " << i << ", value " << v << ", scale " << scale;
      take(i, v, static_cast<double>(static_cast<float>(code) * static_cast<float>(scale)), bound);
    }
    return out;
  }

  double loss = 0;        ///< ½Σe² of the rows so far,
  double loss_slack = 0;  ///< and what the device's may differ from it by.
  double most_slack = 0;  ///< The largest bound,
  double most_used = 0;   ///< and the largest part of one that a code needed; negative: none did.
  [[nodiscard]] const gptq::Plan& plan() const { return plan_; }
  /// What bounds are derived from: far below 1, they hold.
  [[nodiscard]] double perturbation() const { return perturbation_; }

 private:
  [[nodiscard]] Doubles permuted(const Doubles& m) const {
    Doubles out(m.rows(), m.cols());
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t j = 0; j < n_; ++j) out(index(i), index(j)) = m(index(plan_.order[i]), index(plan_.order[j]));
    return out;
  }
  /// The last recovery: each diagonal element at least the sum of its row's magnitudes, before damping.
  void raise_diagonal(double damp) {
    const double mean = in_order_.trace() / static_cast<double>(n_) / (1 + damp);
    for (Eigen::Index i = 0; i < in_order_.rows(); ++i) {
      const double others = in_order_.row(i).cwiseAbs().sum() - in_order_(i, i);
      in_order_(i, i) = std::max(in_order_(i, i) - damp * mean, others) + damp * mean;
    }
  }
  [[nodiscard]] bool begins_step(std::size_t i) const {
    return std::any_of(plan_.steps.begin(), plan_.steps.end(), [&](const gptq::Step& s) { return s.begin == i; });
  }
  [[nodiscard]] std::size_t end_of_step(std::size_t i) const {
    for (const gptq::Step& s : plan_.steps)
      if (i < s.end) return s.end;
    return n_;
  }

  /// R, U = R⁻¹, and D, by how much a computed U may differ from it.
  void factor() {
    const Doubles reversed = in_order_.reverse();
    const Doubles l = reversed.llt().matrixL();
    r_ = l.reverse();
    u_ = r_.triangularView<Eigen::Upper>().solve(Doubles::Identity(index(n_), index(n_)));
    const double g = rounding_.factor_roundings(n_) * rounding_.factor_epsilon;
    const Eigen::VectorXd reach = u_.cwiseAbs() * in_order_.diagonal().cwiseSqrt();
    perturbation_ = g * reach.squaredNorm();
    error_ =
        rounding_.inverse_roundings(n_) * rounding_.factor_epsilon * u_.cwiseAbs() * r_.cwiseAbs() * u_.cwiseAbs() +
        rounding_.epsilon * u_.cwiseAbs();
    for (Eigen::Index j = 0; j < u_.cols(); ++j) {
      double sum = 0;
      for (Eigen::Index i = j; i >= 0; --i) {
        sum += reach(i) * std::abs(u_(i, j));
        error_(i, j) += g * reach(i) * sum;
      }
    }
    error_ *= 1 + 4 * perturbation_;
  }

  /// P = share·triu(C·Uᵀ, 1)·U and what a computed one may differ from it by.
  void add_drift(const Hessian& h) {
    Doubles c(index(n_), index(n_));
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t j = 0; j < n_; ++j)
        c(index(i), index(j)) = options_.alpha * gptq::scale_of(h) * h.cross(plan_.order[i], plan_.order[j]);
    Doubles y = c * u_.transpose();
    const double e = rounding_.inverse_roundings(n_) * rounding_.factor_epsilon;
    const Doubles size = u_.cwiseAbs(), r = r_.cwiseAbs();
    Doubles dy = c.cwiseAbs() * (error_ + rounding_.factor_epsilon * size).transpose() +
                 e * y.cwiseAbs() * (size * r).transpose();
    y.triangularView<Eigen::Lower>().setZero();
    dy.triangularView<Eigen::Lower>().setZero();
    cross_ = y * u_;
    cross_error_ =
        y.cwiseAbs() * error_ + dy * size + e * cross_.cwiseAbs() * (r * size) + rounding_.epsilon * cross_.cwiseAbs();
  }

  /// v_j = w_j + Σ_{k<j} (v_k·X_kj + q_k·U_kj/U_kk): what an error of one v does to those after it, at last.
  void propagate() {
    step_ = cross_;
    for (std::size_t k = 0; k < n_; ++k)
      for (std::size_t j = k + 1; j < n_; ++j)
        step_(index(k), index(j)) -= u_(index(k), index(j)) / u_(index(k), index(k));
    const Doubles system = Doubles::Identity(index(n_), index(n_)) - step_;
    reach_ = system.triangularView<Eigen::UnitUpper>().solve(Doubles::Identity(index(n_), index(n_)));
  }

  void start(std::size_t r) {
    x_.resize(n_);
    for (std::size_t i = 0; i < n_; ++i)
      x_[i] = dead_[plan_.order[i]] ? 0 : static_cast<double>(weights_(r, plan_.order[i]));
    first_ = x_;
    size_.assign(n_, 0.0);
    inherited_.assign(n_, 0.0);
    local_.assign(n_, 0.0);
  }

  /// Λ_j: what position j itself has lost so far.
  [[nodiscard]] double local(std::size_t j, std::size_t done) const {
    const double roundings = static_cast<double>(done + 1) * rounding_.epsilon;
    return done == 0 ? 0 : 1.01 * (inherited_[j] + roundings * (std::abs(first_[j]) + size_[j]));
  }

  double bound_of(std::size_t j) {
    local_[j] = local(j, j);
    double out = 0;
    for (std::size_t k = 0; k <= j; ++k) out += local_[k] * std::abs(reach_(index(k), index(j)));
    return out;
  }

  void take(std::size_t i, double v, double decoded, double bound) {
    const double pivot = u_(index(i), index(i)), e = (v - decoded) / pivot,
                 relative = error_(index(i), index(i)) / pivot;
    const double most = std::abs(e) + 1.01 * bound / pivot, moved = std::abs(v) + bound;
    const double lost = 1.01 * (bound / pivot + std::abs(e) * (3 * rounding_.epsilon + relative));
    loss += e * e / 2;
    loss_slack += std::abs(e) * lost + lost * lost / 2;
    for (std::size_t j = i + 1; j < n_; ++j) {
      const double u = u_(index(i), index(j)), p = cross_(index(i), index(j));
      x_[j] += v * p - e * u;
      size_[j] += most * std::abs(u) + moved * std::abs(p);
      inherited_[j] += most * (error_(index(i), index(j)) + std::abs(u) * (3 * rounding_.epsilon + relative));
      if (cross_error_.size() != 0) inherited_[j] += moved * cross_error_(index(i), index(j));
    }
  }

  /// The grids that are fitted once the first `done` positions are solved.
  void check_grids(const QuantizedMatrix& q, std::size_t r, std::size_t done) {
    std::vector<std::vector<std::size_t>> members(plan_.groups);
    for (std::size_t i = done; i < n_; ++i) members[plan_.group[i]].push_back(i);
    const std::size_t last = plan_.grids_first ? n_ : options_.compat ? end_of_step(done) : done + 1;
    std::vector<bool> seen(plan_.groups);
    for (std::size_t i = done; i < last; ++i) {
      const std::size_t g = plan_.group[i];
      if (!plan_.grids_first && !plan_.group_begins(i)) continue;
      if (!seen[g]) check_grid(q, r, done, g, members[g]);
      seen[g] = true;
    }
  }

  /// How far the device's x_j may be from ours when `done` positions are solved.
  [[nodiscard]] double pending(std::size_t j, std::size_t done) {
    double out = local(j, done);
    if (done == 0) return out;
    Doubles& way = ways_[done];
    if (way.size() == 0) way = (reach_.topLeftCorner(index(done), index(done)) * step_.topRows(index(done))).cwiseAbs();
    for (std::size_t k = 0; k < done; ++k) out += local_[k] * way(index(k), index(j));
    return out;
  }

  void check_grid(const QuantizedMatrix& q, std::size_t r, std::size_t done, std::size_t group,
                  const std::vector<std::size_t>& members) {
    const AffineParams actual{q.scale(r * plan_.groups + group), q.zero_point(r * plan_.groups + group)};
    std::vector<double> slack;
    Range inner{INFINITY, -INFINITY}, outer = inner;  // the ranges that the device may have seen lie between
    for (const std::size_t j : members) {
      slack.push_back(pending(j, done) + (done == 0 ? 0 : 0x1p-24 * std::abs(x_[j])));
      const auto least = [](float& to, double x) { to = std::min(to, static_cast<float>(x)); };
      const auto most = [](float& to, double x) { to = std::max(to, static_cast<float>(x)); };
      least(inner.min, x_[j] + slack.back()), most(inner.max, x_[j] - slack.back());
      least(outer.min, x_[j] - slack.back()), most(outer.max, x_[j] + slack.back());
    }
    const GridRule rule{options_.bits, options_.symmetric, options_.compat, options_.scale_type};
    const std::string where = options_.name + ": row " + std::to_string(r) + ", group " + std::to_string(group);
    if (options_.grid_search) return check_search(actual, members, slack, rule, where);
    if (inner.min > inner.max) inner = {0, 0};
    const AffineParams low = grid_of(inner, rule), high = grid_of(outer, rule);
    EXPECT_GE(actual.scale, std::min(low.scale, high.scale)) << where;
    EXPECT_LE(actual.scale, std::max(low.scale, high.scale)) << where;
    EXPECT_GE(actual.zero_point, std::min(low.zero_point, high.zero_point) - (done == 0 ? 0 : 1)) << where;
    EXPECT_LE(actual.zero_point, std::max(low.zero_point, high.zero_point) + (done == 0 ? 0 : 1)) << where;
  }

  /// The grid must have the least error of all that are searched, as far as the values are known.
  void check_search(AffineParams actual, const std::vector<std::size_t>& members, const std::vector<double>& slack,
                    GridRule rule, const std::string& where) {
    Range range{static_cast<float>(x_[members[0]]), static_cast<float>(x_[members[0]])};
    double most = 0;
    for (std::size_t k = 0; k < members.size(); ++k) {
      range.min = std::min(range.min, static_cast<float>(x_[members[k]]));
      range.max = std::max(range.max, static_cast<float>(x_[members[k]]));
      most = std::max(most, slack[k]);
    }
    // The range moves by no more than any value does, a scale by that much a code.
    const double moves = 3 * most;
    const auto error = [&](AffineParams p, double by) {
      double sum = 0;
      const double zero = p.zero_point, top = (1 << rule.bits) - 1, scale = double(p.scale);
      for (const std::size_t j : members) {
        const double t = std::nearbyint(std::min(std::max(x_[j] / scale, -zero), top - zero));
        sum += std::pow(std::abs(t * scale - x_[j]) + by, 2.4);
      }
      return sum;
    };
    double least = INFINITY;
    for (int step = 0; step < kShrinkings; ++step) {
      const float p = shrinking(step);
      least = std::min(least, error(grid_of({range.min * p, range.max * p}, rule), moves));
    }
    // fp32 sums and powers: a few parts in 10⁷ a term, and one addition each.
    const double relative = 4e-7 + static_cast<double>(members.size()) * 0x1p-24;
    EXPECT_LE(error(actual, 0), least * (1 + 2 * relative) + (error(actual, moves) - error(actual, 0))) << where;
  }

  MatrixView<const float> weights_;
  const gptq::Options& options_;
  Rounding rounding_;
  std::size_t n_;
  gptq::Plan plan_;
  std::vector<bool> dead_;
  Doubles in_order_, r_, u_, error_, cross_, cross_error_, step_, reach_;
  std::map<std::size_t, Doubles> ways_;  ///< By the number of positions solved.
  double perturbation_ = 0;
  std::vector<double> x_, first_, size_, inherited_, local_;  ///< Of the current row, by position.
};

}  // namespace nibble::cuda_test
