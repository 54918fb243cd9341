#include "gptq_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "nibble/scheme/affine.h"

namespace nibble::gptq {

namespace {

using solver::kLanes;

/// The reference's grid (find_params): its symmetric range reaches below 0 only where a value does, and its scale is
/// not rounded to what is stored.
AffineParams reference_grid(Range r, const Options& o) {
  float low = std::min(r.min, 0.0f), high = std::max(r.max, 0.0f);
  if (o.symmetric) {
    high = std::max(-low, high);
    if (low < 0) low = -high;
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  if (std::max(-low, high) > kMostMagnitude) return {std::numeric_limits<float>::infinity(), 0};
  const int top = (1 << o.bits) - 1;
  const float scale = stored_scale((high - low) / static_cast<float>(top), ScaleType::f32);
  return {scale, o.symmetric ? (top + 1) / 2 : round_half_even(-low / scale)};
}

AffineParams grid_of(Range r, const Options& o) {
  if (o.compat) return reference_grid(r, o);
  return o.symmetric ? fit_symmetric(r, o.bits, SymmetricRange::full, o.scale_type)
                     : fit_asymmetric(r, o.bits, true, o.scale_type);
}

/// x^2.4 for x ≥ 0 to a few parts in 10^7, from arithmetic that compilers vectorise and that is the same everywhere.
inline float power_2_4(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto shifted = static_cast<std::int32_t>(bits - 0x3f3504f3u);  // √½: the mantissa is centred around 1
  const std::int32_t exponent = shifted >> 23;
  const float m = std::bit_cast<float>(static_cast<std::uint32_t>((shifted & 0x7fffff) + 0x3f3504f3));
  const float s = (m - 1) / (m + 1), s2 = s * s;  // ln m = 2·artanh s
  const float log2 =
      static_cast<float>(exponent) +
      s * (2.885390082f + s2 * (0.961796694f + s2 * (0.577078016f + s2 * (0.412198583f + s2 * 0.320598898f))));
  float y = log2 * 2.4f;
  y = y > -126.0f ? y : -126.0f;
  y = y < 127.0f ? y : 127.0f;
  const float whole = (y + 12582912.0f) - 12582912.0f;
  const float f = y - whole;
  const float power =
      1 +
      f * (0.693147181f +
           f * (0.240226507f + f * (0.0555041087f + f * (0.00961812911f + f * (0.00133335581f + f * 1.54035304e-4f)))));
  return power * std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(whole) + 127) << 23);
}

/// Σ |q − w|^2.4 of each lane, added up no further than until no lane can beat `least`.
template <class T>
void search_error(const T* w, std::size_t n, const LaneGrid<float>& grid, float top, const float* least, float* error) {
  std::fill_n(error, kLanes, 0.0f);
  for (std::size_t c = 0; c < n; ++c) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto x = static_cast<float>(w[c * kLanes + lane]);
      const float low = -grid.zero[lane], high = top - grid.zero[lane];
      float t = x / grid.scale[lane];
      t = t > low ? t : low;
      t = t < high ? t : high;
      t = (t + 12582912.0f) - 12582912.0f;
      error[lane] += power_2_4(std::abs(t * grid.scale[lane] - x));
    }
    if (c % 16 != 15) continue;
    bool lost = true;
    for (std::size_t lane = 0; lane < kLanes; ++lane) lost = lost && !(error[lane] < least[lane]);
    if (lost) return;
  }
}

/// The least-error shrinking of each lane's range by 0 … 79 percent; of equals, the first.
template <class T>
void search(const T* w, std::size_t n, const Range* ranges, const Options& o, AffineParams* best) {
  const auto top = static_cast<float>((1 << o.bits) - 1);
  alignas(64) float least[kLanes];
  alignas(64) float error[kLanes];
  std::fill_n(least, kLanes, std::numeric_limits<float>::infinity());
  for (int step = 0; step < 80; ++step) {
    const float p = 1 - static_cast<float>(step) / 100;
    LaneGrid<float> grid;
    AffineParams tried[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      tried[lane] = grid_of({ranges[lane].min * p, ranges[lane].max * p}, o);
      grid.scale[lane] = tried[lane].scale;
      grid.zero[lane] = static_cast<float>(tried[lane].zero_point);
    }
    search_error(w, n, grid, top, least, error);
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      if (error[lane] < least[lane]) {
        least[lane] = error[lane];
        best[lane] = tried[lane];
      }
  }
}

}  // namespace

template <class T>
LaneGrid<T> fit_grid(const T* w, std::size_t n, const Options& o) {
  T low[kLanes], high[kLanes];
  std::copy_n(w, kLanes, low);
  std::copy_n(w, kLanes, high);
  for (std::size_t c = 1; c < n; ++c)
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const T x = w[c * kLanes + lane];
      low[lane] = x < low[lane] ? x : low[lane];
      high[lane] = x > high[lane] ? x : high[lane];
    }
  Range ranges[kLanes];
  AffineParams params[kLanes];
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    ranges[lane] = {static_cast<float>(low[lane]), static_cast<float>(high[lane])};
    params[lane] = grid_of(ranges[lane], o);
  }
  if (o.grid_search) search(w, n, ranges, o, params);
  LaneGrid<T> out;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    out.scale[lane] = static_cast<T>(params[lane].scale);
    out.zero[lane] = static_cast<T>(params[lane].zero_point);
  }
  return out;
}

template LaneGrid<float> fit_grid(const float*, std::size_t, const Options&);
template LaneGrid<double> fit_grid(const double*, std::size_t, const Options&);

}  // namespace nibble::gptq
