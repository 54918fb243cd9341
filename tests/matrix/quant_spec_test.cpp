#include "nibble/matrix/quant_spec.h"

#include <gtest/gtest.h>

#include "nibble/core/error.h"

namespace nibble {
namespace {

TEST(QuantSpec, PrintsWhatItParses) {
  for (const char* text : {"int4-g128-sym", "int4-g32-asym", "int3-g64-asymraw", "int8-channel-sym", "int8-tensor-asym",
                           "int2-g16-sym-bf16", "int8-g128-sym-f32", "int4-g128-sym-restricted", "nf4-b64",
                           "nf4-b64-dq", "fp4-b128", "dynamic8-b256", "llm-int8", "llm-int8-t0"})
    EXPECT_EQ(QuantSpec::parse(text).to_string(), text);
}

TEST(QuantSpec, HasShortNames) {
  EXPECT_EQ(QuantSpec::parse("int8").to_string(), "int8-channel-sym");
  EXPECT_EQ(QuantSpec::parse("nf4").to_string(), "nf4-b64");
  EXPECT_EQ(QuantSpec::parse("nf4-dq").to_string(), "nf4-b64-dq");
  EXPECT_EQ(QuantSpec::parse("int4").to_string(), "int4-g128-sym");
}

TEST(QuantSpec, RefusesWithTheTextAndTheReason) {
  for (const char* text : {"", "int9", "int1-g32", "int4-g0", "int4-gx", "nf5", "nf4-sym", "int4-dq", "nf4-g64",
                           "int4-g128-", "llm-int8-x", "nf4-f16"}) {
    try {
      (void)QuantSpec::parse(text);
      ADD_FAILURE() << "accepted '" << text << "'";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string(e.what()).find("'" + std::string(text) + "'"), std::string::npos) << e.what();
    }
  }
}

TEST(QuantSpec, CountsBitsPerWeight) {
  const auto bits = [](const char* text) { return QuantSpec::parse(text).bits_per_weight(4096, 4096); };
  EXPECT_DOUBLE_EQ(bits("nf4"), 4.5);
  EXPECT_DOUBLE_EQ(bits("nf4-dq"), 4 + 8.0 / 64 + 32.0 / (64 * 256));  // 4.127 (Dettmers et al. 2023)
  EXPECT_DOUBLE_EQ(bits("int4-g128-sym"), 4.125);
  EXPECT_DOUBLE_EQ(bits("int4-g32-asym"), 4.625);
  EXPECT_DOUBLE_EQ(bits("int8"), 8 + 32.0 / 4096);
}

}  // namespace
}  // namespace nibble
