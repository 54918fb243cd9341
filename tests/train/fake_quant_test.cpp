// Fake quantization: what is trained is what is saved, its slopes are the formulas', and where ŵ is a smooth function
// of a parameter they are its differences.
#include "nibble/train/fake_quant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "nibble/backend/backend.h"
#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::train {
namespace {

using testing_support::expect_error;
using testing_support::normal;
using Floats = std::vector<float>;

constexpr const char* kSpecs[] = {
    "int2-g32-asym",    "int2-g32-sym",       "int3-g7-asym",          "int4-g128-sym-f32", "int8-channel-sym",
    "int2-g16-asymraw", "int4-g32-asym-bf16", "int3-channel-asym-f32", "int4-g16-sym-full", "int4-g16-sym-restricted"};
constexpr std::size_t kRows = 11, kCols = 100;  // no whole number of groups of 32, 16 or 7

MatrixView<const float> matrix(const Floats& x) { return {x.data(), kRows, kCols}; }
MatrixView<float> matrix(Floats& x) { return {x.data(), kRows, kCols}; }

Floats decoded(const QuantizedMatrix& q) {
  Floats out(q.rows * q.cols);
  default_backend().dequantize(q, 0, {out.data(), q.rows, q.cols}, serial_executor());
  return out;
}

/// As after some steps of training: weights outside their grids, scales that no f16 is, zero points between codes.
FakeQuant trained(const std::string& spec) {
  FakeQuant out(QuantSpec::parse(spec), matrix(normal(kRows * kCols, 1)), GridStart::range, "w");
  const Floats by = normal(out.weights.size(), 2, 0.4f), scales = normal(out.scales.size(), 3, 0.1f),
               zeros = normal(out.zero_points.size(), 4, 0.6f);
  for (std::size_t i = 0; i < by.size(); ++i) out.weights[i] += by[i];
  for (std::size_t g = 0; g < scales.size(); ++g) out.scales[g] *= 1 + scales[g];
  for (std::size_t g = 0; g < zeros.size(); ++g) out.zero_points[g] += zeros[g];
  return out;
}

TEST(FakeQuant, WhatIsTrainedIsWhatIsSaved) {
  for (const char* spec : kSpecs) {
    SCOPED_TRACE(spec);
    const FakeQuant q = trained(spec);
    Floats values(kRows * kCols);
    q.values(matrix(values));
    const QuantizedMatrix saved = q.quantized();
    saved.validate("w");
    EXPECT_EQ(saved.spec, QuantSpec::parse(spec));
    EXPECT_EQ(values, decoded(saved));
  }
}

TEST(FakeQuant, BeginsAsTheLibraryQuantizes) {
  for (const char* spec : kSpecs) {
    SCOPED_TRACE(spec);
    const Floats weights = normal(kRows * kCols, 5);
    const FakeQuant q(QuantSpec::parse(spec), matrix(weights), GridStart::range, "w");
    EXPECT_EQ(q.weights, weights);
    EXPECT_EQ(decoded(q.quantized()),
              decoded(default_backend().quantize(FloatMatrix(matrix(weights)), QuantSpec::parse(spec), "w",
                                                 serial_executor())));
  }
}

/// The grid 0.5·{−1, 0, 1, 2}.
constexpr AffineRule kRule{.bits = 2, .symmetric = false};
constexpr AffineParams kGrid{0.5f, 1};

TEST(FakeQuant, SlopesAreTheFormulas) {
  const auto slopes = [](float w) { return fake_quant_slopes(w, kGrid, kRule); };
  EXPECT_EQ(slopes(0.6f), (FakeQuantSlopes{1, 1 - 0.6f / 0.5f, 0}));
  EXPECT_EQ(slopes(-0.1f), (FakeQuantSlopes{1, 0.1f / 0.5f, 0}));
  EXPECT_EQ(slopes(1.2f), (FakeQuantSlopes{1, 2 - 1.2f / 0.5f, 0}));  // beyond the last code, and rounds to it
  EXPECT_EQ(slopes(1.3f), (FakeQuantSlopes{0, 2, -0.5f}));
  EXPECT_EQ(slopes(-0.8f), (FakeQuantSlopes{0, -1, -0.5f}));
  static_assert(fake_quantize(0.6f, kGrid, kRule) == 0.5f && fake_quantize(9, kGrid, kRule) == 1);
  static_assert(fake_quant_slopes(-9, kGrid, kRule) == FakeQuantSlopes{0, -1, -0.5f});
}

/// Outside, ŵ = code·s is smooth in s, and linear in z, of which a whole step is taken.
TEST(FakeQuant, SlopesOutsideAreDifferences) {
  for (const float w : {-3.0f, -0.9f, 1.7f, 40.0f}) {
    const FakeQuantSlopes slopes = fake_quant_slopes(w, kGrid, kRule);
    constexpr float kStep = 0x1p-6f;
    const float wider = fake_quantize(w, {0.5f + kStep, 1}, kRule),
                narrower = fake_quantize(w, {0.5f - kStep, 1}, kRule);
    EXPECT_EQ((wider - narrower) / (2 * kStep), slopes.scale) << w;
    EXPECT_EQ(fake_quantize(w + kStep, kGrid, kRule) - fake_quantize(w - kStep, kGrid, kRule), slopes.weight) << w;
    EXPECT_EQ((fake_quantize(w, {0.5f, 2}, kRule) - fake_quantize(w, {0.5f, 0}, kRule)) / 2, slopes.zero_point) << w;
  }
}

/// Inside, the straight-through slopes are those of ŵ with the rounding error held: w + s·(q − t), q − t a constant.
TEST(FakeQuant, SlopesInsideAreOfTheRoundingAsAConstant) {
  for (const float w : {-0.7f, -0.3f, 0.0f, 0.3f, 0.95f}) {
    const FakeQuantSlopes slopes = fake_quant_slopes(w, kGrid, kRule);
    EXPECT_FLOAT_EQ(w * slopes.weight + kGrid.scale * slopes.scale, fake_quantize(w, kGrid, kRule)) << w;
    EXPECT_EQ(slopes.zero_point, 0);
  }
}

TEST(FakeQuant, GradientsAreSumsOfTheSlopes) {
  for (const char* spec : kSpecs) {
    SCOPED_TRACE(spec);
    const FakeQuant q = trained(spec);
    const Floats given = normal(kRows * kCols, 6);
    Floats weights(given.size(), 1), scales(q.scales.size(), 2), zeros(q.zero_points.size(), 3);
    q.add_gradients(matrix(given), {matrix(weights), scales, zeros, 0.5});
    std::vector<double> scale(scales.size()), zero(scales.size());
    const AffineRule rule = affine_rule(q.spec());
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t c = 0; c < kCols; ++c) {
        const std::size_t i = r * kCols + c, g = q.spec().grouping().of(r, c, kCols);
        const FakeQuantSlopes slopes = fake_quant_slopes(q.weights[i], q.grid(g), rule);
        EXPECT_EQ(weights[i], 1 + given[i] * slopes.weight);
        scale[g] += static_cast<double>(given[i]) * static_cast<double>(slopes.scale);
        zero[g] += static_cast<double>(given[i]) * static_cast<double>(slopes.zero_point);
      }
    for (std::size_t g = 0; g < scales.size(); ++g) EXPECT_NEAR(scales[g], 2 + 0.5 * scale[g], 1e-4);
    for (std::size_t g = 0; g < zeros.size(); ++g) EXPECT_NEAR(zeros[g], 3 + zero[g], 1e-4);
  }
}

