#include "nibble/scheme/range.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <vector>

namespace nibble {
namespace {

static_assert(range_of(std::span<const float>(std::array<float, 3>{1, -4, 2})).absmax() == 4);

TEST(Range, IsTheSmallestAndTheLargest) {
  EXPECT_EQ(range_of(std::vector<float>{3, -1, 2}), (Range{-1, 3}));
  EXPECT_EQ(range_of(std::vector<float>{5}), (Range{5, 5}));
  EXPECT_EQ((Range{-7, 3}.absmax()), 7);
}

// Else the order of a scan, and so the instruction set, would show.
TEST(Range, AZeroIsPositive) {
  const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
  for (const auto& values : {std::vector<float>{-0.0f, 0.0f}, std::vector<float>{0.0f, -0.0f}}) {
    const Range r = range_of(values);
    EXPECT_EQ(bits(r.min), 0u);
    EXPECT_EQ(bits(r.max), 0u);
  }
}

}  // namespace
}  // namespace nibble
