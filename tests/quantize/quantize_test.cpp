#include "nibble/quantize/typed.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "nibble/quantize/activation.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

void expect_error(ErrorCode code, std::initializer_list<const char*> words, const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    for (const char* w : words) EXPECT_NE(std::string(e.what()).find(w), std::string::npos) << e.what();
  }
}

TEST(Quantize, TheTypedFormIsTheTextualOne) {
  const auto w = normal(16 * 256, 1);
  const MatrixView<const float> m(w.data(), 16, 256);
  const auto a = quantize<Codebook<nf4>>(m, {.block_size = 64, .double_quant = true}), b = quantize(m, "nf4-b64-dq");
  EXPECT_EQ(a.spec, b.spec);
  EXPECT_EQ(std::memcmp(a.codes.data(), b.codes.data(), a.codes.size()), 0);
  EXPECT_EQ((quantize<Symmetric<4>>(m).spec.to_string()), "int4-g128-sym");
  EXPECT_EQ((quantize<Asymmetric<3, false>>(m, {.group_size = 32}).spec.to_string()), "int3-g32-asymraw");
}

TEST(Quantize, AGroupIsQuantizedAtCompileTime) {
  constexpr auto codes = [] {
    const std::array<float, 3> x{-1, 0, 1};
    std::array<std::uint8_t, 3> out{};
    quantize_group<Codebook<nf4>>(x, out);
    return out;
  }();
  static_assert(codes[0] == 0 && codes[1] == 7 && codes[2] == 15);
}

TEST(Quantize, NamesTheFirstValueThatIsNotFinite) {
  auto w = normal(300 * 256, 2);
  const MatrixView<const float> m(w.data(), 300, 256);
  w[200 * 256 + 3] = -INFINITY;
  w[123 * 256 + 45] = NAN;
  w[123 * 256 + 99] = INFINITY;
  for (const char* spec : {"nf4", "int4-g32-asym", "int8-tensor-sym", "nf4-b100", "llm-int8"})
    expect_error(ErrorCode::non_finite, {"'layer.weight'", "row 123", "column 45", "NaN"},
                 [&] { (void)quantize(m, spec, {.name = "layer.weight"}); });
}

TEST(Quantize, RefusesWhatCannotBeQuantized) {
  const auto w = normal(64, 3, 1e6f);
  expect_error(ErrorCode::invalid_argument, {"0 × 8"},
               [&] { (void)quantize(MatrixView<const float>(w.data(), 0, 8), "nf4"); });
  expect_error(ErrorCode::shape_mismatch, {"stride"},
               [&] { (void)quantize(MatrixView<const float>(w.data(), 2, 8, 4), "nf4"); });
  expect_error(ErrorCode::non_finite, {"scale", "row 0"},
               [&] { (void)quantize(MatrixView<const float>(w.data(), 8, 8), "int4-g8-sym-f16"); });
  expect_error(ErrorCode::unsupported, {"I32"},
               [&] { (void)quantize(FloatMatrix(w.data(), DType::i32, 8, 8, 8), "nf4"); });
}

TEST(Registry, TheEnvironmentNamesTheBackend) {
  ::setenv("NIBBLE_BACKEND", "scalar", 1);
  EXPECT_EQ(default_backend().name(), "scalar");
  ::setenv("NIBBLE_BACKEND", "avx1024", 1);
  expect_error(ErrorCode::not_found, {"avx1024", "scalar"}, [] { (void)default_backend(); });
  ::unsetenv("NIBBLE_BACKEND");
}

TEST(Observer, MinMaxPercentileAndMse) {
  auto x = normal(100000, 4);
  x[77] = 50;  // one outlier
  RangeObserver plain, percentile({.method = RangeMethod::percentile, .percentile = 0.999}),
      mse({.method = RangeMethod::mse, .bits = 4});
  for (auto* o : {&plain, &percentile, &mse})
    for (std::size_t i = 0; i < x.size(); i += 1000) o->observe(std::span(x).subspan(i, 1000));
  EXPECT_EQ(plain.range().max, 50.0f);
  EXPECT_NEAR(percentile.range().max, 3.29f, 0.15f);  // the normal quantile of 0.9995
  EXPECT_NEAR(percentile.range().min, -3.29f, 0.15f);
  EXPECT_LT(mse.range().max, 50.0f);
  const auto error = [&](AffineParams p) {
    double sum = 0;
    for (float v : x) sum += std::pow(static_cast<double>(v - affine_decode(affine_encode(v, p, 0, 15), p)), 2);
    return sum;
  };
  RangeObserver plain4({.bits = 4});
  plain4.observe(x);
  EXPECT_LT(error(mse.params()), error(plain4.params()));
  x[5] = NAN;
  expect_error(ErrorCode::non_finite, {"'activation'", "5"}, [&] { plain.observe(x); });
}

TEST(Activations, DynamicUsesEachRowsRange) {
  const float x[] = {1, 2, 3, 4, 100, 200, 300, 400};
  const auto q = quantize_dynamic({x, 2, 4}, 8, true);
  EXPECT_EQ(q.params[0].scale, 4.0f / 127);
  EXPECT_EQ(q.params[1].scale, 400.0f / 127);
  EXPECT_EQ(q.codes[3], 255);
  EXPECT_EQ(q.codes[4], q.codes[0]);
}

TEST(FakeQuantization, PassesTheGradientStraightThroughInsideTheRange) {
  const AffineParams p{0.5f, 8};
  const float x[] = {-10, -4, 0.2f, 3.5f, 3.6f, 9}, g[] = {1, 2, 3, 4, 5, 6};
  float y[6], grad[6];
  fake_quantize(x, p, 4, y);
  fake_quantize_gradient(x, p, 4, g, grad);
  EXPECT_EQ(y[0], -4.0f);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_EQ(y[5], 3.5f);
  const float expected[] = {0, 2, 3, 4, 0, 0};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(grad[i], expected[i]) << i;
}

}  // namespace
}  // namespace nibble
