// Both searches go the same way: fit each group alone with real-valued parameters, quantize those to the super-block's
// f16 step and small integers, then repair. Repairing looks, for the step as stored, at the integers around each
// group's and takes the pair of least error with every code chosen anew; then moves the step to the least-squares
// solution for the codes found, and looks again. The best state met is kept, so repairing never loses.
#pragma once

#include "nibble/scheme/impl/gguf_k_encode.h"

#include <algorithm>
#include <cmath>

#include "nibble/core/rounded_product.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline constexpr std::size_t kLanes = 8;    // sums side by side, so that the compiler can use vectors
inline constexpr float kMinF16 = 0x1p-24f;  // half of it is where values become 0 whatever the codes
inline constexpr int kRepairs = 2;

inline float total(const float (&lanes)[kLanes]) {
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

inline float most_magnitude(const float* x, std::size_t n) {
  float most = 0;
  for (std::size_t i = 0; i < n; ++i) most = std::max(most, magnitude(x[i]));
  return most;
}

/// A step as f16 stores it, but never 0 where there is something to say.
inline f16 stored_step(float step) {
  const f16 d(step);
  return step != 0 && static_cast<float>(d) == 0 ? f16(step < 0 ? -kMinF16 : kMinF16) : d;
}

/// Codes of n values for value = step·code − min, and their squared error. step 0 gives codes 0.
inline float assign(const float* x, std::size_t n, float step, float min, float low, float high, float* codes) {
  const float inverse = step != 0 ? 1 / step : 0;
  const RoundedProduct<float> times;
  float lanes[kLanes] = {};
  for (std::size_t i = 0; i < n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      float t = times(x[i + j] + min, inverse);
      t = t > low ? t : low;
      t = t < high ? t : high;
      // NOLINTNEXTLINE(bugprone-incorrect-roundings): never negative
      const float code = static_cast<float>(static_cast<int>(t - low + 0.5f)) + low;
      const float error = times(step, code) - min - x[i + j];
      codes[i + j] = code;
      lanes[j] += times(error, error);
    }
  return total(lanes);
}

struct Group {
  float step = 0, min = 0;  ///< value = step·code − min, min ≥ 0.
};

/// Least squares for given codes; min is held at 0 where it would be negative. False if the codes say nothing.
inline bool solve(const float* x, const float* codes, std::size_t n, Group& g) {
  const RoundedProduct<float> times;
  float l[kLanes] = {}, l2[kLanes] = {}, xl[kLanes] = {}, sum[kLanes] = {};
  for (std::size_t i = 0; i < n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float code = codes[i + j], value = x[i + j];
      l[j] += code;
      l2[j] += times(code, code);
      xl[j] += times(value, code);
      sum[j] += value;
    }
  const float sl = total(l), sl2 = total(l2), sxl = total(xl), sx = total(sum), count = static_cast<float>(n);
  const float determinant = times(count, sl2) - times(sl, sl);
  if (determinant <= 0) return false;
  g.step = (times(count, sxl) - times(sx, sl)) / determinant;
  g.min = (times(sl, sxl) - times(sl2, sx)) / determinant;
  if (g.min < 0) g = {sxl / sl2, 0};
  return g.step > 0;
}

inline constexpr float kTop4 = 15;

inline Group fit_q4_group(const float* x) {
  constexpr std::size_t n = 32;
  const float low = std::min(*std::min_element(x, x + n), 0.0f), high = *std::max_element(x, x + n);
  if (high - low < kMinF16 / 2) return {0, -low};
  float codes[n];
  Group best{(high - low) / kTop4, -low};
  float least = assign(x, n, best.step, best.min, 0, kTop4, codes);
  const auto try_codes = [&] {
    Group g;
    if (!solve(x, codes, n, g)) return false;
    const float error = assign(x, n, g.step, g.min, 0, kTop4, codes);  // at least as good as the codes it was fit to
    if (!(error < least)) return false;
    least = error;
    best = g;
    return true;
  };
  const RoundedProduct<float> times;
  for (int k = -10; k <= 10; ++k) {
    assign(x, n, (high - low) / (kTop4 + times(0.1f, static_cast<float>(k))), -low, 0, kTop4, codes);
    (void)try_codes();
  }
  assign(x, n, best.step, best.min, 0, kTop4, codes);
  for (int k = 0; k < 4 && try_codes(); ++k) {
  }
  return best;
}

struct Q4State {
  f16 d, dmin;
  std::uint8_t scales[8], mins[8];
  float codes[256];
  float error = 0;
};

/// Each group's integers, from those around its real-valued fit, for the steps in `s`.
inline void choose_q4(const float* x, const Group* fits, Q4State& s) {
  const auto d = static_cast<float>(s.d), dmin = static_cast<float>(s.dmin);
  const auto nearest = [](float value, float step) {
    // NOLINTNEXTLINE(bugprone-incorrect-roundings): never negative
    return step > 0 ? static_cast<int>(std::min(value / step, 63.0f) + 0.5f) : 0;
  };
  s.error = 0;
  for (std::size_t g = 0; g < 8; ++g) {
    const int scale0 = nearest(fits[g].step, d), min0 = nearest(fits[g].min, dmin);
    float codes[32], least = HUGE_VALF;
    for (int scale = std::max(scale0 - 1, 0); scale <= std::min(scale0 + 1, 63); ++scale)
      for (int min = std::max(min0 - 1, 0); min <= std::min(min0 + 1, 63); ++min) {
        const float error =
            assign(x + 32 * g, 32, d * static_cast<float>(scale), dmin * static_cast<float>(min), 0, kTop4, codes);
        if (error >= least) continue;
        least = error;
        s.scales[g] = static_cast<std::uint8_t>(scale);
        s.mins[g] = static_cast<std::uint8_t>(min);
        std::copy_n(codes, 32, s.codes + 32 * g);
      }
    s.error += least;
  }
}

/// Both steps by least squares for the integers and codes of `s`: x ≈ d·(scale·code) − dmin·min.
inline bool solve_q4_steps(const float* x, Q4State& s) {
  const RoundedProduct<double> times;
  double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (std::size_t i = 0; i < 256; ++i) {
    const double a = static_cast<double>(s.scales[i / 32]) * static_cast<double>(s.codes[i]), b = s.mins[i / 32],
                 value = static_cast<double>(x[i]);
    aa += times(a, a);
    ab += times(a, b);
    bb += times(b, b);
    ax += times(a, value);
    bx += times(b, value);
  }
  const double determinant = times(aa, bb) - times(ab, ab);
  double d = 0, dmin = 0;
  if (determinant > 0) {
    d = (times(ax, bb) - times(bx, ab)) / determinant;
    dmin = (times(ax, ab) - times(bx, aa)) / determinant;
  } else if (aa > 0) {
    d = ax / aa;
  }
  if (!(d > 0) || !(dmin >= 0)) return false;
  s.d = stored_step(static_cast<float>(d));
  s.dmin = stored_step(static_cast<float>(dmin));
  return is_finite(static_cast<float>(s.d)) && is_finite(static_cast<float>(s.dmin));
}

}  // namespace detail

