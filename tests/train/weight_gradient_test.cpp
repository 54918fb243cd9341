#include "nibble/train/weight_gradient.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/solver/layers.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::train {
namespace {

using testing_support::normal;
using Floats = std::vector<float>;

struct Shape {
  std::size_t n, in, out;
};
constexpr Shape kShapes[] = {{1, 8, 5}, {3, 64, 96}, {130, 100, 70}, {700, 33, 3}};

struct Layer {
  Shape s;
  Floats x, grad_y, grad_w;

  explicit Layer(const Shape& shape)
      : s(shape), x(normal(s.n * (s.in + 3), 1)), grad_y(normal(s.n * s.out, 2)), grad_w(normal(s.out * s.in, 3)) {}
  void add(Executor& executor = serial_executor(), const Backend* backend = nullptr) {
    add_weight_gradient({x.data(), s.n, s.in, s.in + 3}, {grad_y.data(), s.n, s.out}, {grad_w.data(), s.out, s.in},
                        executor, backend);
  }
};

TEST(WeightGradient, IsTheProductWithinItsBound) {
  for (const Shape& s : kShapes) {
    Layer layer(s);
    const Floats before = layer.grad_w;
    layer.add();
    for (std::size_t o = 0; o < s.out; ++o)
      for (std::size_t i = 0; i < s.in; ++i) {
        double sum = before[o * s.in + i], size = std::abs(sum);
        for (std::size_t t = 0; t < s.n; ++t) {
          const double term =
              static_cast<double>(layer.grad_y[t * s.out + o]) * static_cast<double>(layer.x[t * (s.in + 3) + i]);
          sum += term;
          size += std::abs(term);
        }
        const double bound = (257.0 + static_cast<double>(s.n) / 256) * 0x1p-24 * size;
        EXPECT_NEAR(layer.grad_w[o * s.in + i], sum, bound);
      }
  }
}

TEST(WeightGradient, NeitherThreadsNorBackendChangeABit) {
  testing_support::BackwardsExecutor three(3);
  for (const Shape& s : kShapes) {
    Layer one(s);
    one.add();
    for (const Backend* backend : testing_support::available()) {
      Layer other(s);
      other.add(three, backend);
      EXPECT_EQ(one.grad_w, other.grad_w) << backend->name();
    }
  }
}

TEST(WeightGradient, RefusesShapesThatDoNotFit) {
  Layer layer({3, 4, 5});
  testing_support::expect_error(ErrorCode::shape_mismatch, "x is 3 × 4, grad_y 3 × 5 and grad_w 4 × 5", [&] {
    add_weight_gradient({layer.x.data(), 3, 4}, {layer.grad_y.data(), 3, 5}, {layer.grad_w.data(), 4, 5});
  });
}

}  // namespace
}  // namespace nibble::train
