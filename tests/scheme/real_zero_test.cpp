#include "nibble/scheme/real_zero.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "nibble/quantize/rows.h"
#include "nibble/quantize/typed.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

bool same(const Buffer& a, const Buffer& b) {
  return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data());
}

static_assert(RealZero<2>::fit(Range{1, 2.5f}) == RealZeroParams{0.5f, -2});
static_assert(RealZero<2>::encode(1.5f, {0.5f, -2}) == 1);
static_assert(RealZero<2>::encode(1.75f, {0.5f, -2}) == 2);  // of a tie, the even code
static_assert(RealZero<2>::encode(-9, {0.5f, -2}) == 0 && RealZero<2>::encode(9, {0.5f, -2}) == 3);
static_assert(RealZero<2>::decode(3, {0.5f, -2}) == 2.5f);
static_assert(RealZero<4>::decode(7, {2, 6.25f}) == 1.5f);
static_assert(stored_zero(7.3f, ScaleType::f16) == static_cast<float>(f16(7.3f)));

TEST(RealZero, BothEndsOfARangeAreCodes) {
  for (const Range r : {Range{-1, 3}, Range{0.25f, 0.5f}, Range{-7, -6.5f}}) {
    const auto p = fit_real_zero(r, 4, ScaleType::f32);
    EXPECT_NEAR(real_zero_decode(0, p), r.min, 1e-6f * r.absmax());
    EXPECT_NEAR(real_zero_decode(15, p), r.max, 1e-6f * r.absmax());
  }
}

TEST(RealZero, NoValueInsideIsFurtherThanHalfAStepAndWhatTheTypesLose) {
  for (const ScaleType type : {ScaleType::f32, ScaleType::f16, ScaleType::bf16})
    for (const float shift : {0.0f, 0.5f, -3.0f, 40.0f}) {
      auto w = normal(64, 3);
      for (float& x : w) x += shift;
      const Range r = range_of(w);
      const auto p = fit_real_zero(r, 4, type);
      // Storing moves the scale and the zero point by half a unit in the last of 24, 11 or 8 bits.
      const float last = type == ScaleType::f32 ? 0x1p-24f : type == ScaleType::f16 ? 0x1p-11f : 0x1p-8f;
      const float most = 0.5f * p.scale + (15 + 2 * std::abs(p.zero)) * last * p.scale * 1.01f;
      for (const float x : w) {
        const std::uint8_t code = real_zero_encode(x, p, 15);
        ASSERT_LE(code, 15);
        ASSERT_LE(std::abs(real_zero_decode(code, p) - x), most) << x << " of " << name_of(type);
      }
    }
}

TEST(RealZero, ARangeFarFromZeroKeepsAZeroPointThatItsTypeCanTell) {
  const auto p = fit_real_zero({1000, 1000.5f}, 4, ScaleType::f16);
  EXPECT_LE(std::abs(p.zero), 0x1p10f);
  EXPECT_NEAR(real_zero_decode(real_zero_encode(1000, p, 15), p), 1000, p.scale);
  EXPECT_TRUE(std::isinf(fit_real_zero({0, 1e38f}, 4, ScaleType::f32).scale));
  const auto zeros = fit_real_zero({0, 0}, 4, ScaleType::f16);
  EXPECT_EQ(real_zero_decode(real_zero_encode(0, zeros, 15), zeros), 0);
}

TEST(RealZero, MatricesAreWhatTheSchemeMakesOfTheirGroups) {
  constexpr std::size_t rows = 5, cols = 100;
  auto w = normal(rows * cols, 7);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] += static_cast<float>(i % 7);
  for (const char* text : {"int4-g32-asymreal", "int3-g17-asymreal-f32", "int8-channel-asymreal",
                           "int2-b40-asymreal-bf16", "int5-tensor-asymreal"}) {
    const auto spec = QuantSpec::parse(text);
    EXPECT_EQ(spec.to_string(), text);
    EXPECT_EQ(QuantSpec::parse(spec.to_string()), spec);
    const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), spec);
    q.validate("w");
    for (std::size_t g = 0; g < q.group_count(); ++g) {
      std::vector<float> group;
      spec.grouping().for_each_piece(g, rows, cols, [&](std::size_t r, std::size_t begin, std::size_t end) {
        group.insert(group.end(), w.begin() + static_cast<std::ptrdiff_t>(r * cols + begin),
                     w.begin() + static_cast<std::ptrdiff_t>(r * cols + end));
      });
      const auto p = fit_real_zero(range_of(group), spec.bits, spec.scale_type);
      ASSERT_EQ(q.scale(g), p.scale) << text;
      ASSERT_EQ(q.zero(g), p.zero) << text;
    }
    std::vector<float> decoded(w.size());
    for (const Backend* b : testing_support::available()) {
      b->dequantize(q, 0, {decoded.data(), rows, cols}, serial_executor());
      for (std::size_t i = 0; i < w.size(); ++i) {
        const std::size_t r = i / cols, c = i % cols, g = q.group_of(r, c);
        const RealZeroParams p{q.scale(g), q.zero(g)};
        ASSERT_EQ(q.code(r, c), real_zero_encode(w[i], p, (1 << spec.bits) - 1)) << text;
        ASSERT_EQ(decoded[i], real_zero_decode(q.code(r, c), p)) << text << " by " << b->name();
        ASSERT_EQ(decoded[i], q.value(r, c));
      }
    }
  }
}

