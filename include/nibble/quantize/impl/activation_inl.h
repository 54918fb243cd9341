// What quantize/activation.h declares.
#pragma once

#include "nibble/quantize/activation.h"

#include <algorithm>
#include <cmath>

#include "nibble/core/error.h"
#include "nibble/core/rounded_product.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline constexpr std::size_t kBins = 4096;

/// Activations are never stored, so their scales are fp32.
inline AffineRule activation_rule(int bits, bool symmetric) {
  return {bits, symmetric, /*narrow_range=*/true, true, ScaleType::f32};
}

inline void check_bits(int bits) {
  if (bits < 2 || bits > 8)
    throw Error(ErrorCode::invalid_argument, "bits is " + std::to_string(bits) + "; it must be 2 to 8");
}

/// What encode divides by and decode multiplies by.
inline void check_params(AffineParams p) {
  if (!(p.scale > 0) || !is_finite(p.scale))
    throw Error(ErrorCode::invalid_argument,
                "the activations' scale is " + std::to_string(p.scale) + "; it must be positive and finite");
}

inline void check_sizes(std::size_t a, std::size_t b) {
  if (a != b)
    throw Error(ErrorCode::shape_mismatch, "fake quantization: spans of " + std::to_string(a) + " and " +
                                               std::to_string(b) + " values must be as long");
}

inline void check_row_finite(std::span<const float> row, std::size_t r) {
  for (std::size_t c = 0; c < row.size(); ++c)
    if (!is_finite(row[c]))
      throw Error(ErrorCode::non_finite, "activation row " + std::to_string(r) + ", column " + std::to_string(c) +
                                             " is " + std::to_string(row[c]));
}

inline std::size_t bin_of(float x, float limit) {
  const double place = (static_cast<double>(x) / static_cast<double>(limit) + 1) * (kBins / 2);
  return std::min<std::size_t>(kBins - 1, static_cast<std::size_t>(std::max(0.0, place)));
}

inline double bin_centre(std::size_t bin, float limit) {
  const RoundedProduct<double> times;
  return times((static_cast<double>(bin) + 0.5) / (kBins / 2) - 1, static_cast<double>(limit));
}

}  // namespace detail

NIBBLE_INLINE RangeObserver::RangeObserver(ObserverOptions options, std::string name)
    : options_(options), name_(std::move(name)), bins_(detail::kBins, 0) {
  detail::check_bits(options.bits);
  if (!(options.percentile > 0 && options.percentile <= 1))
    throw Error(ErrorCode::invalid_argument, "the percentile of '" + name_ + "' is " +
                                                 std::to_string(options.percentile) +
                                                 "; it is a share, above 0 and at most 1");
}

NIBBLE_INLINE void RangeObserver::observe(std::span<const float> values) {
  if (values.empty()) return;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!is_finite(values[i]))
      throw Error(ErrorCode::non_finite,
                  "calibration of '" + name_ + "': value " + std::to_string(i) + " is " + std::to_string(values[i]));
  const Range r = range_of(values);
  seen_ = count_ == 0 ? r : Range{std::min(seen_.min, r.min), std::max(seen_.max, r.max)};
  count_ += values.size();
  widen_to(r.absmax());
  for (float v : values) ++bins_[detail::bin_of(v, limit_)];
}

/// Doubling the limit folds bin pairs into one, so that counts never have to be split.
NIBBLE_INLINE void RangeObserver::widen_to(float absmax) {
  if (limit_ == 0) limit_ = std::max(absmax, 0x1p-100f);
  while (limit_ < absmax) {
    std::vector<std::uint64_t> folded(detail::kBins, 0);
    for (std::size_t b = 0; b < detail::kBins; ++b) folded[detail::kBins / 4 + b / 2] += bins_[b];
    bins_ = std::move(folded);
    limit_ *= 2;
  }
}

NIBBLE_INLINE AffineParams RangeObserver::fit(Range r) const {
  return fit_affine(r, detail::activation_rule(options_.bits, options_.symmetric));
}

NIBBLE_INLINE Range RangeObserver::percentile_range() const {
  const auto outside = static_cast<std::uint64_t>((1 - options_.percentile) / 2 * static_cast<double>(count_));
  std::size_t low = 0, high = detail::kBins - 1;
  for (std::uint64_t passed = bins_[low]; passed <= outside && low + 1 < detail::kBins;) passed += bins_[++low];
  for (std::uint64_t passed = bins_[high]; passed <= outside && high > low;) passed += bins_[--high];
  const float width = limit_ / (detail::kBins / 2);
  const RoundedProduct<float> times;
  return {std::max(seen_.min, times(static_cast<float>(low), width) - limit_),
          std::min(seen_.max, times(static_cast<float>(high + 1), width) - limit_)};
}

