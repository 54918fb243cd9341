#include "nibble/engine/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nibble/core/error.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

using testing_support::expect_error;

Routing route_of(const std::vector<float>& logits, std::size_t experts, std::size_t per_token, bool normalizes) {
  return route({logits.data(), logits.size() / experts, experts}, per_token, normalizes);
}

TEST(Route, SendsATokenToTheExpertsThatAreGivenTheMost) {
  const float a = std::log(1.0f), b = std::log(2.0f), c = std::log(5.0f);
  const Routing r = route_of({a, b, c,  //
                              c, b, a},
                             3, 2, false);
  EXPECT_EQ(r.begins, (std::vector<std::size_t>{0, 1, 3, 4}));
  EXPECT_EQ(r.tokens, (std::vector<std::size_t>{1, 0, 1, 0}));
  const float expected[] = {0.625f, 0.25f, 0.25f, 0.625f};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(r.weights[i], expected[i], 1e-6) << i;

  const Routing shares = route_of({a, b, c, c, b, a}, 3, 2, true);
  EXPECT_EQ(shares.tokens, r.tokens);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(shares.weights[i], expected[i] / 0.875f, 1e-6) << i;
}

TEST(Route, TakesTheLowerNumbersOfEquals) {
  EXPECT_EQ(route_of({1, 3, 3, 3, 1}, 5, 2, true).begins, (std::vector<std::size_t>{0, 0, 1, 2, 2, 2}));
  EXPECT_EQ(route_of({0, 0, 0, 0, 0}, 5, 3, true).begins, (std::vector<std::size_t>{0, 1, 2, 3, 3, 3}));
  // All but one are given nothing in fp32.
  EXPECT_EQ(route_of({-500, -400, 0, -300}, 4, 2, true).begins, (std::vector<std::size_t>{0, 1, 1, 2, 2}));
}

// What is no number is said where the logits of the model are looked at; here nothing is touched that is not there.
TEST(Route, GivesATokenAsManyExpertsWhateverTheLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& logits :
       {std::vector<float>{nan, nan, nan}, {1, nan, 2}, {inf, inf, 0}, {-inf, -inf, -inf}, {nan, 1, inf}}) {
    const Routing r = route_of(logits, 3, 2, true);
    EXPECT_EQ(r.places(), 2u);
    for (std::size_t e = 0; e < 3; ++e) EXPECT_LE(r.count(e), 1u);
  }
  EXPECT_EQ(route({nullptr, 0, 4}, 2, true).begins, (std::vector<std::size_t>(5)));
  expect_error(ErrorCode::invalid_argument, "route: 4 of 3 experts a token", [] {
    (void)route_of({1, 2, 3}, 3, 4, true);
  });
  expect_error(ErrorCode::invalid_argument, "route: 0 of 3", [] { (void)route_of({1, 2, 3}, 3, 0, true); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
