#include "nibble/solver/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nibble/quantize/quantize.h"
#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::gptq {
namespace {

using namespace testing_support;

double rounding_loss(const std::vector<float>& w, const Hessian& h, const QuantSpec& spec) {
  const auto weights = view(w, h.channels());
  return layer_loss(weights, quantize(weights, spec), h);
}

TEST(Gptq, ADiagonalHessianGivesRoundToNearest) {
  const std::size_t rows = 37, cols = 301;
  const auto w = normal(rows * cols, 1);
  const Hessian h = diagonal_hessian(cols, 2);
  for (int bits = 2; bits <= 8; ++bits)
    for (std::int64_t group : {-1, 7, 64, 128, 270})
      for (const bool symmetric : {true, false})
        for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16})
          for (const bool ordered : {false, true}) {
            SCOPED_TRACE(std::to_string(bits) + " bits, group " + std::to_string(group) + ", symmetric " +
                         std::to_string(symmetric) + ", ordered " + std::to_string(ordered));
            const auto [q, report] = solve(view(w, cols), h,
                                           {.bits = bits,
                                            .group_size = group,
                                            .symmetric = symmetric,
                                            .scale_type = type,
                                            .act_order = ordered,
                                            .static_groups = ordered});
            expect_same(q, quantize(view(w, cols), q.spec));
            EXPECT_EQ(report.fallback, "");
          }
}

TEST(Gptq, LosesLessThanRoundingAndLessStillInTheOrderOfActivations) {
  const std::size_t rows = 64, cols = 256;
  double plain = 0, ordered = 0, aware = 0, fixed = 0, searched = 0, nearest = 0;
  for (unsigned seed = 0; seed < 8; ++seed) {
    const Hessian h = hessian_of(correlated(1024, cols, 10 * seed), cols);
    const auto w = normal(rows * cols, 500 + seed);
    const auto loss = [&](Options o) {
      o.bits = 3;
      o.group_size = 64;
      const auto [q, report] = solve(view(w, cols), h, o);
      // fp32 against an fp32 recomputation without λ, which is 1 % of the mean diagonal.
      EXPECT_LE(layer_loss(view(w, cols), q, h), report.loss * 1.001);
      return report.loss;
    };
    plain += loss({});
    ordered += loss({.act_order = true});
    aware += loss({.act_group_aware = true});
    fixed += loss({.act_order = true, .static_groups = true});
    searched += loss({.act_order = true, .grid_search = true});
    nearest += rounding_loss(w, h, QuantSpec::parse("int3-g64-sym"));
  }
  EXPECT_LT(plain, nearest / 2);
  EXPECT_LT(ordered, plain);
  EXPECT_LT(aware, plain);
  EXPECT_LT(fixed, plain);
  EXPECT_LT(searched, ordered);
}

TEST(Gptq, SinglePrecisionLosesNoMoreThanDouble) {
  const std::size_t rows = 50, cols = 700;
  const Hessian h = hessian_of(correlated(1400, cols, 1), cols);
  const auto w = normal(rows * cols, 2);
  for (Options o : {Options{.act_order = true}, Options{.group_size = 32, .symmetric = false}}) {
    const double single = solve(view(w, cols), h, o).report.loss;
    o.double_precision = true;
    EXPECT_NEAR(single, solve(view(w, cols), h, o).report.loss, 1e-3 * single);
  }
}

TEST(Gptq, TheOrderOfActivationsGroupsByRank) {
  const std::size_t cols = 100;
  const Hessian h = diagonal_hessian(cols, 3);
  const auto w = normal(2 * cols, 4);
  const auto q = solve(view(w, cols), h, {.group_size = 16, .act_order = true}).matrix;
  ASSERT_EQ(q.g_idx.size(), cols);
  for (std::size_t c = 0; c < cols; ++c) {
    std::int32_t rank = 0;
    for (std::size_t other = 0; other < cols; ++other) rank += h.sum(other, other) > h.sum(c, c);
    EXPECT_EQ(q.g_idx[c], rank / 16);
  }
  EXPECT_TRUE(solve(view(w, cols), h, {.group_size = 16, .act_group_aware = true}).matrix.g_idx.empty());
  EXPECT_TRUE(solve(view(w, cols), h, {.group_size = -1, .act_order = true}).matrix.g_idx.empty());
}

