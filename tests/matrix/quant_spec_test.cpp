#include "nibble/matrix/quant_spec.h"

#include <gtest/gtest.h>

#include "nibble/core/error.h"

namespace nibble {
namespace {

TEST(QuantSpec, PrintsWhatItParses) {
  for (const char* text : {"int4-g128-sym",
                           "int4-g32-asym",
                           "int3-g64-asymraw",
                           "int4-g64-asymreal",
                           "int8-channel-asymreal",
                           "int2-g32-asymreal-f32",
                           "int8-channel-sym",
                           "int8-tensor-asym",
                           "int2-g16-sym-bf16",
                           "int8-g128-sym-f32",
                           "int4-g128-sym-restricted",
                           "nf4-b64",
                           "nf4-b64-dq",
                           "fp4-b128",
                           "dynamic8-b256",
                           "llm-int8",
                           "llm-int8-t0",
                           "fp8",
                           "e4m3-tensor",
                           "e4m3-t128",
                           "e4m3-t128-e8m0-ceil",
                           "e5m2-g128-bf16",
                           "e5m2-channel",
                           "mxfp4",
                           "mxfp4-floor",
                           "mxfp4-largest",
                           "mxfp6",
                           "mxfp8-search",
                           "e3m2-g32-e8m0",
                           "nvfp4",
                           "nvfp4-largest"})
    EXPECT_EQ(QuantSpec::parse(text).to_string(), text);
}

TEST(QuantSpec, HasShortNames) {
  EXPECT_EQ(QuantSpec::parse("int8").to_string(), "int8-channel-sym");
  EXPECT_EQ(QuantSpec::parse("nf4").to_string(), "nf4-b64");
  EXPECT_EQ(QuantSpec::parse("nf4-dq").to_string(), "nf4-b64-dq");
  EXPECT_EQ(QuantSpec::parse("int4").to_string(), "int4-g128-sym");
  EXPECT_EQ(QuantSpec::parse("e4m3").to_string(), "fp8");
  EXPECT_EQ(QuantSpec::parse("fp8-t128").to_string(), "e4m3-t128");
  EXPECT_EQ(QuantSpec::parse("e2m1").to_string(), "mxfp4");
  EXPECT_EQ(QuantSpec::parse("e2m1-g16-e4m3").to_string(), "nvfp4");
  EXPECT_EQ(QuantSpec::parse("mxfp4-even"), QuantSpec::parse("mxfp4"));
}

TEST(QuantSpec, RefusesWithTheTextAndTheReason) {
  for (const char* text : {"",
                           "int9",
                           "int1-g32",
                           "int4-g0",
                           "int4-gx",
                           "nf5",
                           "nf4-sym",
                           "int4-dq",
                           "nf4-g64",
                           "int4-g128-",
                           "llm-int8-x",
                           "nf4-f16",
                           "int4-t128",
                           "int4-e8m0",
                           "nf4-e4m3",
                           "int4-even",
                           "fp8-b64",
                           "fp8-restricted",
                           "fp8-dq",
                           "fp8-sym",
                           "fp8-floor",
                           "fp8-search",
                           "fp8-t0",
                           "mxfp8-t128-search",
                           "e4m3-channel-e4m3",
                           "e4m3-g16-e4m3-search"}) {
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
  EXPECT_DOUBLE_EQ(bits("fp8"), 8 + 32.0 / 4096);
  EXPECT_DOUBLE_EQ(bits("e4m3-t128"), 8 + 32.0 / (128 * 128));
  EXPECT_DOUBLE_EQ(bits("mxfp4"), 4.25);
  EXPECT_DOUBLE_EQ(bits("nvfp4"), 4.5 + 32.0 / (4096.0 * 4096.0));
}

}  // namespace
}  // namespace nibble