NIBBLE_INLINE double RangeObserver::squared_error(Range r) const {
  const AffineParams p = fit(r);
  const AffineRule rule = detail::activation_rule(options_.bits, options_.symmetric);
  const std::int32_t low = rule.lowest_code(), high = rule.highest_code();
  const RoundedProduct<double> times;
  const RoundedProduct<float> decoded;
  double sum = 0;
  for (std::size_t b = 0; b < detail::kBins; ++b) {
    if (bins_[b] == 0) continue;
    const double x = detail::bin_centre(b, limit_);
    const std::uint8_t code = affine_encode(static_cast<float>(x), p, low, high);
    const double error = x - static_cast<double>(decoded(static_cast<float>(code - p.zero_point), p.scale));
    sum += times(times(error, error), static_cast<double>(bins_[b]));
  }
  return sum;
}

NIBBLE_INLINE Range RangeObserver::mse_range() const {
  Range best = seen_;
  double least = squared_error(best);
  for (int percent = 99; percent >= 10; --percent) {
    const float p = static_cast<float>(percent) / 100;
    const Range clipped{seen_.min * p, seen_.max * p};
    if (const double error = squared_error(clipped); error < least) {
      least = error;
      best = clipped;
    }
  }
  return best;
}

NIBBLE_INLINE Range RangeObserver::range() const {
  if (count_ == 0)
    throw Error(ErrorCode::invalid_argument, "'" + name_ + "' has seen no calibration data; call observe() first");
  switch (options_.method) {
    case RangeMethod::percentile: return percentile_range();
    case RangeMethod::mse: return mse_range();
    case RangeMethod::min_max: break;
  }
  return seen_;
}

NIBBLE_INLINE AffineParams RangeObserver::params() const { return fit(range()); }

NIBBLE_INLINE QuantizedActivations quantize_static(MatrixView<const float> x, AffineParams params, int bits) {
  detail::check_bits(bits);
  detail::check_params(params);
  x.validate("x");
  QuantizedActivations out{x.rows, x.cols, std::vector<std::uint8_t>(x.rows * x.cols), {params}};
  for (std::size_t r = 0; r < x.rows; ++r) {
    detail::check_row_finite(x.row(r), r);
    for (std::size_t c = 0; c < x.cols; ++c)
      out.codes[r * x.cols + c] = affine_encode(x(r, c), params, 0, (1 << bits) - 1);
  }
  return out;
}

NIBBLE_INLINE QuantizedActivations quantize_dynamic(MatrixView<const float> x, int bits, bool symmetric) {
  detail::check_bits(bits);
  if (x.cols == 0) throw Error(ErrorCode::invalid_argument, "activation rows of no columns have no range");
  x.validate("x");
  const AffineRule rule = detail::activation_rule(bits, symmetric);
  QuantizedActivations out{x.rows, x.cols, std::vector<std::uint8_t>(x.rows * x.cols), {}};
  for (std::size_t r = 0; r < x.rows; ++r) {
    detail::check_row_finite(x.row(r), r);
    const AffineParams p = fit_affine(range_of(x.row(r)), rule);
    out.params.push_back(p);
    for (std::size_t c = 0; c < x.cols; ++c)
      out.codes[r * x.cols + c] = affine_encode(x(r, c), p, rule.lowest_code(), rule.highest_code());
  }
  return out;
}

NIBBLE_INLINE void fake_quantize(std::span<const float> x, AffineParams p, int bits, std::span<float> out) {
  detail::check_bits(bits);
  detail::check_params(p);
  detail::check_sizes(x.size(), out.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    if (!is_finite(x[i]))
      throw Error(ErrorCode::non_finite,
                  "fake quantization: value " + std::to_string(i) + " is " + std::to_string(x[i]));
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = affine_decode(affine_encode(x[i], p, 0, (1 << bits) - 1), p);
}

NIBBLE_INLINE void fake_quantize_gradient(std::span<const float> x, AffineParams p, int bits,
                                          std::span<const float> grad_out, std::span<float> grad_x) {
  detail::check_bits(bits);
  detail::check_params(p);
  detail::check_sizes(x.size(), grad_out.size());
  detail::check_sizes(x.size(), grad_x.size());
  const float low = static_cast<float>(-p.zero_point), high = static_cast<float>((1 << bits) - 1 - p.zero_point);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float t = x[i] / p.scale;
    grad_x[i] = t >= low && t <= high ? grad_out[i] : 0.0f;
  }
}

}  // namespace nibble::inline NIBBLE_ABI
