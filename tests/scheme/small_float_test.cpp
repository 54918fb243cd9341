#include "nibble/scheme/small_float.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/quantize/typed.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

/// The formats' limits, as the OCP specifications state them.
TEST(SmallFloat, HasTheLimitsOfItsSpecification) {
  const auto expect = [](auto f, float largest, float least_normal, float least) {
    using F = decltype(f);
    EXPECT_EQ(F::largest, largest) << F::name;
    EXPECT_EQ(F::decode(1), least) << F::name;
    EXPECT_EQ(F::decode(F::encode(least_normal)), least_normal) << F::name;
    // Above the least normal value steps are relative, below they are the least.
    EXPECT_EQ(F::decode(static_cast<std::uint8_t>(F::encode(least_normal) - 1)), least_normal - least) << F::name;
  };
  expect(e4m3{}, 448, 0x1p-6f, 0x1p-9f);
  expect(e5m2{}, 57344, 0x1p-14f, 0x1p-16f);
  expect(e2m3{}, 7.5f, 1, 0.125f);
  expect(e3m2{}, 28, 0.25f, 0.0625f);
  expect(e2m1{}, 6, 1, 0.5f);
}

TEST(SmallFloat, RoundsToTheNearestAndTiesToEven) {
  const std::pair<float, float> cuts[] = {
      {0.25f, 0}, {0.2500001f, 0.5f}, {0.75f, 1}, {0.7499999f, 0.5f}, {1.25f, 1},    {1.75f, 2}, {2.5f, 2}, {3.5f, 4},
      {5, 4},     {5.0000005f, 6},    {1e30f, 6}, {HUGE_VALF, 6},     {0x1p-140f, 0}};
  for (const auto& [x, value] : cuts) {
    EXPECT_EQ(e2m1::decode(e2m1::encode(x)), value) << x;
    EXPECT_EQ(e2m1::decode(e2m1::encode(-x)), -value) << x;
    EXPECT_EQ(e2m1::encode(-x), e2m1::encode(x) | 8) << "a zero keeps its sign";
  }
  EXPECT_EQ(e4m3::encode(464.1f), 0x7e) << "saturates, and is not NaN";
  EXPECT_EQ(e5m2::encode(61440), 0x7b) << "saturates, and is not infinity";
  EXPECT_TRUE(std::isnan(e4m3::decode(0x7f)) && std::isnan(e4m3::decode(0xff)));
  EXPECT_TRUE(std::isnan(e5m2::decode(0x7c)) && std::isnan(e5m2::decode(0xfd)));
}

/// No other code is nearer, for every float16 there is.
TEST(SmallFloat, IsTheNearestOfAll) {
  const auto check = [](auto f) {
    using F = decltype(f);
    for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
      const auto x = static_cast<float>(f16::from_bits(static_cast<std::uint16_t>(bits)));
      const float got = F::decode(F::encode(x));
      for (std::size_t c = 0; c < std::size_t{1} << (F::bits - 1); ++c) {
        const float other = F::decode(static_cast<std::uint8_t>(c));
        if (std::isnan(other)) continue;
        ASSERT_GE(std::fabs(other - x), std::fabs(got - x)) << F::name << " " << x;
      }
    }
  };
  check(e4m3{});
  check(e5m2{});
  check(e2m3{});
  check(e3m2{});
  check(e2m1{});
}

TEST(SmallFloat, PowersOfTwoAreScales) {
  for (int e = -127; e <= 127; ++e) {
    const float power = std::ldexp(1.0f, e);
    EXPECT_EQ(f8_e8m0(power).bits, e + 127);
    EXPECT_EQ(static_cast<float>(f8_e8m0::from_bits(static_cast<std::uint8_t>(e + 127))), power);
  }
  EXPECT_EQ(static_cast<float>(f8_e8m0(2.9f)), 2.0f);
  EXPECT_EQ(static_cast<float>(f8_e8m0(3.0f)), 4.0f);
  EXPECT_EQ(f8_e8m0(0.0f).bits, 0);
  EXPECT_EQ(f8_e8m0(3e38f).bits, 254) << "2^128 is none";
  EXPECT_TRUE(std::isnan(static_cast<float>(f8_e8m0::from_bits(255))));
}

