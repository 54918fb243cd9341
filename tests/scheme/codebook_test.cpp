#include "nibble/scheme/codebook.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

// bitsandbytes' NF4 thresholds: code k+1 iff x > threshold[k]. The second is a tie of the two floats around it; its
// quantize_4bit was seen to change codes just above this one.
constexpr float kNf4Thresholds[] = {-0.8480964f,  -0.6106329f,   -0.45999527f, -0.33967943f, -0.2346074f,
                                    -0.13791173f, -0.045525018f, 0.03979015f,  0.12025525f,  0.20352125f,
                                    0.29201376f,  0.38931254f,   0.50166345f,  0.6427869f,   0.86147845f};

TEST(Nf4, DerivesThePublishedThresholds) {
  for (std::size_t k = 0; k < 15; ++k) EXPECT_EQ(Codebook<nf4>::order().threshold[k], kNf4Thresholds[k]) << k;
}

TEST(Nf4, ComparesStrictly) {
  const CodebookParams unit{1.0f};
  for (std::uint8_t k = 0; k < 15; ++k) {
    EXPECT_EQ(Codebook<nf4>::encode(kNf4Thresholds[k], unit), k);
    EXPECT_EQ(Codebook<nf4>::encode(std::nextafter(kNf4Thresholds[k], 2.0f), unit), k + 1);
  }
}

TEST(Nf4, HasThePublishedBits) {
  constexpr std::uint32_t bits[] = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
                                    0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                                    0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
  for (std::size_t k = 0; k < 16; ++k) EXPECT_EQ(std::bit_cast<std::uint32_t>(Codebook<nf4>::values()[k]), bits[k]);
}

TEST(Fp4, HasThePublishedBits) {
  constexpr std::uint32_t bits[] = {0x00000000, 0x3baaaaab, 0x3f2aaaab, 0x3f800000,
                                    0x3eaaaaab, 0x3f000000, 0x3e2aaaab, 0x3e800000};
  for (std::size_t k = 0; k < 8; ++k) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(Codebook<fp4>::values()[k]), bits[k]);
    EXPECT_EQ(Codebook<fp4>::values()[k + 8], -Codebook<fp4>::values()[k]);
  }
}

TEST(Fp4, ChangesItsCodeAtThePublishedPivots) {
  struct Pivot {
    float at;
    std::uint8_t code;
  };
  for (const Pivot p : {Pivot{0.00260417f, 1},
                        {0.0859375f, 6},
                        {0.20833333f, 7},
                        {0.29166667f, 4},
                        {0.4166667f, 5},
                        {0.583333f, 2},
                        {0.8333333f, 3}}) {
    EXPECT_EQ(Codebook<fp4>::encode_scaled(p.at * 1.00001f), p.code);
    EXPECT_NE(Codebook<fp4>::encode_scaled(p.at * 0.99999f), p.code);
    EXPECT_EQ(Codebook<fp4>::values()[Codebook<fp4>::encode_scaled(-p.at * 1.00001f)],
              -Codebook<fp4>::values()[p.code]);
  }
}

TEST(DynamicMap, HasThePublishedValues) {
  const auto& s = Codebook<dynamic_map<true>>::values();
  EXPECT_FLOAT_EQ(s[0], -0.99296874f);
  EXPECT_EQ(s[127], 0.0f);
  EXPECT_FLOAT_EQ(s[128], 5.5e-7f);
  EXPECT_FLOAT_EQ(s[129], 3.25e-6f);
  EXPECT_FLOAT_EQ(s[130], 7.75e-6f);
  EXPECT_FLOAT_EQ(s[131], 2.125e-5f);
  EXPECT_FLOAT_EQ(s[254], 0.99296874f);
  EXPECT_EQ(s[255], 1.0f);
  const auto& u = Codebook<dynamic_map<false>>::values();
  EXPECT_EQ(u[0], 0.0f);
  EXPECT_FLOAT_EQ(u[1], 3.25e-7f);
  EXPECT_FLOAT_EQ(u[254], 0.99648438f);
  EXPECT_EQ(u[255], 1.0f);
  for (std::size_t i = 1; i < 256; ++i) {
    EXPECT_LT(s[i - 1], s[i]);
    EXPECT_LT(u[i - 1], u[i]);
  }
}

TEST(Codebook, AnAllZeroBlockIsTheCodeOfZero) {
  const float zeros[4] = {};
  EXPECT_EQ(Codebook<nf4>::encode(0, Codebook<nf4>::fit(zeros)), 7);
  EXPECT_EQ(Codebook<fp4>::encode(0, Codebook<fp4>::fit(zeros)), 0);
}

TEST(Codebook, EncodesToTheNearestValue) {
  for (int i = -2000; i <= 2000; ++i) {
    const float x = static_cast<float>(i) / 2000;
    for (float v : Codebook<nf4>::values()) {
      const float chosen = Codebook<nf4>::values()[Codebook<nf4>::encode_scaled(x)];
      EXPECT_LE(std::abs(x - chosen), std::abs(x - v) + 1e-7f);
    }
  }
}

}  // namespace
}  // namespace nibble
