#include "nibble/train/lion8.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

TEST(Lion, MovesByTheRateAgainstTheSign) {
  LionOptions options;
  options.learning_rate = 0.5;
  for (const float g : {3.0f, -1e-6f, 0.0f, -0.0f}) {
    float m = 0, p = 2;
    lion_update(lion_step(options), g, m, p);
    EXPECT_EQ(p, g > 0 ? 1.5f : g < 0 ? 2.5f : 2.0f);
    EXPECT_FLOAT_EQ(m, 0.01f * g);
  }
  // The momentum outweighs a gradient against it that is smaller than β1/(1 − β1) times.
  float m = 1, p = 2;
  lion_update(lion_step(options), -8.9f, m, p);
  EXPECT_EQ(p, 1.5f);
  EXPECT_FLOAT_EQ(m, 0.99f - 0.089f);
  options.weight_decay = 0.1;
  p = 2;
  lion_update(lion_step(options), 1, m, p);
  EXPECT_FLOAT_EQ(p, 2 * 0.95f - 0.5f);
}

TEST(Lion, LeavesParametersOfGradientsThatAreNotFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    float m = 1, p = 2;
    lion_update(lion_step({}), bad, m, p);
    EXPECT_EQ(m, 0);
    EXPECT_EQ(p, 2);
  }
}

/// What 8 bits change of Lion is the sign now and then, of a direction near 0.
TEST(Lion8, AgreesWithLionInItsSigns) {
  constexpr std::size_t n = kAdam8Block;
  const LionStep step = lion_step({});
  std::vector<float> exact(n), m(n), p(n);
  std::vector<std::uint8_t> codes(n);
  float absmax = 0;
  int same = 0;
  for (unsigned t = 0; t < 50; ++t) {
    const auto g = normal(n, t, 0.01f), before = p, exact_before = exact;
    lion8_block(step, n, g.data(), codes.data(), absmax, p.data());
    for (std::size_t i = 0; i < n; ++i) {
      lion_update(step, g[i], m[i], exact[i]);
      same += (p[i] > before[i]) == (exact[i] > exact_before[i]);
    }
  }
  EXPECT_GE(same, 50 * static_cast<int>(n) * 99 / 100);
}

TEST(Lion8, ANegativeMomentumNeverBecomesNone) {
  float p[2] = {1, 1}, absmax = 0;
  const float g[2] = {1, -1e-12f};
  std::uint8_t codes[2] = {};
  lion8_block(lion_step({}), 2, g, codes, absmax, p);
  EXPECT_LT(Codebook<dynamic_map<true>>::values()[codes[1]], 0);
}

}  // namespace
}  // namespace nibble