NIBBLE_INLINE bool encode_q4_k(const float* x, blocks::Q4_K& block) {
  block = {};
  const float most = detail::most_magnitude(x, 256);
  if (most < detail::kMinF16 / 2) return true;
  if (most > 65504.0f * 63 * 15) return false;
  detail::Group fits[8];
  float step = 0, min = 0;
  for (std::size_t g = 0; g < 8; ++g) {
    fits[g] = detail::fit_q4_group(x + 32 * g);
    step = std::max(step, fits[g].step);
    min = std::max(min, fits[g].min);
  }
  detail::Q4State best;
  best.d = detail::stored_step(step / 63);
  best.dmin = detail::stored_step(min / 63);
  if (!is_finite(static_cast<float>(best.d)) || !is_finite(static_cast<float>(best.dmin))) return false;
  detail::choose_q4(x, fits, best);
  for (int k = 0; k < detail::kRepairs; ++k) {
    detail::Q4State next = best;
    if (!detail::solve_q4_steps(x, next)) break;
    detail::choose_q4(x, fits, next);
    if (!(next.error < best.error)) break;
    best = next;
  }
  block.d = best.d;
  block.dmin = best.dmin;
  block.scales.set(best.scales, best.mins);
  for (std::size_t i = 0; i < 256; ++i)
    block.codes[i / 64 * 32 + i % 32] |=
        static_cast<std::uint8_t>(static_cast<unsigned>(best.codes[i]) << (i / 32 % 2 * 4));
  return true;
}

