#include "nibble/train/lora.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::train {
namespace {

using testing_support::available;
using testing_support::expect_error;
using testing_support::normal;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

struct Shape {
  std::size_t n, in, r, out;
};
/// The last has more tokens than are masked at once.
constexpr Shape kShapes[] = {{1, 8, 1, 5},    {3, 64, 16, 96},  {130, 300, 8, 70},
                             {9, 33, 40, 31}, {2, 700, 300, 3}, {1100, 33, 4, 19}};

/// The operands of a product and its gradients; x and y have rows that are further apart than they are long.
struct Layer {
  Shape s;
  Dropout dropout;
  float scale = 1.75f;
  Floats x, a, b, y, grad_y, grad_x, grad_a, grad_b;

  explicit Layer(const Shape& shape, float rate = 0)
      : s(shape),
        dropout{rate, 5, 7},
        x(normal(s.n * (s.in + 3), 1)),
        a(normal(s.r * s.in, 2, 0.3f)),
        b(normal(s.out * s.r, 3, 0.3f)),
        y(normal(s.n * (s.out + 1), 4)),
        grad_y(normal(s.n * s.out, 5)),
        grad_x(normal(s.n * s.in, 6)),
        grad_a(normal(s.r * s.in, 7)),
        grad_b(normal(s.out * s.r, 8)) {}
  [[nodiscard]] LoraProduct product() {
    return {{x.data(), s.n, s.in, s.in + 3},
            {a.data(), s.r, s.in},
            {b.data(), s.out, s.r},
            {y.data(), s.n, s.out, s.out + 1},
            scale,
            dropout};
  }
  [[nodiscard]] LoraGradient gradient() {
    return {product().x,
            product().a,
            product().b,
            {grad_y.data(), s.n, s.out},
            {grad_x.data(), s.n, s.in},
            {grad_a.data(), s.r, s.in},
            {grad_b.data(), s.out, s.r},
            scale,
            dropout};
  }
  /// The masked x.
  [[nodiscard]] Floats seen() {
    Floats out(s.n * s.in);
    dropout.apply(product().x, {out.data(), s.n, s.in});
    return out;
  }
};

/// Σ over k of f(k), and of the magnitudes.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) {
    value += term;
    magnitude += std::abs(term);
  }
};

double d(float x) { return static_cast<double>(x); }
constexpr double kEpsilon = 0x1p-24;

/// |actual − expected| within the documented bound of a sum of `terms` terms, added to what was there.
void expect_close(float actual, float before, const Sum& sum, std::size_t terms, const char* what) {
  const double bound =
      static_cast<double>(terms + 4) * kEpsilon * sum.magnitude + kEpsilon * std::abs(d(before) + sum.value);
  ASSERT_LE(std::abs(d(actual) - (d(before) + sum.value)), bound) << what;
}

void check_product(const Shape& s, float rate) {
  Layer l(s, rate);
  const Floats before = l.y, x = l.seen();
  const LoraProduct p = l.product();
  add_lora({&p, 1});
  for (std::size_t t = 0; t < s.n; ++t)
    for (std::size_t o = 0; o < s.out; ++o) {
      Sum sum;
      for (std::size_t k = 0; k < s.r; ++k)
        for (std::size_t i = 0; i < s.in; ++i)
          sum.add(d(l.scale) * d(x[t * s.in + i]) * d(l.a[k * s.in + i]) * d(l.b[o * s.r + k]));
      expect_close(p.y(t, o), before[t * (s.out + 1) + o], sum, s.in + s.r, "y");
    }
}

void check_gradients(const Shape& s, float rate) {
  Layer l(s, rate);
  const Layer before = l;
  const Floats x = l.seen();
  Floats mask(s.n * s.in, 1);
  l.dropout.apply(MatrixView<const float>(mask.data(), s.n, s.in), {mask.data(), s.n, s.in});
  const LoraGradient g = l.gradient();
  add_lora_gradients({&g, 1});
  // The loss is Σ grad_y·y, so each term of y is a term of each gradient without the factor that it is taken by.
  std::vector<Sum> of_x(s.n * s.in), of_a(s.r * s.in), of_b(s.out * s.r);
  for (std::size_t t = 0; t < s.n; ++t)
    for (std::size_t o = 0; o < s.out; ++o)
      for (std::size_t k = 0; k < s.r; ++k)
        for (std::size_t i = 0; i < s.in; ++i) {
          const double gy = d(l.scale) * d(l.grad_y[t * s.out + o]), a = d(l.a[k * s.in + i]), b = d(l.b[o * s.r + k]);
          of_x[t * s.in + i].add(gy * a * b * d(mask[t * s.in + i]));
          of_a[k * s.in + i].add(gy * b * d(x[t * s.in + i]));
          of_b[o * s.r + k].add(gy * a * d(x[t * s.in + i]));
        }
  for (std::size_t i = 0; i < of_x.size(); ++i)
    expect_close(l.grad_x[i], before.grad_x[i], of_x[i], s.out + s.r, "grad_x");
  for (std::size_t i = 0; i < of_a.size(); ++i)
    expect_close(l.grad_a[i], before.grad_a[i], of_a[i], s.out + s.n, "grad_a");
  for (std::size_t i = 0; i < of_b.size(); ++i)
    expect_close(l.grad_b[i], before.grad_b[i], of_b[i], s.in + s.n, "grad_b");
}

