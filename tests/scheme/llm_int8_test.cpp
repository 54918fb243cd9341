#include "nibble/scheme/llm_int8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace nibble {
namespace {

TEST(LlmInt8, TheLargestHasCode127) {
  const std::vector<float> row{-2.0f, 0.5f, 1.0f, 0.0f};
  const auto p = LlmInt8::fit(row);
  EXPECT_EQ(p.absmax, 2.0f);
  EXPECT_EQ(LlmInt8::encode(-2.0f, p), 1);  // −127, and 128 for the code of 0
  EXPECT_EQ(LlmInt8::encode(0.0f, p), 128);
  EXPECT_EQ(LlmInt8::decode(128, p), 0.0f);
  for (const float x : row) EXPECT_NEAR(LlmInt8::decode(LlmInt8::encode(x, p), p), x, p.absmax / 127 / 2 * 1.0001f);
}

TEST(LlmInt8, ARowOfZerosAndOneOfDenormalsAreOrdinary) {
  const std::vector<float> zeros(4, 0.0f), tiny(4, std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(LlmInt8::fit(zeros).absmax, 0.0f);
  EXPECT_EQ(LlmInt8::encode(0.0f, LlmInt8::fit(zeros)), 128);
  EXPECT_TRUE(std::isfinite(LlmInt8::multiplier(LlmInt8::fit(tiny).absmax)));
}

TEST(LlmInt8, ClampsBeforeItRounds) {
  EXPECT_EQ(LlmInt8::encode(1e30f, {1.0f}), 255);
  EXPECT_EQ(LlmInt8::encode(-1e30f, {1.0f}), 1);
}

}  // namespace
}  // namespace nibble
