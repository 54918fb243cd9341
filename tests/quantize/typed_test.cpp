#include "nibble/quantize/typed.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

TEST(TypedQuantize, TheTypedFormIsTheTextualOne) {
  const auto w = normal(16 * 256, 1);
  const MatrixView<const float> m(w.data(), 16, 256);
  const auto a = quantize<Codebook<nf4>>(m, {.block_size = 64, .double_quant = true}), b = quantize(m, "nf4-b64-dq");
  EXPECT_EQ(a.spec, b.spec);
  EXPECT_EQ(std::memcmp(a.codes.data(), b.codes.data(), a.codes.size()), 0);
  EXPECT_EQ((quantize<Symmetric<4>>(m).spec.to_string()), "int4-g128-sym");
  EXPECT_EQ((quantize<Asymmetric<3, false>>(m, {.group_size = 32}).spec.to_string()), "int3-g32-asymraw");
}

TEST(TypedQuantize, AGroupIsQuantizedAtCompileTime) {
  constexpr auto codes = [] {
    const std::array<float, 3> x{-1, 0, 1};
    std::array<std::uint8_t, 3> out{};
    quantize_group<Codebook<nf4>>(x, out);
    return out;
  }();
  static_assert(codes[0] == 0 && codes[1] == 7 && codes[2] == 15);
}

}  // namespace
}  // namespace nibble
