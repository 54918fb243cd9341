#include "nibble/core/float_types.h"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstring>
#include <random>

namespace nibble {
namespace {

template <class Theirs>
Theirs from_bits(std::uint16_t bits) {
  return Eigen::numext::bit_cast<Theirs>(bits);
}

template <class Ours, class Theirs>
void check_every_value() {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto raw = static_cast<std::uint16_t>(bits);
    const auto ours = static_cast<float>(Ours::from_bits(raw));
    const auto theirs = static_cast<float>(from_bits<Theirs>(raw));
    if (std::isnan(theirs)) {
      ASSERT_TRUE(std::isnan(ours)) << bits;
      ASSERT_TRUE(std::isnan(static_cast<float>(Ours(ours)))) << bits;
      ASSERT_EQ(std::signbit(ours), std::signbit(theirs));
      continue;
    }
    ASSERT_EQ(std::bit_cast<std::uint32_t>(ours), std::bit_cast<std::uint32_t>(theirs)) << bits;
    ASSERT_EQ(Ours(ours).bits, raw);
  }
}

template <class Ours, class Theirs>
void check_rounding(float x) {
  const auto theirs = Eigen::numext::bit_cast<std::uint16_t>(Theirs(x));
  ASSERT_EQ(Ours(x).bits, theirs) << std::hexfloat << x;
}

/// Values around every representable one and every tie between two, and random bits.
template <class Ours, class Theirs>
void check_rounding_everywhere() {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto x = static_cast<float>(Ours::from_bits(static_cast<std::uint16_t>(bits)));
    const auto next = static_cast<float>(Ours::from_bits(static_cast<std::uint16_t>(bits + 1)));
    if (!std::isfinite(x) || !std::isfinite(next) || (bits & 0x7fff) == 0x7fff) continue;
    const float tie = x + (next - x) / 2;
    for (float v : {x, tie, std::nextafter(tie, -INFINITY), std::nextafter(tie, INFINITY)})
      check_rounding<Ours, Theirs>(v);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!std::isnan(x)) check_rounding<Ours, Theirs>(x);
  }
}

TEST(Float16, EveryValueAgreesWithEigen) { check_every_value<f16, Eigen::half>(); }
TEST(BFloat16, EveryValueAgreesWithEigen) { check_every_value<bf16, Eigen::bfloat16>(); }
TEST(Float16, RoundsToNearestEven) { check_rounding_everywhere<f16, Eigen::half>(); }
TEST(BFloat16, RoundsToNearestEven) { check_rounding_everywhere<bf16, Eigen::bfloat16>(); }

TEST(Float16, OverflowsWhereRoundingSays) {
  EXPECT_EQ(f16(65504.0f).bits, 0x7bff);
  EXPECT_EQ(f16(std::nextafter(65520.0f, 0.0f)).bits, 0x7bff);
  EXPECT_EQ(f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(f16(-0.0f).bits, 0x8000);
}

TEST(Float8, E4m3KnownValues) {
  EXPECT_EQ(static_cast<float>(f8_e4m3::from_bits(0x7e)), 448.0f);
  EXPECT_EQ(static_cast<float>(f8_e4m3::from_bits(0x01)), 0x1p-9f);
  EXPECT_EQ(static_cast<float>(f8_e4m3::from_bits(0x08)), 0x1p-6f);
  EXPECT_EQ(static_cast<float>(f8_e4m3::from_bits(0xb8)), -1.0f);
  EXPECT_TRUE(std::isnan(static_cast<float>(f8_e4m3::from_bits(0x7f))));
}

TEST(Float8, E5m2KnownValues) {
  EXPECT_EQ(static_cast<float>(f8_e5m2{0x7b}), 57344.0f);
  EXPECT_EQ(static_cast<float>(f8_e5m2{0x01}), 0x1p-16f);
  EXPECT_TRUE(std::isinf(static_cast<float>(f8_e5m2{0x7c})));
  EXPECT_TRUE(std::isnan(static_cast<float>(f8_e5m2{0x7d})));
}

static_assert(static_cast<float>(f16(1.0f / 3)) == 0.333251953125f);
static_assert(bf16(1.0f).bits == 0x3f80);

}  // namespace
}  // namespace nibble