TEST(ScaleRule, DiffersInWhatSaturates) {
  const auto scale = [](float absmax, ScaleRule rule) {
    const float values[] = {absmax};
    return fit_scale<e2m1>(values, absmax, {ScaleType::e8m0, rule});
  };
  for (const ScaleRule rule : {ScaleRule::floor, ScaleRule::even, ScaleRule::ceil}) {
    EXPECT_EQ(scale(6, rule), 1);
    EXPECT_EQ(scale(4, rule), 1);
    EXPECT_EQ(scale(8, rule), 2);
    EXPECT_EQ(scale(0, rule), 1);
    EXPECT_EQ(scale(0x1p-140f, rule), 0x1p-127f) << "no scale is less";
  }
  EXPECT_EQ(scale(7.9f, ScaleRule::floor), 1);
  EXPECT_EQ(scale(7.9f, ScaleRule::even), 2);
  EXPECT_EQ(scale(6.9f, ScaleRule::even), 1);
  EXPECT_EQ(scale(7, ScaleRule::even), 2);
  EXPECT_EQ(scale(6.1f, ScaleRule::ceil), 2);
  EXPECT_EQ(scale(7.9f, ScaleRule::search), 2);
  EXPECT_EQ(scale(6.1f, ScaleRule::search), 2) << "6 is a value of both scales: the larger stands";
  const float small_too[] = {6.1f, 0.5f};
  EXPECT_EQ(fit_scale<e2m1>(small_too, 6.1f, {ScaleType::e8m0, ScaleRule::search}), 1) << "0.5 is a value of this one";
}

/// Searching never leaves more error than either fixed rule.
TEST(ScaleRule, SearchIsNoWorseThanEither) {
  const auto x = normal(32 * 200, 5);
  for (std::size_t i = 0; i < x.size(); i += 32) {
    const std::span<const float> group(x.data() + i, 32);
    const float absmax = range_of(group).absmax();
    const auto error = [&](ScaleFit fit) {
      return detail::squared_error<e2m1>(group, fit.value(fit_scale<e2m1>(group, absmax, fit)));
    };
    const double found = error({ScaleType::e8m0, ScaleRule::search});
    for (const ScaleRule rule : {ScaleRule::floor, ScaleRule::even, ScaleRule::ceil})
      EXPECT_LE(found, error({ScaleType::e8m0, rule}));
    const float divisor = fit_tensor_divisor<e2m1>(3 * absmax);
    EXPECT_LE(error({ScaleType::e4m3, ScaleRule::search, divisor}),
              error({ScaleType::e4m3, ScaleRule::largest, divisor}));
  }
}

TEST(SmallFloat, IsQuantizedByItsTypeToo) {
  const auto x = normal(40 * 96, 6);
  const MatrixView<const float> w(x.data(), 40, 96);
  const auto by_text = quantize(w, "e4m3-channel");
  const auto by_type = quantize<FloatCodes<e4m3>>(w, {.granularity = Granularity::channel});
  EXPECT_EQ(by_type.spec, by_text.spec);
  for (std::size_t r = 0; r < 40; ++r)
    for (std::size_t c = 0; c < 96; ++c) ASSERT_EQ(by_type.code(r, c), by_text.code(r, c));
}

/// E4M3 for AMD's hardware, say: a format of one's own is a type and a line.
struct e3m4 : SmallFloat<3, 4, Specials::none> {
  static constexpr std::string_view name = "e3m4";
};

TEST(SmallFloat, AProgramAddsAFormat) {
  static const SchemeKind kind = register_scheme(float_scheme<e3m4>());
  const auto x = normal(8 * 64, 7);
  const auto q = quantize(MatrixView<const float>(x.data(), 8, 64), "e3m4-g32-e8m0");
  EXPECT_EQ(q.spec.scheme, kind);
  EXPECT_EQ(q.spec.to_string(), "e3m4-g32-e8m0");
  for (std::size_t r = 0; r < 8; ++r)
    for (std::size_t c = 0; c < 64; ++c)
      EXPECT_NEAR(q.value(r, c), x[r * 64 + c], 0.04f * std::fabs(x[r * 64 + c]) + 0.01f);
}

/// A code that is no number is found before anything is multiplied by it, and named.
TEST(SmallFloat, ACodeOfNoNumberIsNamed) {
  const auto x = normal(8 * 64, 8);
  for (const auto& [spec, code] :
       {std::pair<const char*, std::uint8_t>{"fp8", 0x7f}, {"e4m3-t32", 0xff}, {"e5m2", 0x7c}}) {
    auto q = quantize(MatrixView<const float>(x.data(), 8, 64), spec);
    q.codes.writable<std::uint8_t>()[3 * 64 + 5] = code;
    expect_error(ErrorCode::non_finite, "row 3, column 5: the code " + std::to_string(code) + " is no number",
                 [&] { (void)default_backend().pack(q); });
  }
}

}  // namespace
}  // namespace nibble
