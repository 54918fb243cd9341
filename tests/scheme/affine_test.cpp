#include "nibble/scheme/affine.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

/// |x − decode(encode(x))| ≤ scale/2 where the codes reach, plus the rounding of the quotient and the product: the
/// quotient is at most 2^22 steps from the zero point, each rounding moves it by 2^-24 of that.
template <class S>
void check_group(const std::vector<float>& values) {
  const auto p = S::fit(values);
  ASSERT_GT(p.scale, 0.0f);
  const float low = S::decode(S::encode(-INFINITY, p), p), high = S::decode(S::encode(INFINITY, p), p);
  float previous_in = 0, previous_out = 0;
  bool first = true;
  std::vector<float> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  for (float x : sorted) {
    const std::uint8_t code = S::encode(x, p);
    ASSERT_LT(code, 1u << S::bits);
    const float back = S::decode(code, p);
    const double slack =
        4 * 0x1p-24 *
        (std::abs(static_cast<double>(x)) + std::abs(static_cast<double>(p.zero_point)) * static_cast<double>(p.scale));
    if (x >= low && x <= high)
      ASSERT_LE(std::abs(static_cast<double>(x) - static_cast<double>(back)),
                0.5 * static_cast<double>(p.scale) + slack)
          << x;
    ASSERT_EQ(S::encode(back, p), code) << "not idempotent at " << x;
    if (!first) {
      ASSERT_GE(back, previous_out) << "not monotone between " << previous_in << " and " << x;
    }
    previous_in = x;
    previous_out = back;
    first = false;
  }
}

template <class S>
void check_scheme() {
  for (unsigned seed = 0; seed < 20; ++seed) check_group<S>(normal(200, seed));
  check_group<S>(std::vector<float>(64, 0.0f));
  check_group<S>(std::vector<float>(64, 0.37f));
  check_group<S>(std::vector<float>(64, -2.5f));
  check_group<S>({0.125f});
  check_group<S>({-1e-30f});
  check_group<S>(testing_support::denormals(100, 3));
  check_group<S>({-8e37f, 8e37f, 1.0f});
}

template <int B>
void check_bits() {
  check_scheme<Symmetric<B, true>>();
  check_scheme<Symmetric<B, false>>();
  check_scheme<Asymmetric<B>>();
  check_scheme<Asymmetric<B, false>>();
}

TEST(Affine, HoldsItsPropertiesAtEveryWidth) {
  check_bits<2>();
  check_bits<3>();
  check_bits<4>();
  check_bits<5>();
  check_bits<6>();
  check_bits<7>();
  check_bits<8>();
}

TEST(Affine, RoundsHalfToEven) {
  const AffineParams p{1.0f, 8};
  EXPECT_EQ(affine_encode(0.5f, p, 0, 15), 8);
  EXPECT_EQ(affine_encode(1.5f, p, 0, 15), 10);
  EXPECT_EQ(affine_encode(-0.5f, p, 0, 15), 8);
  EXPECT_EQ(affine_encode(-1.5f, p, 0, 15), 6);
}

TEST(Affine, ClampsBeforeItRounds) {
  const AffineParams p{1.0f, 8};
  EXPECT_EQ(affine_encode(1e30f, p, 0, 15), 15);
  EXPECT_EQ(affine_encode(-1e30f, p, 0, 15), 0);
}

TEST(Affine, AsymmetricHoldsZeroExactly) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    auto values = normal(32, seed);
    for (float& v : values) v += 3;  // all of one sign
    const auto p = Asymmetric<4>::fit(values);
    EXPECT_EQ(Asymmetric<4>::decode(Asymmetric<4>::encode(0, p), p), 0.0f);
    EXPECT_GE(p.zero_point, 0);
    EXPECT_LE(p.zero_point, 15);
  }
}

TEST(Affine, TheRawRangeOfTheLessonHasAZeroPointOutside) {
  constexpr std::array<float, 10> weights{0.01f, 0.05f, 0.12f, 0.23f, 0.45f, 0.67f, 0.89f, 1.20f, 1.45f, 1.80f};
  constexpr auto raw = Asymmetric<8, false>::fit(std::span<const float>(weights));
  static_assert(raw.zero_point == -1);
  EXPECT_NEAR(raw.scale, 1.79f / 255, 1e-8f);
  EXPECT_EQ(Asymmetric<8>::fit(std::span<const float>(weights)).zero_point, 0);
}

TEST(Affine, RefusesMagnitudesWhoseCodesCouldDecodeToInfinity) {
  const float huge[] = {-3e38f, 3e38f};
  EXPECT_TRUE(std::isinf(Symmetric<2>::fit(huge).scale));
  EXPECT_TRUE(std::isinf(Asymmetric<4>::fit(huge).scale));
}

TEST(Affine, StoresScalesAsTheyReadBack) {
  EXPECT_EQ(stored_scale(0.1f, ScaleType::f16), static_cast<float>(f16(0.1f)));
  EXPECT_GT(stored_scale(0, ScaleType::f16), 0.0f);
  EXPECT_TRUE(std::isinf(stored_scale(1e6f, ScaleType::f16)));
}

}  // namespace
}  // namespace nibble
