// The searches themselves, for blocks of five kinds: 32 values or a super-block, with a minimum or
// without, and 32 values and a power of two.
//
// A super-block goes this way: each group is fitted alone with real-valued parameters, these are rounded to the block's
// f16 steps and small integers, then repaired. Repairing looks, for the steps as stored, at the integers around each
// group's and takes those of least error with every level chosen anew; then moves the steps to the least-squares
// solution for the levels found, and looks again. The best state met is kept, so repairing never loses. A small block
// is the same with nothing but the f16 numbers to round.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "nibble/core/float_types.h"
#include "nibble/core/rounded_product.h"
#include "nibble/scheme/gguf_super_blocks.h"
#include "nibble/scheme/impl/gguf_fit.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI::fit {

/// What a block's codes stand for before its scales: levels of either kind.
template <class Block>
struct LevelsOf;
template <>
struct LevelsOf<blocks::Q4_0> : Integers<-8, 7> {};
template <>
struct LevelsOf<blocks::Q5_0> : Integers<-16, 15> {};
template <>
struct LevelsOf<blocks::Q8_0> : Integers<-127, 127> {
  static std::uint8_t code(float level) { return static_cast<std::uint8_t>(static_cast<int>(level) + 128); }
};
template <>
struct LevelsOf<blocks::IQ4_NL> : TableLevels {};
template <>
struct LevelsOf<blocks::MXFP4> : FloatLevels {};
template <>
struct LevelsOf<blocks::Q3_K> : Integers<-4, 3> {};
template <>
struct LevelsOf<blocks::Q6_K> : Integers<-32, 31> {};
template <>
struct LevelsOf<blocks::IQ4_XS> : TableLevels {};
template <>
struct LevelsOf<blocks::Q4_1> : Integers<0, 15> {};
template <>
struct LevelsOf<blocks::Q5_1> : Integers<0, 31> {};
template <>
struct LevelsOf<blocks::Q2_K> : Integers<0, 3> {};
template <>
struct LevelsOf<blocks::Q4_K> : Integers<0, 15> {};
template <>
struct LevelsOf<blocks::Q5_K> : Integers<0, 31> {};

/// The largest integer that a group's scale or minimum can be; of scales with a sign −kTopScale − 1 is the least.
template <class Block>
inline constexpr int kTopScale = 0;
template <>
inline constexpr int kTopScale<blocks::Q2_K> = 15;
template <>
inline constexpr int kTopScale<blocks::Q4_K> = 63;
template <>
inline constexpr int kTopScale<blocks::Q5_K> = 63;
template <>
inline constexpr int kTopScale<blocks::Q3_K> = 31;
template <>
inline constexpr int kTopScale<blocks::Q6_K> = 127;
template <>
inline constexpr int kTopScale<blocks::IQ4_XS> = 31;

inline constexpr int kRepairs = 2;
inline constexpr float kMaxF16 = 65504;

/// Values that f16 cannot tell from 0, values for which no step is large enough, and all that lies between.
enum class Extent : std::uint8_t { zero, some, too_large };
template <class Block>
Extent extent_of(const float* x) {
  const float most = most_magnitude(x, Block::size);
  if (most < kMinF16 / 2) return Extent::zero;
  constexpr float kSpan = std::max(LevelsOf<Block>::high, -LevelsOf<Block>::low);
  return most > kMaxF16 * std::max(kTopScale<Block>, 1) * kSpan ? Extent::too_large : Extent::some;
}

template <class Block>
void set_codes(const float* levels, Block& block) {
  std::uint8_t codes[Block::size];
  for (std::size_t i = 0; i < Block::size; ++i) codes[i] = LevelsOf<Block>::code(levels[i]);
  block.set_codes(codes);
}

// ---- 32 values and a step: Q4_0, Q5_0, Q8_0, IQ4_NL

template <class Block, class Weights>
bool fit_small_step(const float* x, Weights w, Block& block) {
  using Levels = LevelsOf<Block>;
  float levels[Block::size], tried[Block::size];
  f16 d = stored_step(fit_step<Levels, Block::size>(x, w));
  if (!is_finite(static_cast<float>(d))) return false;
  float least = assign<Levels>(x, w, Block::size, static_cast<float>(d), 0, levels);
  for (int k = 0; k < kRepairs; ++k) {
    const f16 next = stored_step(solve_step(x, w, levels, Block::size));
    if (next.bits == d.bits || !is_finite(static_cast<float>(next))) break;
    const float error = assign<Levels>(x, w, Block::size, static_cast<float>(next), 0, tried);
    if (!(error < least)) break;
    least = error;
    d = next;
    std::copy_n(tried, Block::size, levels);
  }
  block.d = d;
  set_codes(levels, block);
  return true;
}

// ---- 32 values and a power of two: MXFP4

