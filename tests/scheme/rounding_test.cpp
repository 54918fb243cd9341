#include "nibble/scheme/rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace nibble {
namespace {

// The constant expression is another path than what runs.
static_assert(round_half_even(0.5f) == 0 && round_half_even(1.5f) == 2 && round_half_even(2.5f) == 2);
static_assert(round_half_even(-0.5f) == 0 && round_half_even(-1.5f) == -2 && round_half_even(-2.75f) == -3);
static_assert(magnitude(-3.5f) == 3.5f && is_finite(3.5f));

TEST(Rounding, IsToNearestTiesToEven) {
  for (int i = -9; i <= 9; ++i) {
    const float half = static_cast<float>(i) + 0.5f;
    EXPECT_EQ(round_half_even(half), static_cast<int>(std::nearbyint(half)));
    EXPECT_EQ(round_half_even(std::nextafter(half, 100.0f)), i + 1);
    EXPECT_EQ(round_half_even(std::nextafter(half, -100.0f)), i);
  }
  std::mt19937 random(1);
  std::uniform_real_distribution<float> any(-2e9f, 2e9f);
  for (int i = 0; i < 1000; ++i) {
    const float x = any(random);
    EXPECT_EQ(round_half_even(x), static_cast<std::int32_t>(std::nearbyint(x))) << x;
  }
}

TEST(Rounding, KnowsWhatIsFinite) {
  EXPECT_TRUE(is_finite(std::numeric_limits<float>::max()));
  EXPECT_TRUE(is_finite(std::numeric_limits<float>::denorm_min()));
  EXPECT_FALSE(is_finite(INFINITY));
  EXPECT_FALSE(is_finite(-INFINITY));
  EXPECT_FALSE(is_finite(NAN));
}

// A product of which the low bits count: fused, the sum would be −2^−24·2^−24, and rounded first it is 0.
TEST(Rounding, ARoundedProductIsNotFused) {
  volatile float a = 1 + 0x1p-12f, b = 1 - 0x1p-12f, one = 1;
  const float product = a * b;
  EXPECT_EQ(rounded(a * b) - one, product - one);
}

}  // namespace
}  // namespace nibble
