#include "nibble/core/exponential.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Every how many floats are looked at: of all (1), as `ctest -L soak` does, or of a sample.
std::uint64_t step() {
  const char* asked = std::getenv("NIBBLE_SWEEP_STEP");
  return asked != nullptr ? std::strtoull(asked, nullptr, 10) : 1009;
}

template <class Body>
void for_each_float(Body body) {
  for (std::uint64_t bits = 0; bits <= 0xFFFFFFFFu; bits += step())
    body(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
}

/// Units in the last place between y and what it should be.
double error_in_units(float y, double exact) {
  const auto nearest = static_cast<float>(exact);
  const double unit = static_cast<double>(std::nextafter(nearest, kInfinity)) - static_cast<double>(nearest);
  return std::abs(static_cast<double>(y) - exact) / unit;
}

TEST(Exponential, IsWithinOneUnitInTheLastPlaceOfEveryFloat) {
  double worst = 0;
  for_each_float([&](float x) {
    if (!(x >= exponential_terms::kLeast && x <= 88.72f)) return;
    worst = std::max(worst, error_in_units(exponential(x), std::exp(static_cast<double>(x))));
  });
  EXPECT_LT(worst, 1);
  EXPECT_GT(worst, 0.5);  // or nothing was looked at
}

TEST(Exponential, KnowsItsLimits) {
  EXPECT_EQ(exponential(0), 1);
  EXPECT_EQ(exponential(-0.0f), 1);
  EXPECT_EQ(exponential(-kInfinity), 0);
  EXPECT_EQ(exponential(-86.6f), 0);
  EXPECT_EQ(exponential(std::numeric_limits<float>::lowest()), 0);
  EXPECT_GT(exponential(-86.5f), 2.6e-38f);
  EXPECT_LT(exponential(88.72f), kInfinity);
  for (const float x : {88.73f, 89.0f, 200.0f, 1e30f, std::numeric_limits<float>::max(), kInfinity})
    EXPECT_EQ(exponential(x), kInfinity) << x;
  EXPECT_TRUE(std::isnan(exponential(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(exponential(-std::numeric_limits<float>::quiet_NaN())));
}

TEST(Exponential, EveryBackendsKernelGivesTheseBits) {
  constexpr std::size_t kBlock = 4096;
  for (const Backend* backend : backends()) {
    if (!backend->available()) continue;
    const kernels::KernelTable& isa = kernels_of(backend);
    std::vector<float> x, y(kBlock);
    const auto compare = [&] {
      isa.exp_sum(x.data(), x.size(), 1, 0, y.data());
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float expected = exponential(x[i]);
        if (std::isnan(expected)) ASSERT_TRUE(std::isnan(y[i])) << backend->name() << ": " << x[i];
        else
          ASSERT_EQ(std::bit_cast<std::uint32_t>(y[i]), std::bit_cast<std::uint32_t>(expected))
              << backend->name() << ": " << x[i];
      }
      x.clear();
    };
    for_each_float([&](float value) {
      x.push_back(value);
      if (x.size() == kBlock) compare();
    });
    compare();
  }
}

TEST(ExpSum, IsSixteenSumsAddedInTheirOrder) {
  for (const Backend* backend : backends()) {
    if (!backend->available()) continue;
    const kernels::KernelTable& isa = kernels_of(backend);
    for (const std::size_t n : {0u, 1u, 15u, 16u, 17u, 47u, 160u}) {
      std::vector<float> x(n + 1, 7.0f), y(n + 1, 7.0f);
      float lanes[kernels::kSumLanes] = {}, total = 0;
      for (std::size_t i = 0; i < n; ++i) {
        x[i] = static_cast<float>(i * i % 29) - 20;
        y[i] = exponential(std::fma(x[i], 0.3f, -0.7f));
        lanes[i % kernels::kSumLanes] += y[i];
      }
      for (const float lane : lanes) total += lane;
      EXPECT_EQ(isa.exp_sum(x.data(), n, 0.3f, -0.7f, x.data()), total) << backend->name() << " " << n;
      EXPECT_EQ(x, y) << backend->name() << " " << n;  // the last was not touched
    }
  }
}

}  // namespace
}  // namespace nibble