/// The largest value decides ggml's exponent e, with which it becomes 4 to 8 and is cut to 6. One more keeps it whole;
/// one less serves the others, where they count more. 1 … 253 are tried: of 0 the step has no finite inverse, and with
/// more no float needs it.
template <class Block, class Weights>
bool fit_power(const float* x, Weights w, Block& block) {
  using Levels = LevelsOf<Block>;
  const float most = most_magnitude(x, Block::size);
  if (most == 0) return true;
  const int middle = std::ilogb(most) - 2 + 127;
  float levels[Block::size], tried[Block::size], least = 0;
  bool first = true;
  for (const int e : {middle, middle + 1, middle - 1}) {
    Block next;
    next.e = static_cast<std::uint8_t>(std::clamp(e, 1, 253));
    const float error = assign<Levels>(x, w, Block::size, next.scale(), 0, tried);
    if (!first && !(error < least)) continue;
    first = false;
    least = error;
    block.e = next.e;
    std::copy_n(tried, Block::size, levels);
  }
  set_codes(levels, block);
  return true;
}

// ---- 32 values, a step and a minimum: Q4_1, Q5_1

template <class Block, class Weights>
bool fit_small_line(const float* x, Weights w, Block& block) {
  using Levels = LevelsOf<Block>;
  float levels[Block::size], tried[Block::size];
  f16 d, m;
  const auto store = [&](const Line& line) {
    d = stored_step(line.step);
    m = f16(-line.min);
    return is_finite(static_cast<float>(d)) && is_finite(static_cast<float>(m));
  };
  const auto look = [&](float* to) {
    return assign<Levels>(x, w, Block::size, static_cast<float>(d), -static_cast<float>(m), to);
  };
  if (!store(fit_line<static_cast<int>(Levels::high), Block::size>(x, w, Minimum::any))) return false;
  float least = look(levels);
  block.d = d;
  block.m = m;
  for (int k = 0; k < kRepairs; ++k) {
    Line line;
    if (!solve_line(x, w, levels, Block::size, Minimum::any, line) || !store(line)) break;
    const float error = look(tried);
    if (!(error < least)) break;
    least = error;
    block.d = d;
    block.m = m;
    std::copy_n(tried, Block::size, levels);
  }
  set_codes(levels, block);
  return true;
}

// ---- A super-block of lines: Q2_K, Q4_K, Q5_K

template <class Block>
struct LineState {
  static constexpr std::size_t groups = Block::size / Block::group;
  f16 d, dmin;
  std::uint8_t scales[groups], mins[groups];
  float levels[Block::size];
  float error = 0;
};

/// Each group's integers, from those around its real-valued fit, for the steps in `s`.
template <class Block, class Weights>
void choose(const float* x, Weights w, const Line* fits, LineState<Block>& s) {
  constexpr int top = kTopScale<Block>;
  constexpr std::size_t n = Block::group;
  const auto d = static_cast<float>(s.d), dmin = static_cast<float>(s.dmin);
  const auto nearest = [](float value, float step) {
    // NOLINTNEXTLINE(bugprone-incorrect-roundings): never negative
    return step > 0 ? static_cast<int>(std::min(value / step, static_cast<float>(top)) + 0.5f) : 0;
  };
  s.error = 0;
  for (std::size_t g = 0; g < s.groups; ++g) {
    const int scale0 = nearest(fits[g].step, d), min0 = nearest(fits[g].min, dmin);
    float levels[n], least = HUGE_VALF;
    for (int scale = std::max(scale0 - 1, 0); scale <= std::min(scale0 + 1, top); ++scale)
      for (int min = std::max(min0 - 1, 0); min <= std::min(min0 + 1, top); ++min) {
        const float error = assign<LevelsOf<Block>>(x + n * g, w + n * g, n, d * static_cast<float>(scale),
                                                    dmin * static_cast<float>(min), levels);
        if (error >= least) continue;
        least = error;
        s.scales[g] = static_cast<std::uint8_t>(scale);
        s.mins[g] = static_cast<std::uint8_t>(min);
        std::copy_n(levels, n, s.levels + n * g);
      }
    s.error += least;
  }
}

