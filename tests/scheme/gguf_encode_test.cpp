#include "nibble/scheme/gguf_encode.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace blocks;

template <class Block>
class EncodedBlock : public testing::Test {};
using Blocks = testing::Types<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0>;
TYPED_TEST_SUITE(EncodedBlock, Blocks);

/// How many steps the range of a block has.
template <class Block>
constexpr float steps() {
  return sizeof(Block::codes) == 32 ? 254.0f : requires(Block b) { b.high; }
  ? 31.0f : 15.0f;
}

// Codes are the nearest (but for the end of the range that has no code): at most one step off.
TYPED_TEST(EncodedBlock, DecodesToWithinAStep) {
  const auto x = testing_support::normal(TypeParam::size, 1);
  TypeParam block;
  ASSERT_TRUE(encode(x.data(), block));
  float out[TypeParam::size], most = 0;
  decode(block, out);
  for (const float v : x) most = std::max(most, std::abs(v));
  for (std::size_t i = 0; i < TypeParam::size; ++i)
    EXPECT_NEAR(out[i], x[i], 2 * most / steps<TypeParam>() * 1.01f) << i;
}

TYPED_TEST(EncodedBlock, ABlockOfZerosIsOne) {
  const std::array<float, TypeParam::size> x{};
  TypeParam block;
  ASSERT_TRUE(encode(x.data(), block));
  float out[TypeParam::size];
  decode(block, out);
  for (const float v : out) EXPECT_EQ(v, 0.0f);
}

TYPED_TEST(EncodedBlock, SaysWhatF16CannotHold) {
  std::array<float, TypeParam::size> x{};
  x[0] = 1e9f;
  x[1] = -1e9f;
  TypeParam block;
  EXPECT_FALSE(encode(x.data(), block));
}

}  // namespace
}  // namespace nibble
