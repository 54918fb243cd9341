// What the searches for GGUF's scales are made of: levels next to given scales, and scales of least squares for given
// levels, each value's squared error counting as often as its weight says. Sums are over eight lanes in a fixed order,
// and no product is contracted, so that blocks are the same bytes on every machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "nibble/core/float_types.h"
#include "nibble/core/rounded_product.h"
#include "nibble/scheme/gguf_small_blocks.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI::fit {

inline constexpr std::size_t kLanes = 8;    // sums side by side, so that the compiler can use vectors
inline constexpr float kMinF16 = 0x1p-24f;  // half of it is where values become 0 whatever the codes

/// Weights where every value counts once: multiplying by them costs nothing.
struct Ones {
  constexpr float operator[](std::size_t) const { return 1; }
  constexpr Ones operator+(std::size_t) const { return {}; }
};

/// The levels low … high, coded from 0 on.
template <int Low, int High>
struct Integers {
  static constexpr float low = Low, high = High;
  static constexpr float trial = 0.2f;  ///< How far apart the levels lie that a search tries for an extreme value.
  static float nearest(float t) {
    t = t > low ? t : low;
    t = t < high ? t : high;
    // NOLINTNEXTLINE(bugprone-incorrect-roundings): never negative
    return static_cast<float>(static_cast<int>(t - low + 0.5f)) + low;
  }
  static std::uint8_t code(float level) { return static_cast<std::uint8_t>(static_cast<int>(level) - Low); }
};

/// IQ4_NL's.
struct TableLevels {
  static constexpr float low = blocks::iq4_nl_table().front(), high = blocks::iq4_nl_table().back();
  static constexpr float trial = 3;
  static float nearest(float t) {
    constexpr auto table = blocks::iq4_nl_table();
    float level = low;
    for (std::size_t i = 1; i < table.size(); ++i) {
      const float below = table[i - 1], here = table[i];
      level += t > (below + here) / 2 ? here - below : 0.0f;
    }
    return level;
  }
  static std::uint8_t code(float level) {
    constexpr auto table = blocks::iq4_nl_table();
    std::uint8_t code = 0;
    while (static_cast<float>(table[code]) < level) ++code;
    return code;
  }
};

/// E2M1's, doubled: MXFP4's.
struct FloatLevels {
  static constexpr float low = -12, high = 12;
  static float nearest(float t) {
    constexpr auto table = blocks::doubled_e2m1_table();
    const float size = magnitude(t);
    float level = 0;
    for (std::size_t i = 1; i < table.size() / 2; ++i) {
      const float below = table[i - 1], here = table[i];
      level += size > (below + here) / 2 ? here - below : 0.0f;
    }
    return t < 0 ? -level : level;
  }
  static std::uint8_t code(float level) {
    constexpr auto table = blocks::doubled_e2m1_table();
    std::uint8_t code = 0;
    while (static_cast<float>(table[code]) < magnitude(level)) ++code;
    return level < 0 ? static_cast<std::uint8_t>(code + table.size() / 2) : code;
  }
};

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

/// Levels of n values for value = step·level − min, and their squared error. step 0 gives the level next to 0.
template <class Levels, class Weights>
float assign(const float* x, Weights w, std::size_t n, float step, float min, float* levels) {
  const float inverse = step != 0 ? 1 / step : 0;
  const RoundedProduct<float> times;
  float lanes[kLanes] = {};
  for (std::size_t i = 0; i < n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float level = Levels::nearest(times(x[i + j] + min, inverse));
      const float error = times(step, level) - min - x[i + j];
      levels[i + j] = level;
      lanes[j] += times(w[i + j], times(error, error));
    }
  return total(lanes);
}

/// A group's scale and minimum: value = step·level − min.
struct Line {
  float step = 0, min = 0;
};

/// Whether a group's minimum may be above 0, or is held there (the K types store it unsigned).
enum class Minimum : std::uint8_t { any, not_above_zero };