/// Both steps by least squares for the integers and levels of `s`: x ≈ d·(scale·level) − dmin·min.
template <class Block, class Weights>
bool solve_steps(const float* x, Weights w, LineState<Block>& s) {
  const RoundedProduct<double> times;
  double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (std::size_t i = 0; i < Block::size; ++i) {
    const std::size_t g = i / Block::group;
    const double a = static_cast<double>(s.scales[g]) * static_cast<double>(s.levels[i]), b = s.mins[g],
                 value = static_cast<double>(x[i]), weight = static_cast<double>(w[i]), wa = times(weight, a),
                 wb = times(weight, b);
    aa += times(wa, a);
    ab += times(wa, b);
    bb += times(wb, b);
    ax += times(wa, value);
    bx += times(wb, value);
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

/// Repairs what `choose` found for the first steps.
template <class Weights, class Fit, class State, class Solve>
void repair(const float* x, Weights w, const Fit* fits, State& best, Solve&& solve) {
  choose(x, w, fits, best);
  for (int k = 0; k < kRepairs; ++k) {
    State next = best;
    if (!solve(x, w, next)) break;
    choose(x, w, fits, next);
    if (!(next.error < best.error)) break;
    best = next;
  }
}

template <class Block, class Weights>
bool fit_super_line(const float* x, Weights w, Block& block) {
  constexpr std::size_t n = Block::group, groups = Block::size / n;
  Line fits[groups];
  float step = 0, min = 0;
  for (std::size_t g = 0; g < groups; ++g) {
    fits[g] = fit_line<static_cast<int>(LevelsOf<Block>::high), n>(x + n * g, w + n * g, Minimum::not_above_zero);
    step = std::max(step, fits[g].step);
    min = std::max(min, fits[g].min);
  }
  LineState<Block> best;
  best.d = stored_step(step / kTopScale<Block>);
  best.dmin = stored_step(min / kTopScale<Block>);
  if (!is_finite(static_cast<float>(best.d)) || !is_finite(static_cast<float>(best.dmin))) return false;
  repair(x, w, fits, best,
         [](const float* values, Weights weights, LineState<Block>& s) { return solve_steps(values, weights, s); });
  block.d = best.d;
  block.dmin = best.dmin;
  block.scales.set(best.scales, best.mins);
  set_codes(best.levels, block);
  return true;
}

// ---- A super-block of steps: Q3_K, Q6_K, IQ4_XS

template <class Block>
struct StepState {
  static constexpr std::size_t groups = Block::size / Block::group;
  f16 d;
  std::int8_t scales[groups];
  float levels[Block::size];
  float error = 0;
};

template <class Block, class Weights>
void choose(const float* x, Weights w, const float* fits, StepState<Block>& s) {
  constexpr int top = kTopScale<Block>, low = -top - 1;
  constexpr std::size_t n = Block::group;
  const auto d = static_cast<float>(s.d);
  s.error = 0;
  for (std::size_t g = 0; g < s.groups; ++g) {
    const int middle =
        d == 0 ? 0 : round_half_even(std::clamp(fits[g] / d, static_cast<float>(low), static_cast<float>(top)));
    float levels[n], least = HUGE_VALF;
    for (int scale = std::max(middle - 1, low); scale <= std::min(middle + 1, top); ++scale) {
      const float error = assign<LevelsOf<Block>>(x + n * g, w + n * g, n, d * static_cast<float>(scale), 0, levels);
      if (error >= least) continue;
      least = error;
      s.scales[g] = static_cast<std::int8_t>(scale);
      std::copy_n(levels, n, s.levels + n * g);
    }
    s.error += least;
  }
}

template <class Block, class Weights>
bool solve_steps(const float* x, Weights w, StepState<Block>& s) {
  const RoundedProduct<double> times;
  double aa = 0, ax = 0;
  for (std::size_t i = 0; i < Block::size; ++i) {
    const double a = static_cast<double>(s.scales[i / Block::group]) * static_cast<double>(s.levels[i]),
                 wa = times(static_cast<double>(w[i]), a);
    aa += times(wa, a);
    ax += times(wa, static_cast<double>(x[i]));
  }
  if (!(aa > 0) || ax == 0) return false;
  s.d = stored_step(static_cast<float>(ax / aa));
  return static_cast<float>(s.d) != 0 && is_finite(static_cast<float>(s.d));
}

template <class Block, class Weights>
bool fit_super_step(const float* x, Weights w, Block& block) {
  constexpr std::size_t n = Block::group, groups = Block::size / n;
  float fits[groups], largest = 0;
  for (std::size_t g = 0; g < groups; ++g) {
    fits[g] = fit_step<LevelsOf<Block>, n>(x + n * g, w + n * g);
    if (magnitude(fits[g]) > magnitude(largest)) largest = fits[g];
  }
  StepState<Block> best;
  best.d = stored_step(largest / (-kTopScale<Block> - 1));
  if (!is_finite(static_cast<float>(best.d))) return false;
  repair(x, w, fits, best,
         [](const float* values, Weights weights, StepState<Block>& s) { return solve_steps(values, weights, s); });
  block.d = best.d;
  block.set_group_scales(best.scales);
  set_codes(best.levels, block);
  return true;
}

/// A block whose scales are multiples of an f16. False if one is too large for it.
template <class Block, class Weights>
bool fit_f16(const float* x, Weights w, Block& block) {
  switch (extent_of<Block>(x)) {
    case Extent::too_large: return false;
    case Extent::zero: return true;
    case Extent::some: break;
  }
  if constexpr (requires { block.dmin; }) return fit_super_line(x, w, block);
  else if constexpr (requires { block.set_group_scales(nullptr); }) return fit_super_step(x, w, block);
  else if constexpr (requires { block.m; }) return fit_small_line(x, w, block);
  else return fit_small_step(x, w, block);
}

/// Encodes a block by the search of its kind. False if a scale or minimum is too large for f16.
template <class Block, class Weights>
bool encode(const float* x, Weights w, Block& block) {
  block = {};
  if constexpr (requires { block.e; }) return fit_power(x, w, block);
  else return fit_f16(x, w, block);
}

/// The types that encode() knows.
template <class Block>
concept Fitted = requires {
  LevelsOf<Block>::high;
};

}  // namespace nibble::inline NIBBLE_ABI::fit
