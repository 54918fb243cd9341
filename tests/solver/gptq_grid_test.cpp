#include "nibble/solver/gptq_grid.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

static_assert(shrinking(0) == 1);
static_assert(reference_grid({-1, 3}, 2, true) == AffineParams{2, 2});   // −3 … 3
static_assert(reference_grid({1, 3}, 2, true) == AffineParams{1, 2});    // 0 … 3, though codes below 2 are negative
static_assert(reference_grid({-1, 2}, 2, false) == AffineParams{1, 1});  // −1 … 2
static_assert(reference_grid({0, 0}, 2, true) == AffineParams{2.0f / 3, 2});  // −1 … 1
static_assert(grid_of({-1, 3}, {.bits = 4}) == fit_symmetric({-1, 3}, 4, /*narrow_range=*/false, ScaleType::f16));
static_assert(grid_of({-1, 3}, {.bits = 4, .symmetric = false}) == fit_asymmetric({-1, 3}, 4, true, ScaleType::f16));
static_assert(grid_of({-1, 3}, {.bits = 2, .reference = true}) == AffineParams{2, 2});

TEST(GptqGrid, ARangeBeyondAllScalesHasAnInfiniteOne) {
  EXPECT_TRUE(std::isinf(reference_grid({-1e38f, 0}, 4, true).scale));
  EXPECT_TRUE(std::isinf(reference_grid({0, 1e38f}, 4, false).scale));
}

TEST(GptqGrid, PowersAreThatOfTheMathLibrary) {
  // From 2^−40 to 2^40, in steps of about 1 in 3000.
  for (float x = 0x1p-40f; x < 0x1p40f; x *= 1.0003f) {
    const double exact = std::pow(static_cast<double>(x), 2.4);
    // The logarithm, of up to 96, is rounded to 2⁻¹⁸ there; the rest of it and the power to a few parts in 10⁷.
    const double log2 = std::abs(2.4 * std::log2(static_cast<double>(x)));
    ASSERT_NEAR(static_cast<double>(power_2_4(x)), exact, exact * (6e-7 + 2 * log2 * 0x1p-24)) << x;
  }
  EXPECT_LT(power_2_4(0), 1e-37f);
}

TEST(GptqGrid, TheErrorIsThatOfTheNearestCode) {
  EXPECT_FLOAT_EQ(search_error(0.75f, 1, 8, 15), std::pow(0.25f, 2.4f));
  EXPECT_FLOAT_EQ(search_error(-9.5f, 1, 8, 15), std::pow(1.5f, 2.4f));  // beyond the lowest code
  EXPECT_FLOAT_EQ(search_error(9, 1, 8, 15), std::pow(2.0f, 2.4f));
  EXPECT_LT(search_error(3, 1, 8, 15), 1e-37f);
}

}  // namespace
}  // namespace nibble