TEST(Gptq, DoesNotDependOnThreads) {
  const std::size_t rows = 333, cols = 520;
  const auto x = correlated(700, cols, 5), noise = normal(x.size(), 6, 0.1f);
  auto full = x;
  for (std::size_t i = 0; i < x.size(); ++i) full[i] += noise[i];
  Hessian h(cols, "x", true);
  h.add(view(x, cols), view(full, cols));
  const auto w = normal(rows * cols, 7);
  BackwardsExecutor few(3), many(64);
  for (Options o : {Options{.act_order = true}, Options{.symmetric = false, .act_group_aware = true},
                    Options{.alpha = 0.25}, Options{.group_size = 32, .double_precision = true}}) {
    o.executor = &serial_executor();
    const Result serial = solve(view(w, cols), h, o);
    for (Executor* executor : {static_cast<Executor*>(&few), static_cast<Executor*>(&many), &default_executor()}) {
      o.executor = executor;
      const Result other = solve(view(w, cols), h, o);
      expect_same(serial.matrix, other.matrix);
      EXPECT_EQ(serial.report.loss, other.report.loss);
      EXPECT_EQ(layer_loss(view(w, cols), other.matrix, h, *executor),
                layer_loss(view(w, cols), other.matrix, h, serial_executor()));
    }
  }
}

TEST(Gptq, TakesHalfPrecisionWeights) {
  const std::size_t rows = 10, cols = 90, stride = 96;
  const Hessian h = hessian_of(correlated(200, cols, 8), cols);
  const auto values = normal(rows * stride, 9);
  const std::vector<bf16> brain(values.begin(), values.end());
  std::vector<float> upcast;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) upcast.push_back(static_cast<float>(brain[r * stride + c]));
  expect_same(solve(MatrixView<const bf16>(brain.data(), rows, cols, stride), h).matrix,
              solve(view(upcast, cols), h).matrix);
}

TEST(Gptq, GridSearchLeavesLessErrorInEveryGroup) {
  // A diagonal Hessian: the search shows by itself. With outliers, clipping pays.
  const std::size_t rows = 40, cols = 256;
  auto w = normal(rows * cols, 10);
  for (std::size_t i = 0; i < w.size(); i += 97) w[i] *= 4;
  const Hessian h = diagonal_hessian(cols, 11);
  for (const bool symmetric : {true, false}) {
    Options o{.bits = 3, .group_size = 64, .symmetric = symmetric};
    const auto plain = solve(view(w, cols), h, o).matrix;
    o.grid_search = true;
    const auto searched = solve(view(w, cols), h, o).matrix;
    const auto error = [&](const QuantizedMatrix& q, std::size_t row, std::size_t group) {
      double sum = 0;
      for (std::size_t c = group * 64; c < (group + 1) * 64; ++c)
        sum += std::pow(std::abs(static_cast<double>(w[row * cols + c] - q.value(row, c))), 2.4);
      return sum;
    };
    double sum_plain = 0, sum_searched = 0;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t g = 0; g < 4; ++g) {
        // The first of the 80 ranges is the plain one; the power is good to 1e-6.
        EXPECT_LE(error(searched, r, g), error(plain, r, g) * (1 + 1e-5));
        sum_plain += error(plain, r, g);
        sum_searched += error(searched, r, g);
        // Independent brute force over the same 80 ranges.
        double least = std::numeric_limits<double>::infinity();
        Range range = range_of({w.data() + r * cols + g * 64, 64});
        for (int step = 0; step < 80; ++step) {
          const float p = 1 - static_cast<float>(step) / 100;
          const Range shrunk{range.min * p, range.max * p};
          const AffineParams grid = symmetric ? fit_symmetric(shrunk, 3, /*narrow_range=*/false, ScaleType::f16)
                                              : fit_asymmetric(shrunk, 3, true, ScaleType::f16);
          double sum = 0;
          for (std::size_t c = g * 64; c < (g + 1) * 64; ++c) {
            const float x = w[r * cols + c];
            sum += std::pow(std::abs(static_cast<double>(x - affine_decode(affine_encode(x, grid, 0, 7), grid))), 2.4);
          }
          least = std::min(least, sum);
        }
        EXPECT_NEAR(error(searched, r, g), least, 1e-5 * least);
      }
    EXPECT_LT(sum_searched, 0.95 * sum_plain);
  }
}

