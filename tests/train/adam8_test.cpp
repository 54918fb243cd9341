#include "nibble/train/adam8.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

/// Fifty steps beside Adam in fp64. bitsandbytes' own test allows a mean error of 6e-5 for the same experiment.
TEST(Adam8, StaysCloseToAdam) {
  constexpr std::size_t n = kAdam8Block;
  const AdamOptions options;
  auto p = normal(n, 1, 0.1f);
  std::vector<double> exact(p.begin(), p.end()), m(n), v(n);
  std::vector<std::uint8_t> m_codes(n), v_codes(n);
  float m_absmax = 0, v_absmax = 0;
  for (std::uint64_t t = 1; t <= 50; ++t) {
    const auto g = normal(n, 10 + static_cast<unsigned>(t), 0.01f);
    adam8_block(adam_step(options, t), n, g.data(), m_codes.data(), m_absmax, v_codes.data(), v_absmax, p.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double gradient = static_cast<double>(g[i]);
      m[i] = 0.9 * m[i] + 0.1 * gradient;
      v[i] = 0.999 * v[i] + 0.001 * gradient * gradient;
      exact[i] -= 1e-3 * (m[i] / (1 - std::pow(0.9, static_cast<double>(t)))) /
                  (std::sqrt(v[i] / (1 - std::pow(0.999, static_cast<double>(t)))) + 1e-8);
    }
  }
  double error = 0, moved = 0;
  const auto start = normal(n, 1, 0.1f);
  for (std::size_t i = 0; i < n; ++i) {
    error += std::abs(static_cast<double>(p[i]) - exact[i]) / n;
    moved += std::abs(exact[i] - static_cast<double>(start[i])) / n;
  }
  EXPECT_GT(moved, 1e-3);  // or there was nothing to compare
  EXPECT_LT(error, 0.1 * moved);
}

TEST(Adam8, FirstStepMovesByTheLearningRate) {
  float p = 1, m_absmax = 0, v_absmax = 0;
  const float g = 0.25f;
  std::uint8_t m = 0, v = 0;
  AdamOptions options;
  options.weight_decay = 0.5;
  adam8_block(adam_step(options, 1), 1, &g, &m, m_absmax, &v, v_absmax, &p);
  EXPECT_NEAR(p, 1 - 1e-3f * 0.5f - 1e-3f, 1e-6f);
  EXPECT_FLOAT_EQ(m_absmax, 0.1f * g);
  EXPECT_FLOAT_EQ(v_absmax, 0.001f * g * g);
}

TEST(Adam8, LeavesParametersOfGradientsThatAreNotFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY, 1e38f}) {
    float p[2] = {3, 4}, m_absmax = 0, v_absmax = 0;
    const float g[2] = {bad, 0.5f};
    std::uint8_t m[2] = {}, v[2] = {};
    AdamOptions options;
    options.weight_decay = 0.1;
    adam8_block(adam_step(options, 1), 2, g, m, m_absmax, v, v_absmax, p);
    EXPECT_EQ(p[0], 3.0f);
    EXPECT_LT(p[1], 4.0f);
    EXPECT_EQ((Codebook<dynamic_map<true>>::decode(m[0], {m_absmax})), 0.0f);
    EXPECT_EQ((Codebook<dynamic_map<false>>::decode(v[0], {v_absmax})), 0.0f);
    EXPECT_TRUE(std::isfinite(v_absmax));
  }
}

TEST(Adam8, ATinyNegativeMomentKeepsItsSign) {
  float p[2] = {0, 0}, m_absmax = 0, v_absmax = 0;
  const float g[2] = {1.0f, -1e-9f};
  std::uint8_t m[2] = {}, v[2] = {};
  adam8_block(adam_step({}, 1), 2, g, m, m_absmax, v, v_absmax, p);
  EXPECT_LT((Codebook<dynamic_map<true>>::decode(m[1], {m_absmax})), 0.0f);
}

}  // namespace
}  // namespace nibble