TEST(FakeQuant, BeginsWithTheCodesOfAMatrix) {
  for (const char* spec : kSpecs) {
    SCOPED_TRACE(spec);
    const QuantizedMatrix from = trained(spec).quantized();
    const Floats weights = normal(kRows * kCols, 7);
    const FakeQuant q(from, matrix(weights), "w");
    EXPECT_EQ(decoded(q.quantized()), decoded(from));
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t c = 0; c < kCols; ++c) {
        const std::size_t i = r * kCols + c;
        // Moved towards its cell, and no further than 0.01 of a step into it.
        const float scale = from.scale(from.group_of(r, c)), away = std::abs(q.weights[i] - from.value(r, c));
        if (q.weights[i] != weights[i]) {
          EXPECT_NEAR(away, 0.49f * scale, 1e-3f * scale) << r << " " << c;
        }
      }
  }
}

TEST(FakeQuant, TheStartOfLeastErrorHasLessThanTheRange) {
  const Floats weights = normal(kRows * kCols, 8);
  const auto error = [&](GridStart start) {
    const FakeQuant q(QuantSpec::parse("int2-g32-asym"), matrix(weights), start, "w");
    Floats values(weights.size());
    q.values(matrix(values));
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += std::pow(values[i] - weights[i], 2);
    return sum;
  };
  EXPECT_LT(error(GridStart::error), 0.8 * error(GridStart::range));
}

