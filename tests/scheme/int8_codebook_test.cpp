#include "nibble/scheme/int8_codebook.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

void expect_close(std::span<const float, 16> values) {
  const Int8Codebook book = Int8Codebook::of(values);
  for (std::size_t i = 0; i < 16; ++i)
    EXPECT_LE(std::abs((book.codes[i] - 128) * static_cast<double>(book.unit) - static_cast<double>(values[i])),
              static_cast<double>(book.unit) * 0.500001)
        << i;
}

TEST(Int8Codebook, IsOffByHalfAUnit) {
  float values[16];
  for (const float scale : {1.0f, -3.0f, 0x1p-100f, 0x1p100f}) {
    for (int i = 0; i < 16; ++i) values[i] = scale * std::sin(static_cast<float>(i * i));
    expect_close(values);
  }
}

TEST(Int8Codebook, KeepsZeroAndTheLargest) {
  float values[16] = {};
  EXPECT_EQ(Int8Codebook::of(values).unit, 0);
  for (const std::uint8_t code : Int8Codebook::of(values).codes) EXPECT_EQ(code, 128);
  values[3] = -2;
  const Int8Codebook book = Int8Codebook::of(values);
  EXPECT_EQ(book.codes[3], 1);
  EXPECT_EQ(book.codes[0], 128);
}

}  // namespace
}  // namespace nibble