TEST(Gptq, DeadChannelsBecomeZeroAndDisturbNothing) {
  const std::size_t rows = 8, cols = 64;
  auto x = correlated(128, cols, 12);
  for (std::size_t t = 0; t < 128; ++t) x[t * cols + 9] = x[t * cols + 63] = 0;
  const Hessian h = hessian_of(x, cols);
  auto w = normal(rows * cols, 13);
  for (std::size_t r = 0; r < rows; ++r) w[r * cols + 9] = 1000;  // would ruin its group's scale
  for (const bool symmetric : {true, false}) {
    const auto [q, report] = solve(view(w, cols), h, {.group_size = 32, .symmetric = symmetric, .act_order = true});
    EXPECT_EQ(report.dead_channels, (std::vector<std::size_t>{9, 63}));
    for (std::size_t r = 0; r < rows; ++r) {
      EXPECT_EQ(q.value(r, 9), 0.0f);
      EXPECT_EQ(q.value(r, 63), 0.0f);
    }
    EXPECT_LT(report.loss, 1e4);
  }
}

/// A Hessian of rank `rank`.
Hessian deficient(std::size_t cols, std::size_t rank) { return hessian_of(normal(rank * cols, 14), cols); }

TEST(GptqRecovery, ADeficientHessianIsDampedUntilItServes) {
  const std::size_t rows = 16, cols = 128;
  const Hessian h = deficient(cols, 20);
  const auto w = normal(rows * cols, 15);
  for (const bool twice : {false, true}) {
    const auto [q, report] = solve(
        view(w, cols), h, {.group_size = 32, .damp_percent = 0, .damp_increment = 0.005, .double_precision = twice});
    EXPECT_EQ(report.fallback, "");
    EXPECT_FALSE(report.recovery.empty());
    EXPECT_GT(report.damp_percent, 0);
    EXPECT_LE(report.damp_percent, 0.01);
    EXPECT_LT(layer_loss(view(w, cols), q, h), rounding_loss(w, h, q.spec));
  }
  EXPECT_TRUE(solve(view(w, cols), h, {.group_size = 32}).report.recovery.empty());  // the usual damp is enough
}

TEST(GptqRecovery, AnIllConditionedHessianIsFactoredInDouble) {
  const std::size_t rows = 16, cols = 64;
  const Hessian h = paired_hessian(cols);
  const auto w = normal(rows * cols, 18);
  const auto [q, report] = solve(view(w, cols), h, {.group_size = 32, .damp_percent = 0});
  ASSERT_EQ(report.recovery.size(), 1u);
  EXPECT_NE(report.recovery[0].find("fp64"), std::string::npos);
  EXPECT_EQ(report.damp_percent, 0);
  EXPECT_EQ(report.fallback, "");
  // Undamped, the weights themselves grow without bound; the usual damp keeps them.
  EXPECT_TRUE(std::isfinite(report.loss));
  const auto usual = solve(view(w, cols), h, {.group_size = 32});
  EXPECT_TRUE(usual.report.recovery.empty());
  EXPECT_LT(usual.report.loss, rounding_loss(w, h, q.spec));
}

TEST(GptqRecovery, AnIndefiniteMatrixGetsADominantDiagonal) {
  const std::size_t cols = 32;
  const Hessian h = indefinite_hessian(cols);
  const auto w = normal(4 * cols, 19);
  const auto [q, report] = solve(view(w, cols), h, {.group_size = 32});
  EXPECT_EQ(report.fallback, "");
  ASSERT_FALSE(report.recovery.empty());
  EXPECT_NE(report.recovery.back().find("magnitudes"), std::string::npos);
  EXPECT_TRUE(std::isfinite(report.loss));
}

void expect_fallback(const Hessian& h, Options o, const std::string& why) {
  const auto w = normal(4 * h.channels(), 20);
  o.name = "experts.7.down_proj";
  const auto [q, report] = solve(view(w, h.channels()), h, o);
  expect_same(q, quantize(view(w, h.channels()), q.spec));
  EXPECT_NE(report.fallback.find("'experts.7.down_proj' was rounded to nearest"), std::string::npos) << report.fallback;
  EXPECT_NE(report.fallback.find(why), std::string::npos) << report.fallback;
}

TEST(GptqRecovery, WhatSaysNothingFallsBackToRoundingLoudly) {
  const std::size_t cols = 48;
  expect_fallback(Hessian(cols), {}, "no calibration tokens");
  Hessian zero(cols);
  zero.add(view(std::vector<float>(10 * cols), cols));
  expect_fallback(zero, {.act_order = true}, "all its inputs were zero");
  std::vector<double> sum(cols * cols);
  for (std::size_t i = 0; i < cols; ++i) sum[i * cols + i] = 1e308;
  expect_fallback(Hessian::from_sum({sum.data(), cols, cols}, 1), {}, "cannot be factored");
  const Hessian few = hessian_of(normal(49 * cols, 21), cols);
  expect_fallback(few, {.calibration_tokens = 10000}, "49 of 10000 calibration tokens, less than 0.5 %");
  const auto w = normal(4 * cols, 22);
  const auto report = solve(view(w, cols), few, {.calibration_tokens = 9800}).report;
  EXPECT_EQ(report.fallback, "");
  EXPECT_DOUBLE_EQ(report.coverage, 0.005);
  EXPECT_EQ(report.tokens, 49u);
}

