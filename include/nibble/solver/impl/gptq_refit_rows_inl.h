// Refits the scales of a panel's rows: the weights' part of solver/impl/gptq_refit.h.
#pragma once

#include <algorithm>
#include <cmath>

#include "nibble/core/rounded_product.h"
#include "nibble/scheme/scale.h"
#include "nibble/solver/impl/gptq_grid.h"
#include "nibble/solver/impl/gptq_refit.h"

namespace nibble::inline NIBBLE_ABI::gptq::detail {

/// With the codes u = code − zero_point fixed and Δ = W − Q, a change of a group's scale by δ changes the loss
/// ½·Δ·H·Δᵀ by −δ·u·H·Δᵀ + ½δ²·u·H·uᵀ, least at δ = (u·H·Δᵀ)/(u·H·uᵀ). Groups in turn, each for what those before have
/// become; a scale that its type rounds to one that is no better stays.
template <class T>
class ScaleRefit {
 public:
  ScaleRefit(const RefitHessian<T>& h, const Options& o, solver::GemmPanel<T> multiply)
      : h_(h), options_(o), n_(h.values.n), multiply_(multiply) {
    for (auto* v : {&codes_, &delta_, &gradient_, &effect_, &product_}) v->resize(n_ * kLanes);
  }

  /// `delta` [position][kLanes] is Δ and `codes` are the codes; `squares` is twice the loss of each lane, which falls.
  void run(const T* delta, const std::uint8_t* codes, std::vector<LaneGrid<T>>& grids, double* squares) {
    for (std::size_t g = 0; g < grids.size(); ++g)
      for (std::size_t k = h_.begins[g]; k < h_.begins[g + 1]; ++k)
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          const std::size_t from = h_.positions[k] * kLanes + lane, to = k * kLanes + lane;
          codes_[to] = static_cast<T>(codes[from]) - grids[g].zero[lane];
          delta_[to] = delta[from];
        }
    multiply(delta_, 0, n_, gradient_);
    for (std::size_t g = 0; g < grids.size(); ++g) step(h_.begins[g], h_.begins[g + 1], grids[g], squares);
  }

 private:
  /// to = H·x, of x the rows from `begin` to `end`.
  void multiply(const std::vector<T>& x, std::size_t begin, std::size_t end, std::vector<T>& to) {
    std::fill(to.begin(), to.end(), T(0));
    for (std::size_t k = begin; k < end; k += kDepth) {
      multiply_(h_.values.row(0) + k, h_.values.stride, n_, x.data() + k * kLanes, std::min(kDepth, end - k),
                product_.data());
      for (std::size_t i = 0; i < n_ * kLanes; ++i) to[i] += product_[i];
    }
  }

  void step(std::size_t begin, std::size_t end, LaneGrid<T>& grid, double* squares) {
    const RoundedProduct<T> times;
    const RoundedProduct<double> exactly;
    multiply(codes_, begin, end, effect_);
    double along[kLanes] = {}, across[kLanes] = {};
    for (std::size_t i = begin * kLanes; i < end * kLanes; ++i) {
      along[i % kLanes] += exactly(static_cast<double>(codes_[i]), static_cast<double>(gradient_[i]));
      across[i % kLanes] += exactly(static_cast<double>(codes_[i]), static_cast<double>(effect_[i]));
    }
    alignas(64) T change[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      change[lane] = 0;
      if (!(across[lane] > 0)) continue;  // all codes are the zero point's
      const auto scale = static_cast<double>(grid.scale[lane]);
      const float stored = stored_scale(static_cast<float>(scale + along[lane] / across[lane]), options_.scale_type);
      const double by = static_cast<double>(stored) - scale;
      const double gain = exactly(by, 2 * along[lane]) - exactly(exactly(by, by), across[lane]);
      if (!std::isfinite(stored) || !(gain > 0)) continue;
      change[lane] = static_cast<T>(by);
      grid.scale[lane] = static_cast<T>(stored);
      squares[lane] -= gain;
    }
    for (std::size_t i = 0; i < n_ * kLanes; ++i) gradient_[i] -= times(change[i % kLanes], effect_[i]);
  }

  const RefitHessian<T>& h_;
  const Options& options_;
  std::size_t n_;
  solver::GemmPanel<T> multiply_;
  std::vector<T> codes_, delta_, gradient_, effect_, product_;  ///< [row of h_][kLanes]
};

}  // namespace nibble::inline NIBBLE_ABI::gptq::detail