/// Least squares for given levels. False if the levels say nothing.
template <class Weights>
bool solve_line(const float* x, Weights w, const float* levels, std::size_t n, Minimum minimum, Line& line) {
  const RoundedProduct<float> times;
  float one[kLanes] = {}, l[kLanes] = {}, l2[kLanes] = {}, xl[kLanes] = {}, sum[kLanes] = {};
  for (std::size_t i = 0; i < n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float weight = w[i + j], level = times(weight, levels[i + j]), value = x[i + j];
      one[j] += weight;
      l[j] += level;
      l2[j] += times(level, levels[i + j]);
      xl[j] += times(value, level);
      sum[j] += times(weight, value);
    }
  const float s = total(one), sl = total(l), sl2 = total(l2), sxl = total(xl), sx = total(sum);
  const float determinant = times(s, sl2) - times(sl, sl);
  if (determinant <= 0) return false;
  line.step = (times(s, sxl) - times(sx, sl)) / determinant;
  line.min = (times(sl, sxl) - times(sl2, sx)) / determinant;
  if (minimum == Minimum::not_above_zero && line.min < 0) line = {sxl / sl2, 0};
  return line.step > 0;
}

/// The same without a minimum; 0 where the levels say nothing.
template <class Weights>
float solve_step(const float* x, Weights w, const float* levels, std::size_t n) {
  const RoundedProduct<float> times;
  float l2[kLanes] = {}, xl[kLanes] = {};
  for (std::size_t i = 0; i < n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float level = times(w[i + j], levels[i + j]);
      l2[j] += times(level, levels[i + j]);
      xl[j] += times(x[i + j], level);
    }
  return total(l2) > 0 ? total(xl) / total(l2) : 0;
}

/// The line of N values, its levels 0 … Top: those of ranges around theirs, each solved for the levels that it gives.
template <int Top, std::size_t N, class Weights>
Line fit_line(const float* x, Weights w, Minimum minimum) {
  using Levels = Integers<0, Top>;
  const float least_value = *std::min_element(x, x + N), high = *std::max_element(x, x + N);
  const float low = minimum == Minimum::any ? least_value : std::min(least_value, 0.0f);
  if (high - low < kMinF16 / 2) return {0, -low};
  float levels[N];
  Line best{(high - low) / Levels::high, -low};
  float least = assign<Levels>(x, w, N, best.step, best.min, levels);
  const auto try_levels = [&] {
    Line line;
    if (!solve_line(x, w, levels, N, minimum, line)) return false;
    const float error = assign<Levels>(x, w, N, line.step, line.min, levels);  // no more than that of those levels
    if (!(error < least)) return false;
    least = error;
    best = line;
    return true;
  };
  const RoundedProduct<float> times;
  for (int k = -10; k <= 10; ++k) {
    assign<Levels>(x, w, N, (high - low) / (Levels::high + times(0.1f, static_cast<float>(k))), -low, levels);
    (void)try_levels();
  }
  assign<Levels>(x, w, N, best.step, best.min, levels);
  for (int k = 0; k < 4 && try_levels(); ++k) {
  }
  return best;
}

/// The step of N values: those that put the extreme value near either end of the levels, each solved for the levels
/// that it gives. Where values have weights, the extreme one may be worth less than others: levels far beyond the end
/// are tried for it too.
template <class Levels, std::size_t N, class Weights>
float fit_step(const float* x, Weights w) {
  constexpr int kBeyond = std::is_same_v<Weights, Ones> ? 4 : 12;
  float extreme = 0;
  for (std::size_t i = 0; i < N; ++i)
    if (magnitude(x[i]) > magnitude(extreme)) extreme = x[i];
  if (magnitude(extreme) < kMinF16 / 2) return 0;
  const RoundedProduct<float> times;
  float levels[N], best = 0, least = HUGE_VALF;
  const auto try_step = [&](float step) {
    assign<Levels>(x, w, N, step, 0, levels);
    const float solved = solve_step(x, w, levels, N);
    if (solved == 0) return;
    const float error = assign<Levels>(x, w, N, solved, 0, levels);
    if (error < least) least = error, best = solved;
  };
  for (int k = -4; k <= kBeyond; ++k) {
    try_step(extreme / (Levels::low - times(Levels::trial, static_cast<float>(k))));
    try_step(extreme / (Levels::high + times(Levels::trial, static_cast<float>(k))));
  }
  return best;
}

}  // namespace nibble::inline NIBBLE_ABI::fit
