#include "nibble/backend/fixed_point.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "nibble/core/float_types.h"

namespace nibble {
namespace {

static_assert(FixedPoint24::factor(1.0f) == 0x1p22f);
static_assert(FixedPoint24::factor(1.9999999f) == 0x1p21f);  // 2^22 times it is above 0x7F7F7F
static_assert(FixedPoint24::inverse(0x1p22f) == 0x1p-22f);
static_assert(FixedPoint24::encode(-0.5f, 0x1p22f) == -(1 << 21));

/// Every finite magnitude is as likely as another, and the ends are there.
std::vector<float> magnitudes() {
  std::mt19937 random(1);
  std::uniform_int_distribution<std::uint32_t> bits(0, 0x7f7fffffu);
  std::vector<float> out{0.0f, 0x1p-149f, 0x1p-126f, 0x1.fffffep127f};
  for (int i = 0; i < 100000; ++i) out.push_back(std::bit_cast<float>(bits(random)));
  return out;
}

TEST(FixedPoint24, TakesTheLargestPowerOfTwoThatFits) {
  for (const float absmax : magnitudes()) {
    const float factor = FixedPoint24::factor(absmax);
    ASSERT_EQ(factor, std::ldexp(1.0f, std::ilogb(factor))) << absmax;
    ASSERT_LE(absmax * factor, static_cast<float>(FixedPoint24::most)) << absmax;
    if (factor < 0x1p126f) {
      ASSERT_GT(absmax * factor * 2, static_cast<float>(FixedPoint24::most)) << absmax;
    }
    ASSERT_EQ(factor * FixedPoint24::inverse(factor), 1.0f);
  }
}

TEST(FixedPoint24, IsOffByHalfAUnitAtMost) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> part(-1, 1);
  for (const float absmax : magnitudes()) {
    const float factor = FixedPoint24::factor(absmax), x = absmax * part(random);
    const double off = std::abs(FixedPoint24::encode(x, factor) / static_cast<double>(factor) - static_cast<double>(x));
    ASSERT_LE(off * static_cast<double>(factor), 0.5);
    if (factor < 0x1p126f) {
      ASSERT_LE(off, static_cast<double>(absmax) / FixedPoint24::most);
    }
  }
}

template <class T>
void expect_exact(float smallest) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> exponent(std::log2(smallest), 0);
  for (int i = 0; i < 100000; ++i) {
    const auto x = static_cast<float>(T(std::exp2(exponent(random))));
    for (const float absmax : {1.0f, 1.5f, 1.9999999f}) {
      const float factor = FixedPoint24::factor(absmax);
      ASSERT_EQ(static_cast<float>(FixedPoint24::encode(x, factor)) / factor, x);
    }
  }
}

TEST(FixedPoint24, HoldsHalfPrecisionValuesExactly) {
  expect_exact<bf16>(0x1p-14f);
  expect_exact<f16>(0x1p-11f);
}

}  // namespace
}  // namespace nibble
