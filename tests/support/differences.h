// An operation's results and gradients, held against the same in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace nibble::testing_support {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Function = std::function<Doubles(const Doubles&)>;

inline Doubles doubles(const Floats& x) { return {x.begin(), x.end()}; }

/// The operation's results against the same computed in double.
inline void expect_values(const Floats& actual, const Doubles& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const double y : expected) largest = std::max(largest, std::abs(y));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * largest) << "element " << i;
}

/// `actual` less `before` against central differences of Σ grad_y·f in double, by each element of x.
inline void expect_gradient(const Floats& actual, const Floats& before, const Function& f, const Floats& x,
                            const Floats& grad_y) {
  Doubles at = doubles(x), expected(x.size());
  const auto loss = [&] {
    const Doubles y = f(at);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(grad_y[i]) * y[i];
    return sum;
  };
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double there = at[i], h = 1e-5;
    at[i] = there + h;
    const double above = loss();
    at[i] = there - h;
    expected[i] = static_cast<double>(before[i]) + (above - loss()) / (2 * h);
    at[i] = there;
  }
  expect_values(actual, expected, 2e-6);
}

}  // namespace nibble::testing_support