TEST(RealZero, PackedMatricesAreUnpackedAsTheyWere) {
  const auto w = normal(70 * 128, 9);
  for (const char* text : {"int4-g32-asymreal", "int2-g64-asymreal-f32", "int3-g32-asymreal", "int5-g64-asymreal-bf16",
                           "int7-g32-asymreal"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), 70, 128), text);
    for (const Backend* b : testing_support::available()) {
      const auto back = b->unpack(*b->pack(q));
      EXPECT_EQ(back.spec, q.spec);
      EXPECT_TRUE(same(back.codes, q.codes)) << text;
      EXPECT_TRUE(same(back.scales, q.scales)) << text;
      EXPECT_TRUE(same(back.zero_points, q.zero_points)) << text;
    }
  }
}

TEST(RealZero, EightBitActivationsThatAreIntegersLoseNothing) {
  constexpr std::size_t rows = 70, cols = 160, tokens = 5;
  const auto w = normal(rows * cols, 11), noise = normal(tokens * cols, 12, 40);
  std::vector<float> x;
  for (const float v : noise) x.push_back(std::clamp(std::round(v), -127.0f, 127.0f));
  for (std::size_t t = 0; t < tokens; ++t) x[t * cols + t] = 127;  // so that a token's scale is 1
  for (const char* text :
       {"int4-g32-asymreal", "int2-g32-asymreal", "int3-g32-asymreal-f32", "int5-channel-asymreal"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
    std::vector<float> first;
    for (const Backend* b : testing_support::available()) {
      const auto packed = b->pack(q);
      ASSERT_TRUE(b->has_int8_matmul(*packed)) << text;
      std::vector<float> y(tokens * rows);
      b->matmul_int8({x.data(), tokens, cols}, *packed, {y.data(), tokens, rows}, default_executor());
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < rows; ++r) {
          double exact = 0, size = 0;
          for (std::size_t c = 0; c < cols; ++c) {
            const double product = static_cast<double>(x[t * cols + c]) * static_cast<double>(q.value(r, c));
            exact += product;
            size += std::abs(product);
          }
          ASSERT_NEAR(y[t * rows + r], exact, 4e-6 * size) << text << " on " << b->name();
        }
      if (first.empty()) first = y;
      EXPECT_EQ(y, first) << text << " on " << b->name();
    }
  }
}

TEST(RealZero, RowsByHeadersAloneAreTheSame) {
  const auto w = normal(3 * 64, 5);
  const Grouping groups{Granularity::group, 32};
  std::vector<std::uint8_t> codes(3 * packed_bytes(64, 4));
  std::vector<RealZeroParams> params(groups.count(3, 64));
  ASSERT_TRUE(quantize_rows<RealZero<4>>(MatrixView<const float>(w.data(), 3, 64), groups, codes, params));
  const auto q = quantize(MatrixView<const float>(w.data(), 3, 64), "int4-g32-asymreal-f32");
  EXPECT_TRUE(std::equal(codes.begin(), codes.end(), q.codes.as<std::uint8_t>()));
  EXPECT_EQ(quantize<RealZero<4>>(MatrixView<const float>(w.data(), 3, 64), {.group_size = 32}).spec,
            QuantSpec::parse("int4-g32-asymreal"));
  for (std::size_t g = 0; g < params.size(); ++g) EXPECT_EQ(params[g], (RealZeroParams{q.scale(g), q.zero(g)}));
}

TEST(RealZero, WhatCannotBeStoredIsRefused) {
  using testing_support::expect_error;
  expect_error(ErrorCode::invalid_argument, "neither symmetric", [] { (void)QuantSpec::parse("nf4-asymreal"); });
  expect_error(ErrorCode::invalid_argument, "only floats", [] { (void)QuantSpec::parse("int4-t32-asymreal"); });
  expect_error(ErrorCode::invalid_argument, "e8m0", [] { (void)QuantSpec::parse("int4-g32-asymreal-e8m0"); });
  auto q = quantize(MatrixView<const float>(normal(64, 1).data(), 1, 64), "int4-g32-asymreal");
  q.zero_points.writable<f16>()[1] = f16::from_bits(0x7e00);
  expect_error(ErrorCode::corrupt_file, "zero point 1 is not finite", [&] { q.validate("w"); });
}

}  // namespace
}  // namespace nibble
