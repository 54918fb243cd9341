// Rounding to nearest within the limits that the importance of the columns says are best.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "nibble/quantize/quantize.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::expect_error;

constexpr std::size_t kRows = 24, kCols = 200;

std::vector<float> weights() {
  auto w = testing_support::normal(kRows * kCols, 11, 0.05f);
  for (std::size_t i = 0; i < w.size(); i += 41) w[i] *= 4;  // outliers
  return w;
}

std::vector<float> importance() {
  auto h = testing_support::normal(kCols, 12);
  for (float& v : h) v = std::exp(2 * v);
  return h;
}

MatrixView<const float> view(const std::vector<float>& x) { return {x.data(), kRows, kCols}; }

/// Σ importance·(decoded − w)²
double error_of(const QuantizedMatrix& q, const std::vector<float>& w, const std::vector<float>& counts) {
  std::vector<float> out(w.size());
  dequantize(q, {out.data(), kRows, kCols});
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i)
    sum += static_cast<double>(counts[i % kCols]) * std::pow(static_cast<double>(out[i] - w[i]), 2);
  return sum;
}

class EveryScheme : public testing::TestWithParam<const char*> {};

TEST_P(EveryScheme, LosesLessOfWhatCounts) {
  const auto w = weights(), h = importance();
  const QuantizedMatrix plain = quantize(view(w), GetParam()), by = quantize(view(w), GetParam(), {.importance = h});
  EXPECT_EQ(by.spec, plain.spec);
  EXPECT_EQ(by.storage_bytes(), plain.storage_bytes());
  EXPECT_LT(error_of(by, w, h), 0.95 * error_of(plain, w, h));
}

TEST_P(EveryScheme, IsTheSameForAnyThreadsAndBackend) {
  const auto w = weights(), h = importance();
  const QuantizedMatrix a = quantize(view(w), GetParam(), {.importance = h});
  for (const Backend* b : testing_support::available()) {
    const QuantizedMatrix other =
        quantize(view(w), GetParam(), {.backend = b, .executor = &serial_executor(), .importance = h});
    EXPECT_EQ(std::memcmp(a.codes.data(), other.codes.data(), a.codes.size()), 0) << b->name();
    EXPECT_EQ(std::memcmp(a.scales.data(), other.scales.data(), a.scales.size()), 0) << b->name();
  }
}

// 200 columns: the last group of 128 has 72, and blocks of 64 begin anywhere in a row.
INSTANTIATE_TEST_SUITE_P(All, EveryScheme,
                         testing::Values("int4-g128-sym", "int4-g32-sym", "int3-g64-asym", "int2-g32-asym",
                                         "int4-channel-asymraw", "int4-tensor-sym", "nf4", "nf4-dq", "fp4-b32"),
                         [](const auto& p) {
                           std::string name = p.param;
                           for (char& c : name)
                             if (c == '-') c = '_';
                           return name;
                         });

TEST(QuantizeByImportance, IsRoundingToNearestWhereNothingIsGained) {
  // Two levels, both at the ends of the range: no limit is better than the range itself.
  std::vector<float> w(kRows * kCols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = i % 3 == 0 ? 0.5f : -0.5f;
  const auto h = importance();
  const QuantizedMatrix plain = quantize(view(w), "nf4"), by = quantize(view(w), "nf4", {.importance = h});
  EXPECT_EQ(std::memcmp(plain.codes.data(), by.codes.data(), plain.codes.size()), 0);
  EXPECT_EQ(std::memcmp(plain.scales.data(), by.scales.data(), plain.scales.size()), 0);
}

TEST(QuantizeByImportance, RefusesWhatIsNoImportance) {
  const auto w = weights();
  auto h = importance();
  const auto by = [&](std::span<const float> values) {
    (void)quantize(view(w), "int4-g32-sym", {.name = "w", .importance = values});
  };
  expect_error(ErrorCode::shape_mismatch, "'w' has 200 columns; its importance is that of 199",
               [&] { by(std::span(h).first(199)); });
  h[7] = -1;
  expect_error(ErrorCode::non_finite, "the importance of column 7 is -1", [&] { by(h); });
  h[7] = std::numeric_limits<float>::quiet_NaN();
  expect_error(ErrorCode::non_finite, "the importance of column 7 is nan", [&] { by(h); });
  h[7] = 0;
  EXPECT_NO_THROW(by(h));
  EXPECT_NO_THROW(by(std::vector<float>(kCols, 0.0f))) << "nothing counts";
  auto bad = w;
  bad[kCols + 3] = std::numeric_limits<float>::infinity();
  expect_error(ErrorCode::non_finite, "row 1",
               [&] { (void)quantize(view(bad), "int4-g32-sym", {.name = "w", .importance = h}); });
}

}  // namespace
}  // namespace nibble
