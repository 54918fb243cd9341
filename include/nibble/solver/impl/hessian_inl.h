// What solver/hessian.h declares.
#pragma once

#include "nibble/solver/hessian.h"

#include <algorithm>
#include <cmath>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/shape.h"
#include "nibble/scheme/rounding.h"
#include "nibble/solver/impl/rank_update.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// 256 squares of this still sum to a finite float.
inline constexpr float kMaxActivation = 0x1p59f;

}  // namespace detail

NIBBLE_INLINE Hessian::Hessian(std::size_t channels, std::string name, bool asymmetric)
    : name_(std::move(name)), channels_(channels) {
  if (channels == 0) throw Error(ErrorCode::invalid_argument, "the Hessian of '" + name_ + "' has no channels");
  sums_.resize(channels * (channels + 1) / 2);
  if (asymmetric) cross_.resize(channels * channels);
}

NIBBLE_INLINE Hessian Hessian::from_sum(MatrixView<const double> sum, std::uint64_t tokens, std::string name) {
  if (sum.rows != sum.cols)
    throw Error(ErrorCode::shape_mismatch,
                "the Hessian of '" + name + "' is " + detail::shape(sum.rows, sum.cols) + "; it must be square");
  sum.validate("the Hessian of " + name);
  Hessian out(sum.rows, std::move(name));
  out.tokens_ = tokens;
  for (std::size_t i = 0, at = 0; i < sum.rows; ++i)
    for (std::size_t j = 0; j <= i; ++j, ++at) {
      const double value = sum(i, j);
      const auto refuse = [&](ErrorCode code, const char* why) {
        throw Error(code, "the Hessian of '" + out.name_ + "': element (" + std::to_string(i) + ", " +
                              std::to_string(j) + ") is " + std::to_string(value) + why);
      };
      if (!std::isfinite(value)) refuse(ErrorCode::non_finite, "");
      if (i == j && value < 0) refuse(ErrorCode::invalid_argument, "; a sum of squares is not negative");
      out.sums_[at] = value;
    }
  return out;
}

NIBBLE_INLINE Hessian Hessian::from_sum(MatrixView<const double> sum, MatrixView<const double> cross,
                                        std::uint64_t tokens, std::string name) {
  if (cross.rows != sum.rows || cross.cols != sum.cols)
    throw Error(ErrorCode::shape_mismatch, "the Hessian of '" + name + "' is " + detail::shape(sum.rows, sum.cols) +
                                               ", its cross statistic " + detail::shape(cross.rows, cross.cols));
  cross.validate("the cross statistic of " + name);
  Hessian out = from_sum(sum, tokens, std::move(name));
  for (std::size_t i = 0; i < cross.rows; ++i)
    for (std::size_t j = 0; j < cross.cols; ++j) {
      if (!std::isfinite(cross(i, j)))
        throw Error(ErrorCode::non_finite, "the cross statistic of '" + out.name_ + "': element (" + std::to_string(i) +
                                               ", " + std::to_string(j) + ") is " + std::to_string(cross(i, j)));
      out.cross_.push_back(cross(i, j));
    }
  return out;
}

/// Refuses what could not be summed, naming the first such value in row-major order.
NIBBLE_INLINE void Hessian::check(FloatMatrix x, const char* which, Executor& executor, const Backend* backend) const {
  const std::string what = std::string(which) + " '" + name_ + "'";
  if (!is_matrix_type(x.type))
    throw Error(ErrorCode::unsupported,
                what + " are " + std::string(name_of(x.type)) + "; only F32, F16 and BF16 can be summed");
  if (x.cols != channels_ || x.stride < x.cols)
    throw Error(ErrorCode::shape_mismatch, what + " are " + detail::shape(x.rows, x.cols) + " with rows " +
                                               std::to_string(x.stride) + " apart; the Hessian has " +
                                               std::to_string(channels_) + " channels");
  x.validate(name_);
  const std::size_t t = solver::first_beyond(x, detail::kMaxActivation, kernels_of(backend), executor);
  for (std::size_t c = 0; t < x.rows && c < x.cols; ++c) {
    const float value = x(t, c);
    if (is_finite(value) && std::abs(value) < detail::kMaxActivation) continue;
    throw Error(ErrorCode::non_finite, what + ": token " + std::to_string(t) + ", channel " + std::to_string(c) +
                                           " is " + std::to_string(value) +
                                           (is_finite(value) ? ", too large to be squared" : ""));
  }
}

NIBBLE_INLINE void Hessian::add(FloatMatrix x, Executor& executor, const Backend* backend) {
  check(x, "activations", executor, backend);
  if (asymmetric())
    throw Error(ErrorCode::invalid_argument,
                "the Hessian of '" + name_ + "' is asymmetric: add() needs the full-precision activations too");
  solver::add_products(x, {}, sums_.data(), nullptr, kernels_of(backend), executor);
  tokens_ += x.rows;
}

NIBBLE_INLINE void Hessian::add(FloatMatrix x, FloatMatrix full, Executor& executor, const Backend* backend) {
  check(x, "activations", executor, backend);
  check(full, "full-precision activations", executor, backend);
  if (!asymmetric()) throw Error(ErrorCode::invalid_argument, "the Hessian of '" + name_ + "' was not made asymmetric");
  if (x.rows != full.rows)
    throw Error(ErrorCode::shape_mismatch, "activations '" + name_ + "': " + std::to_string(x.rows) + " tokens, but " +
                                               std::to_string(full.rows) + " in full precision");
  solver::add_products(x, full, sums_.data(), cross_.data(), kernels_of(backend), executor);
  tokens_ += x.rows;
}

NIBBLE_INLINE void Hessian::merge(const Hessian& other) {
  if (channels_ != other.channels_ || asymmetric() != other.asymmetric())
    throw Error(ErrorCode::shape_mismatch, "the Hessians of '" + name_ + "' (" + std::to_string(channels_) +
                                               " channels" + (asymmetric() ? ", asymmetric" : "") + ") and '" +
                                               other.name_ + "' (" + std::to_string(other.channels_) +
                                               (other.asymmetric() ? ", asymmetric" : "") + ") cannot be merged");
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
  for (std::size_t i = 0; i < cross_.size(); ++i) cross_[i] += other.cross_[i];
  tokens_ += other.tokens_;
}

NIBBLE_INLINE std::vector<std::size_t> Hessian::dead_channels() const {
  std::vector<std::size_t> out;
  for (std::size_t c = 0; c < channels_; ++c)
    if (row(c)[c] == 0) out.push_back(c);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