namespace detail {

inline constexpr float kLow6 = -32, kHigh6 = 31;

/// The step of 16 values: candidates around the one that puts the extreme value at either end of the codes.
inline float fit_q6_group(const float* x) {
  constexpr std::size_t n = 16;
  float extreme = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (magnitude(x[i]) > magnitude(extreme)) extreme = x[i];
  if (magnitude(extreme) < kMinF16 / 2) return 0;
  const RoundedProduct<float> times;
  float codes[n], best = 0, least = HUGE_VALF;
  const auto try_step = [&](float step) {
    assign(x, n, step, 0, kLow6, kHigh6, codes);
    float l2[kLanes] = {}, xl[kLanes] = {};
    for (std::size_t i = 0; i < n; i += kLanes)
      for (std::size_t j = 0; j < kLanes; ++j) {
        l2[j] += times(codes[i + j], codes[i + j]);
        xl[j] += times(x[i + j], codes[i + j]);
      }
    if (total(l2) <= 0) return;
    const float solved = total(xl) / total(l2), error = assign(x, n, solved, 0, kLow6, kHigh6, codes);
    if (error < least) least = error, best = solved;
  };
  for (int k = -4; k <= 4; ++k) {
    try_step(extreme / (kLow6 - times(0.2f, static_cast<float>(k))));
    try_step(extreme / (kHigh6 + times(0.2f, static_cast<float>(k))));
  }
  return best;
}

struct Q6State {
  f16 d;
  std::int8_t scales[16];
  float codes[256];
  float error = 0;
};

inline void choose_q6(const float* x, const float* steps, Q6State& s) {
  const auto d = static_cast<float>(s.d);
  s.error = 0;
  for (std::size_t g = 0; g < 16; ++g) {
    const float ratio = std::clamp(steps[g] / d, -128.0f, 127.0f);
    const int middle = round_half_even(ratio);
    float codes[16], least = HUGE_VALF;
    for (int scale = std::max(middle - 1, -128); scale <= std::min(middle + 1, 127); ++scale) {
      const float error = assign(x + 16 * g, 16, d * static_cast<float>(scale), 0, kLow6, kHigh6, codes);
      if (error >= least) continue;
      least = error;
      s.scales[g] = static_cast<std::int8_t>(scale);
      std::copy_n(codes, 16, s.codes + 16 * g);
    }
    s.error += least;
  }
}

inline bool solve_q6_step(const float* x, Q6State& s) {
  const RoundedProduct<double> times;
  double aa = 0, ax = 0;
  for (std::size_t i = 0; i < 256; ++i) {
    const double a = static_cast<double>(s.scales[i / 16]) * static_cast<double>(s.codes[i]);
    aa += times(a, a);
    ax += times(a, static_cast<double>(x[i]));
  }
  if (!(aa > 0) || ax == 0) return false;
  s.d = stored_step(static_cast<float>(ax / aa));
  return is_finite(static_cast<float>(s.d));
}

}  // namespace detail

NIBBLE_INLINE bool encode_q6_k(const float* x, blocks::Q6_K& block) {
  block = {};
  const float most = detail::most_magnitude(x, 256);
  if (most < detail::kMinF16 / 2) return true;
  if (most > 65504.0f * 127 * 31) return false;
  float steps[16], largest = 0;
  for (std::size_t g = 0; g < 16; ++g) {
    steps[g] = detail::fit_q6_group(x + 16 * g);
    if (magnitude(steps[g]) > magnitude(largest)) largest = steps[g];
  }
  detail::Q6State best;
  best.d = detail::stored_step(largest / -128);
  if (!is_finite(static_cast<float>(best.d))) return false;
  detail::choose_q6(x, steps, best);
  for (int k = 0; k < detail::kRepairs; ++k) {
    detail::Q6State next = best;
    if (!detail::solve_q6_step(x, next)) break;
    detail::choose_q6(x, steps, next);
    if (!(next.error < best.error)) break;
    best = next;
  }
  std::uint8_t codes[256];
  for (std::size_t i = 0; i < 256; ++i) codes[i] = static_cast<std::uint8_t>(best.codes[i] + 32);
  block.set_codes(codes);
  std::copy_n(best.scales, 16, block.scales);
  block.d = best.d;
  return true;
}

}  // namespace nibble::inline NIBBLE_ABI