TEST(FakeQuant, TheStartByTheMeanIsLsqs) {
  const Floats weights = normal(kRows * kCols, 9);
  const FakeQuant q(QuantSpec::parse("int3-channel-asym-f32"), matrix(weights), GridStart::mean, "w");
  for (std::size_t r = 0; r < kRows; ++r) {
    double sum = 0;
    for (const float w : matrix(weights).row(r)) sum += std::abs(static_cast<double>(w));
    EXPECT_NEAR(q.scales[r], 2 * sum / kCols / std::sqrt(3.0), 1e-6);
    EXPECT_EQ(q.zero_points[r], 4);
  }
  EXPECT_DOUBLE_EQ(scale_gradient_factor(32, 2), 1 / std::sqrt(32.0));
  EXPECT_DOUBLE_EQ(scale_gradient_factor(128, 4), 1 / std::sqrt(128.0 * 7));
}

/// Whatever an optimizer makes of them, scales and zero points are ones that the library can store.
TEST(FakeQuant, GridsAreAlwaysOnesThatCanBeStored) {
  const AffineRule rule{.bits = 2, .symmetric = false, .scale_type = ScaleType::f16};
  for (const float scale : {-1.0f, 0.0f, 1e-30f}) EXPECT_EQ(stored_grid(rule, scale, 0).scale, 0x1p-24f);
  EXPECT_EQ(stored_grid(rule, 1, -7).zero_point, 0);
  EXPECT_EQ(stored_grid(rule, 1, 7).zero_point, 3);
  EXPECT_EQ(stored_grid(rule, 1, 1.4f).zero_point, 1);
}

TEST(FakeQuant, ThreadsChangeNoBit) {
  testing_support::BackwardsExecutor three(3);
  const FakeQuant q = trained("int2-g32-asym");
  const Floats given = normal(kRows * kCols, 10);
  const auto run = [&](Executor& executor) {
    Floats values(given.size()), weights(given.size()), scales(q.scales.size()), zeros(q.scales.size());
    q.values(matrix(values), executor);
    q.add_gradients(matrix(given), {matrix(weights), scales, zeros}, executor);
    for (const Floats* more : {&weights, &scales, &zeros}) values.insert(values.end(), more->begin(), more->end());
    return values;
  };
  EXPECT_EQ(run(serial_executor()), run(three));
}

TEST(FakeQuant, RefusesWhatCannotBeTrained) {
  Floats weights = normal(kRows * kCols, 11);
  const auto make = [&](const char* spec) {
    return FakeQuant(QuantSpec::parse(spec), matrix(weights), GridStart::range, "layer");
  };
  for (const char* spec : {"nf4", "llm-int8", "int8-tensor-sym"})
    expect_error(ErrorCode::unsupported, "'layer': ", [&] { make(spec); });
  FakeQuant q = make("int2-g32-asym");
  Floats small(5);
  expect_error(ErrorCode::shape_mismatch, "values of 'layer'", [&] { q.values({small.data(), 1, 5}); });
  expect_error(ErrorCode::shape_mismatch, "room for 5 groups",
               [&] { q.add_gradients(matrix(weights), {.scales = small}); });
  q.scales[3] = 1e9f;
  expect_error(ErrorCode::non_finite, "'layer', group 3", [&] { (void)q.quantized(); });
  q = make("int2-g32-asym");
  q.weights[kCols + 2] = NAN;
  expect_error(ErrorCode::non_finite, "'layer', row 1, column 2, is nan", [&] { (void)q.quantized(); });
  weights[7] = INFINITY;
  expect_error(ErrorCode::non_finite, "row 0, column 7", [&] { make("int2-g32-asym"); });
}

}  // namespace
}  // namespace nibble::train