TEST(Gptq, AsymmetricCalibrationMeetsTheFullPrecisionOutputs) {
  const std::size_t rows = 32, cols = 128, tokens = 512;
  double plain = 0, asymmetric = 0;
  for (unsigned seed = 0; seed < 4; ++seed) {
    const auto full = correlated(tokens, cols, 30 + 2 * seed);
    // What quantized layers before this one do: a loss of contrast, and noise.
    auto x = full;
    const auto noise = normal(x.size(), 60 + seed, 0.05f);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.9f * x[i] + noise[i];
    Hessian h(cols, "x", true);
    h.add(view(x, cols), view(full, cols));
    const auto w = normal(rows * cols, 70 + seed);
    const auto error = [&](double share) {
      const Doubles q = decoded(solve(view(w, cols), h, {.bits = 3, .group_size = 64, .alpha = share}).matrix);
      double sum = 0;
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < rows; ++r) {
          double y = 0;
          for (std::size_t c = 0; c < cols; ++c)
            y += static_cast<double>(w[r * cols + c] * full[t * cols + c]) -
                 q(index(r), index(c)) * static_cast<double>(x[t * cols + c]);
          sum += y * y;
        }
      return sum;
    };
    plain += error(0);
    asymmetric += error(0.25);
  }
  EXPECT_LT(asymmetric, plain);
}

TEST(Gptq, RefusesBadOptionsByNameAndValue) {
  const std::size_t cols = 16;
  const Hessian h = hessian_of(normal(40 * cols, 23), cols);
  const auto w = normal(3 * cols, 24);
  const auto refused = [&](const Options& o, const std::string& says) {
    expect_error(ErrorCode::invalid_argument, says, [&] { solve(view(w, cols), h, o); });
  };
  refused({.bits = 1}, "bits is 1");
  refused({.bits = 9, .name = "q_proj"}, "'q_proj': bits is 9");
  refused({.group_size = 0}, "group_size is 0");
  refused({.group_size = -2}, "group_size is -2");
  refused({.act_order = true, .act_group_aware = true}, "two orders");
  refused({.damp_percent = -0.1}, "damp_percent is -0.1");
  refused({.damp_percent = std::nan("")}, "damp_percent is nan");
  refused({.damp_increment = 0}, "damp_increment is 0");
  refused({.alpha = 0.25}, "full-precision activations");
  refused({.min_coverage = 2}, "min_coverage is 2");
  expect_error(ErrorCode::shape_mismatch, "16 channels", [&] { solve(view(w, 12), h); });
  expect_error(ErrorCode::invalid_argument, "empty", [&] { solve(MatrixView<const float>(w.data(), 0, cols), h); });
  expect_error(ErrorCode::unsupported, "I32", [&] { solve(FloatMatrix(w.data(), DType::i32, 3, cols, cols), h); });
  expect_error(ErrorCode::cancelled, "q_proj", [&] {
    solve(view(w, cols), h, {.name = "q_proj", .progress = [](double, std::string_view) { return false; }});
  });
}

TEST(Gptq, NamesTheWeightThatIsNotFinite) {
  const std::size_t rows = 300, cols = 40;
  const Hessian h = hessian_of(normal(80 * cols, 25), cols);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto w = normal(rows * cols, 26);
    w[211 * cols + 39] = w[250 * cols] = bad;
    expect_error(ErrorCode::non_finite, "'k_proj': row 211, column 39 is " + std::to_string(bad),
                 [&] { solve(view(w, cols), h, {.name = "k_proj"}); });
  }
  auto w = normal(rows * cols, 27);
  w[7 * cols + 1] = 3e6f;  // a step of 400,000 does not fit fp16
  expect_error(ErrorCode::non_finite, "row 7, group 0", [&] { solve(view(w, cols), h, {.group_size = 32}); });
  EXPECT_NO_THROW(solve(view(w, cols), h, {.group_size = 32, .scale_type = ScaleType::f32}));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::gptq
