#include "nibble/matrix/group_params.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace nibble {
namespace {

const Range kRange{-1.0f, 3.0f};

TEST(GroupParams, FitsWhatTheSchemeOfTheSpecFits) {
  EXPECT_EQ(fit_params(QuantSpec::parse("int4-g32-sym-f32"), kRange), Symmetric<4>::fit(kRange));
  EXPECT_EQ(fit_params(QuantSpec::parse("int4-g32-asym-f32"), kRange), Asymmetric<4>::fit(kRange));
  EXPECT_EQ(fit_params(QuantSpec::parse("nf4-b64"), kRange), (AffineParams{3.0f, 0}));
  EXPECT_EQ(fit_params(QuantSpec::parse("llm-int8"), kRange), (AffineParams{3.0f, 0}));
}

TEST(GroupParams, AScaleThatItsTypeCannotHoldIsInfinite) {
  EXPECT_TRUE(std::isinf(fit_params(QuantSpec::parse("int4-g32-sym-f16"), {-1e7f, 1e7f}).scale));
}

TEST(GroupParams, LieWhereAMatrixHasThem) {
  std::array<f16, 4> scales{};
  std::array<std::uint8_t, 4> zeros{};
  const QuantSpec asym = QuantSpec::parse("int4-g32-asym-f16");
  const AffineParams p = fit_params(asym, kRange);
  store_params(asym, scales.data(), zeros.data(), 2, p);
  EXPECT_EQ(static_cast<float>(scales[2]), p.scale);
  EXPECT_EQ(zeros[2], p.zero_point);
  EXPECT_EQ(zeros[1], 0);
  // A raw range may put its zero point anywhere, so it takes 32 bits.
  std::array<std::int32_t, 2> raw{};
  const QuantSpec asymraw = QuantSpec::parse("int4-g32-asymraw-f16");
  const AffineParams far = fit_params(asymraw, {100.0f, 103.0f});
  store_params(asymraw, scales.data(), raw.data(), 1, far);
  EXPECT_EQ(raw[1], far.zero_point);
  EXPECT_LT(far.zero_point, 0);
  EXPECT_NO_THROW(store_params(QuantSpec::parse("int4-g32-sym-f16"), scales.data(), nullptr, 0, p));
}

}  // namespace
}  // namespace nibble