TEST(Lora, ItsProductKeepsItsBound) {
  for (const Shape& s : kShapes)
    for (const float rate : {0.0f, 0.25f}) check_product(s, rate);
}

TEST(Lora, ItsGradientsKeepTheirBounds) {
  for (const Shape& s : kShapes)
    for (const float rate : {0.0f, 0.25f}) check_gradients(s, rate);
}

TEST(Lora, BackendsAndThreadsChangeNoBit) {
  for (const Shape& s : kShapes) {
    Layer expected(s, 0.1f);
    const auto run = [](Layer& l, Executor& executor, const Backend* backend) {
      const LoraProduct p = l.product();
      const LoraGradient g = l.gradient();
      add_lora({&p, 1}, executor, backend);
      add_lora_gradients({&g, 1}, executor, backend);
    };
    run(expected, serial_executor(), &find_backend("scalar"));
    for (const Backend* backend : available())
      for (Executor* executor : {&serial_executor(), &default_executor()}) {
        Layer l(s, 0.1f);
        run(l, *executor, backend);
        EXPECT_EQ(l.y, expected.y) << backend->name();
        EXPECT_EQ(l.grad_x, expected.grad_x) << backend->name();
        EXPECT_EQ(l.grad_a, expected.grad_a) << backend->name();
        EXPECT_EQ(l.grad_b, expected.grad_b) << backend->name();
      }
  }
}

TEST(Lora, ATokensResultDoesNotDependOnItsBatch) {
  Layer whole(kShapes[2]), parts(kShapes[2]);
  const LoraProduct p = whole.product(), q = parts.product();
  add_lora({&p, 1});
  const LoraProduct slices[] = {{q.x.row_range(0, 7), q.a, q.b, q.y.row_range(0, 7), q.scale, {}},
                                {q.x.row_range(7, 123), q.a, q.b, q.y.row_range(7, 123), q.scale, {}}};
  add_lora(slices);
  EXPECT_EQ(whole.y, parts.y);
}

TEST(Lora, ComputesOnlyTheGradientsThatAreWanted) {
  Layer all(kShapes[1], 0.1f);
  const LoraGradient g = all.gradient();
  add_lora_gradients({&g, 1});
  Layer each(kShapes[1], 0.1f);
  LoraGradient x = each.gradient(), a = x, b = x;
  x.grad_a = a.grad_b = b.grad_x = {};
  x.grad_b = a.grad_x = b.grad_a = {};
  const LoraGradient one_by_one[] = {x, a, b};
  add_lora_gradients(one_by_one);
  EXPECT_EQ(all.grad_x, each.grad_x);
  EXPECT_EQ(all.grad_a, each.grad_a);
  EXPECT_EQ(all.grad_b, each.grad_b);
}

TEST(Lora, RefusesBeforeItWrites) {
  Layer l(kShapes[1]);
  const Floats before = l.y;
  const auto refused = [&](const char* words, auto change) {
    LoraProduct products[] = {l.product(), l.product()};
    change(products[1]);
    expect_error(ErrorCode::shape_mismatch, words, [&] { add_lora(products); });
    EXPECT_EQ(l.y, before);
  };
  refused("number 1: A is 16 × 63; 16 × 64", [](LoraProduct& p) { p.a.cols = 63; });
  refused("number 1: B is 96 × 15; 96 × 16", [](LoraProduct& p) { p.b.cols = 15; });
  refused("number 1: y is 2 × 96; 3 × 96", [](LoraProduct& p) { p.y.rows = 2; });
  LoraGradient g = l.gradient();
  g.grad_a.rows = 15;
  expect_error(ErrorCode::shape_mismatch, "grad_a is 15 × 64; 16 × 64", [&] { add_lora_gradients({&g, 1}); });
  LoraProduct p = l.product();
  p.dropout.rate = 1;
  expect_error(ErrorCode::invalid_argument, "the rate is 1", [&] { add_lora({&p, 1}); });
}

}  // namespace
}  // namespace nibble::train
