#include "nibble/backend/gated.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using testing_support::expect_error;

/// Each activation by its definition, in fp64.
const std::pair<GatedActivation, std::function<double(double)>> kDefinitions[] = {
    {GatedActivation::silu, [](double g) { return g / (1 + std::exp(-g)); }},
    {GatedActivation::gelu_tanh,
     [](double g) { return g / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g))); }},
    {GatedActivation::gelu, [](double g) { return g / 2 * std::erfc(-g / std::numbers::sqrt2); }}};

TEST(ApplyGate, FollowsTheDefinitions) {
  std::vector<float> gate, up;
  for (int i = -4000; i <= 4000; ++i) {
    gate.push_back(static_cast<float>(i) / 256);
    up.push_back(static_cast<float>(1 + i % 7) / 4);
  }
  std::vector<std::vector<float>> results;
  for (const auto& [activation, definition] : kDefinitions) {
    std::vector<float> y(gate.size());
    apply_gate(activation, gate, up, y);
    for (std::size_t i = 0; i < y.size(); ++i) {
      // 1 + erf loses what is small beside 1: the error is of the gate's size, not the result's.
      const auto g = static_cast<double>(gate[i]), u = static_cast<double>(up[i]);
      ASSERT_NEAR(static_cast<double>(y[i]), definition(g) * u, 4e-7 * std::abs(g * u)) << "gate " << g;
    }
    results.push_back(y);
  }
  EXPECT_NE(results[0], results[1]);
  EXPECT_NE(results[1], results[2]);
}

TEST(ApplyGate, MayWriteOverEitherInput) {
  const std::vector<float> gate{-2, -0.5f, 0, 1, 30}, up{3, -1, 5, 0.25f, 2};
  for (const auto& [activation, definition] : kDefinitions) {
    std::vector<float> y(gate.size()), over_gate = gate, over_up = up;
    apply_gate(activation, gate, up, y);
    apply_gate(activation, over_gate, up, over_gate);
    apply_gate(activation, gate, over_up, over_up);
    EXPECT_EQ(over_gate, y);
    EXPECT_EQ(over_up, y);
    EXPECT_EQ(y[2], 0);
    EXPECT_EQ(y[4], 60);  // far above zero each is its argument
  }
}

TEST(ApplyGate, KeepsNotANumber) {
  const std::vector<float> gate{std::numeric_limits<float>::quiet_NaN()}, up{1};
  for (const auto& [activation, definition] : kDefinitions) {
    std::vector<float> y{0};
    apply_gate(activation, gate, up, y);
    EXPECT_TRUE(std::isnan(y[0]));
  }
}

TEST(ApplyGate, RefusesUnequalLengthsAndUnknownActivations) {
  const std::vector<float> three(3), four(4);
  std::vector<float> y(3);
  expect_error(ErrorCode::shape_mismatch, "the gate has 4 values, up 3 and the output 3",
               [&] { apply_gate(GatedActivation::silu, four, three, y); });
  expect_error(ErrorCode::shape_mismatch, "up 4", [&] { apply_gate(GatedActivation::silu, three, four, y); });
  expect_error(ErrorCode::invalid_argument, "activation 9",
               [&] { apply_gate(static_cast<GatedActivation>(9), three, three, y); });
}

}  // namespace
}  // namespace nibble
