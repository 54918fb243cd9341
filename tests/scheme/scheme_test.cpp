#include "nibble/scheme/scheme.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

struct NoDecode {
  struct Params {};
  static constexpr int bits = 4;
  static Params fit(std::span<const float>) { return {}; }
  static std::uint8_t encode(float, Params) { return 0; }
};
static_assert(!Scheme<NoDecode>);

template <class S>
class EveryScheme : public testing::Test {};
using Schemes = testing::Types<Symmetric<2>, Symmetric<4>, Symmetric<8>, Asymmetric<3>, Asymmetric<8, false>,
                               Codebook<nf4>, Codebook<fp4>, Codebook<dynamic_map<true>>, LlmInt8>;
TYPED_TEST_SUITE(EveryScheme, Schemes);

// What the concept promises beyond its signatures.
TYPED_TEST(EveryScheme, EncodesMonotonicallyAndTotally) {
  using S = TypeParam;
  const auto values = testing_support::normal(64, 3);
  const auto p = S::fit(values);
  float before = -INFINITY;
  for (int i = -400; i <= 400; ++i) {
    const std::uint8_t code = S::encode(static_cast<float>(i) / 100, p);
    ASSERT_LT(code, 1 << S::bits);
    const float value = S::decode(code, p);
    ASSERT_GE(value, before) << i;
    before = value;
  }
}

TYPED_TEST(EveryScheme, DecodesWhatItEncodesToTheSameValue) {
  using S = TypeParam;
  const auto values = testing_support::normal(64, 4);
  const auto p = S::fit(values);
  for (const float x : values) {
    const float once = S::decode(S::encode(x, p), p);
    EXPECT_EQ(S::decode(S::encode(once, p), p), once);
  }
}

}  // namespace
}  // namespace nibble
