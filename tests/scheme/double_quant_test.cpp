#include "nibble/scheme/double_quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace nibble {
namespace {

TEST(DoubleQuant, TakesOneFloatForEach256) {
  EXPECT_EQ(nested_count(1), 1u);
  EXPECT_EQ(nested_count(256), 1u);
  EXPECT_EQ(nested_count(257), 2u);
}

TEST(DoubleQuant, EqualValuesComeBackExactly) {
  const std::vector<float> absmax(300, 0.75f);
  std::vector<std::uint8_t> bytes(300);
  std::vector<float> nested(2), back(300);
  const float offset = quantize_nested(absmax, bytes.data(), nested.data());
  EXPECT_EQ(offset, 0.75f);
  dequantize_nested(bytes.data(), nested.data(), offset, back);
  EXPECT_EQ(back, absmax);
}

// The signed dynamic map has about a digit at full scale: no value is off by more than 1/16 of its block's largest.
TEST(DoubleQuant, IsCloseAndEachBlockHasItsOwnScale) {
  std::vector<float> absmax(512);
  for (std::size_t i = 0; i < 512; ++i)
    absmax[i] = (i < 256 ? 1.0f : 100.0f) * (1 + 0.5f * std::sin(static_cast<float>(i)));
  std::vector<std::uint8_t> bytes(512);
  std::vector<float> nested(2), back(512);
  const float offset = quantize_nested(absmax, bytes.data(), nested.data());
  dequantize_nested(bytes.data(), nested.data(), offset, back);
  for (std::size_t i = 0; i < 512; ++i) {
    EXPECT_EQ(back[i], nested_value(Codebook<dynamic_map<true>>::values()[bytes[i]], nested[i / 256], offset));
    EXPECT_NEAR(back[i], absmax[i], nested[i / 256] / 16) << i;
  }
}

}  // namespace
}  // namespace nibble
