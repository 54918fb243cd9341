#include "nibble/quantize/activation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::expect_error;
using testing_support::normal;

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
  expect_error(ErrorCode::non_finite, "'activation'", [&] { plain.observe(x); });
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
