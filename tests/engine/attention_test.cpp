// attention() and attention_gradient() of engine/operations.h: against the definition in double, against differences,
// and the bits that must not depend on what is beside a query.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "nibble/engine/operations.h"
#include "tests/support/differences.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::engine {
namespace {

using testing_support::Doubles;
using testing_support::doubles;
using testing_support::expect_error;
using testing_support::expect_gradient;
using testing_support::expect_values;
using testing_support::Floats;
using testing_support::normal;

struct Shape {
  std::size_t n, offset, heads, kv_heads, dim, window = 0;
  std::vector<std::size_t> first = {};
  float cap = 0;
};

struct Gradients {
  Floats queries, keys, values;
};

struct Problem {
  Shape s;
  Floats queries, keys, values;

  explicit Problem(Shape shape)
      : s(std::move(shape)),
        queries(normal(s.n * width(), 1)),
        keys(normal((s.offset + s.n) * kv_width(), 2)),
        values(normal((s.offset + s.n) * kv_width(), 3)) {}

  [[nodiscard]] std::size_t width() const { return s.heads * s.dim; }
  [[nodiscard]] std::size_t kv_width() const { return s.kv_heads * s.dim; }
  [[nodiscard]] Attention call() const {
    return {.queries = {queries.data(), s.n, width()},
            .keys = {keys.data(), s.offset + s.n, kv_width()},
            .values = {values.data(), s.offset + s.n, kv_width()},
            .head_dim = s.dim,
            .offset = s.offset,
            .window = s.window,
            .first = s.first,
            .scale = scale(),
            .cap = s.cap};
  }
  [[nodiscard]] float scale() const { return 1.7f / std::sqrt(static_cast<float>(s.dim)); }

  [[nodiscard]] Floats forward(Executor& executor = default_executor()) const {
    Floats out(queries.size());
    attention(call(), {out.data(), s.n, width()}, executor);
    return out;
  }
  /// Added to what the three hold.
  void backward(const Floats& out, const Floats& grad_out, Gradients& to,
                Executor& executor = default_executor()) const {
    const auto rows = [&](const Floats& x) { return MatrixView<const float>(x.data(), s.n, width()); };
    attention_gradient(call(), rows(out), rows(grad_out), {to.queries.data(), s.n, width()},
                       {to.keys.data(), s.offset + s.n, kv_width()}, {to.values.data(), s.offset + s.n, kv_width()},
                       executor);
  }
  [[nodiscard]] Gradients zeros() const { return {Floats(queries.size()), Floats(keys.size()), Floats(values.size())}; }

  [[nodiscard]] bool sees(std::size_t t, std::size_t j) const {
    return j <= s.offset + t && (s.first.empty() || j >= s.first[t]) && (s.window == 0 || j + s.window > s.offset + t);
  }
  /// Calls body(weights, slopes of the scores, head of the keys) for every query and head.
  template <class Body>
  void each_row(const Doubles& q, const Doubles& k, Body body) const {
    for (std::size_t t = 0; t < s.n; ++t)
      for (std::size_t h = 0; h < s.heads; ++h) {
        const std::size_t kv = h / (s.heads / s.kv_heads);
        Doubles weights(s.offset + t + 1), slopes(weights.size());
        double total = 0;
        for (std::size_t j = 0; j < weights.size(); ++j) {
          if (!sees(t, j)) continue;
          double score = 0;
          for (std::size_t i = 0; i < s.dim; ++i)
            score += q[(t * s.heads + h) * s.dim + i] * k[(j * s.kv_heads + kv) * s.dim + i];
          score *= static_cast<double>(scale());
          slopes[j] = static_cast<double>(scale());
          if (s.cap != 0) {
            const double share = std::tanh(score / static_cast<double>(s.cap));
            score = share * static_cast<double>(s.cap);
            slopes[j] *= 1 - share * share;
          }
          total += weights[j] = std::exp(score);
        }
        for (double& w : weights) w /= total;
        body(t, h, kv, weights, slopes);
      }
  }
  /// Straight from the definition.
  [[nodiscard]] Doubles of(const Doubles& q, const Doubles& k, const Doubles& v) const {
    Doubles out(q.size());
    each_row(q, k, [&](std::size_t t, std::size_t h, std::size_t kv, const Doubles& weights, const Doubles&) {
      for (std::size_t j = 0; j < weights.size(); ++j)
        for (std::size_t i = 0; i < s.dim; ++i)
          out[(t * s.heads + h) * s.dim + i] += weights[j] * v[(j * s.kv_heads + kv) * s.dim + i];
    });
    return out;
  }
  /// d Σ grad_out·out by each input, in double.
  void gradients(const Doubles& grad_out, Doubles& dq, Doubles& dk, Doubles& dv) const {
    const Doubles q = doubles(queries), k = doubles(keys), v = doubles(values);
    dq.assign(q.size(), 0), dk.assign(k.size(), 0), dv.assign(v.size(), 0);
    each_row(q, k, [&](std::size_t t, std::size_t h, std::size_t kv, const Doubles& weights, const Doubles& slopes) {
      const std::size_t at = (t * s.heads + h) * s.dim;
      const auto key = [&](std::size_t j) { return (j * s.kv_heads + kv) * s.dim; };
      Doubles meets(weights.size());
      double mean = 0;
      for (std::size_t j = 0; j < weights.size(); ++j) {
        for (std::size_t i = 0; i < s.dim; ++i) meets[j] += grad_out[at + i] * v[key(j) + i];
        mean += weights[j] * meets[j];
      }
      for (std::size_t j = 0; j < weights.size(); ++j) {
        const double slope = weights[j] * (meets[j] - mean) * slopes[j];
        for (std::size_t i = 0; i < s.dim; ++i) {
          dq[at + i] += slope * k[key(j) + i];
          dk[key(j) + i] += slope * q[at + i];
          dv[key(j) + i] += weights[j] * grad_out[at + i];
        }
      }
    });
  }
};

/// `n` queries of documents that begin at the given ones.
std::vector<std::size_t> documents(std::size_t n, std::initializer_list<std::size_t> begins) {
  std::vector<std::size_t> first(n);
  for (const std::size_t begin : begins)
    std::fill(first.begin() + static_cast<std::ptrdiff_t>(begin), first.end(), begin);
  return first;
}

TEST(Attention, ItsGradientsAreThoseOfDifferences) {
  const Shape shapes[] = {
      {5, 0, 1, 1, 18}, {6, 3, 4, 2, 18}, {7, 2, 2, 1, 18, 4, {}, 1.5f}, {6, 0, 4, 4, 18, 3, {0, 0, 0, 3, 3, 5}}};
  for (const Shape& shape : shapes) {
    const Problem p(shape);
    const Floats out = p.forward(), grad_out = normal(out.size(), 4);
    const Gradients before{normal(out.size(), 5), normal(p.keys.size(), 6), normal(p.values.size(), 7)};
    Gradients after = before;
    p.backward(out, grad_out, after);
    const Doubles q = doubles(p.queries), k = doubles(p.keys), v = doubles(p.values);
    expect_values(out, p.of(q, k, v), 1e-6);
    const auto by = [&](const Floats& got, const Floats& from, auto f, const Floats& at) {
      expect_gradient(got, from, f, at, grad_out);
    };
    by(
        after.queries, before.queries, [&](const Doubles& x) { return p.of(x, k, v); }, p.queries);
    by(
        after.keys, before.keys, [&](const Doubles& x) { return p.of(q, x, v); }, p.keys);
    by(
        after.values, before.values, [&](const Doubles& x) { return p.of(q, k, x); }, p.values);
  }
}

// Longer than a strip, than a part of a sum and than a panel; heads of all widths; windows and documents across parts.
TEST(Attention, FollowsTheDefinitionInEveryShape) {
  const Shape shapes[] = {{70, 0, 3, 1, 64},
                          {300, 0, 2, 1, 48},
                          {45, 290, 2, 2, 16},
                          {1, 700, 8, 2, 80},
                          {40, 0, 1, 1, 300},
                          {320, 0, 2, 1, 32, 37},
                          {290, 300, 1, 1, 8, 270},
                          {60, 0, 40, 1, 4},
                          {330, 0, 2, 2, 24, 0, documents(330, {3, 40, 301})},
                          {290, 0, 2, 1, 20, 19, documents(290, {1, 100}), 2.0f}};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(testing::Message() << shape.n << " queries after " << shape.offset << ", heads " << shape.heads << "/"
                                    << shape.kv_heads << " of " << shape.dim << ", window " << shape.window);
    const Problem p(shape);
    const Floats out = p.forward(), grad_out = normal(out.size(), 4);
    expect_values(out, p.of(doubles(p.queries), doubles(p.keys), doubles(p.values)), 2e-6);
    Gradients got = p.zeros();
    p.backward(out, grad_out, got);
    Doubles dq, dk, dv;
    p.gradients(doubles(grad_out), dq, dk, dv);
    expect_values(got.queries, dq, 3e-6);
    expect_values(got.keys, dk, 3e-6);
    expect_values(got.values, dv, 3e-6);
  }
}

TEST(Attention, ThreadsChangeNoBit) {
  const Problem p({300, 0, 4, 2, 18, 0, documents(300, {7, 130})});
  Floats outs[2];
  Gradients gradients[2] = {p.zeros(), p.zeros()};
  for (int run = 0; run < 2; ++run) {
    Executor& executor = run == 0 ? serial_executor() : default_executor();
    outs[run] = p.forward(executor);
    p.backward(outs[run], outs[run], gradients[run], executor);
  }
  EXPECT_EQ(outs[0], outs[1]);
  EXPECT_EQ(gradients[0].queries, gradients[1].queries);
  EXPECT_EQ(gradients[0].keys, gradients[1].keys);
  EXPECT_EQ(gradients[0].values, gradients[1].values);
}

// What a model says of a text does not depend on how many of its tokens it is shown at a time.
TEST(Attention, QueriesOneByOneHaveTheBitsOfAllTogether) {
  for (const std::size_t window : {0u, 5u, 300u}) {
    const Problem p({600, 0, 6, 2, 40, window});
    const Floats together = p.forward();
    for (const std::size_t step : {1u, 7u, 64u}) {
      Floats apart(together.size());
      for (std::size_t t = 0; t < p.s.n; t += step) {
        const std::size_t count = std::min(step, p.s.n - t);
        Attention part = p.call();
        part.queries = part.queries.row_range(t, count);
        part.keys = part.keys.row_range(0, t + count);
        part.values = part.values.row_range(0, t + count);
        part.offset = t;
        attention(part, {apart.data() + t * p.width(), count, p.width()}, serial_executor());
      }
      EXPECT_EQ(apart, together) << "window " << window << ", " << step << " at a time";
    }
  }
}

// A document that is packed behind others has the bits that it has alone, and its keys' gradients, too.
TEST(Attention, DocumentsBesideEachOtherDoNotMeet) {
  const Problem packed({400, 0, 2, 1, 24, 0, documents(400, {50, 333})});
  const Floats together = packed.forward(), grad_out = normal(together.size(), 4);
  Gradients all = packed.zeros();
  packed.backward(together, grad_out, all);
  const std::size_t begins[] = {0, 50, 333, 400};
  for (int d = 0; d < 3; ++d) {
    const std::size_t n = begins[d + 1] - begins[d];
    const auto slice = [&](const Floats& x) {
      const std::size_t cols = x.size() / 400;
      return Floats(x.begin() + static_cast<std::ptrdiff_t>(begins[d] * cols),
                    x.begin() + static_cast<std::ptrdiff_t>(begins[d + 1] * cols));
    };
    Problem alone({n, 0, 2, 1, 24});
    alone.queries = slice(packed.queries), alone.keys = slice(packed.keys), alone.values = slice(packed.values);
    const Floats out = alone.forward();
    EXPECT_EQ(out, slice(together)) << "document " << d;
    Gradients own = alone.zeros();
    alone.backward(out, slice(grad_out), own);
    EXPECT_EQ(own.queries, slice(all.queries));
    EXPECT_EQ(own.keys, slice(all.keys));
    EXPECT_EQ(own.values, slice(all.values));
  }
}

// The last is of several parts of a sum, the first of several strips.
TEST(Attention, WhatIsNotFiniteIsThereForThoseThatSeeItAlone) {
  for (const std::size_t n : {64u, 400u}) {
    Problem p({n, 0, 2, 1, 16, 0, documents(n, {30})});
    const Floats before = p.forward();
    p.values[(n - 20) * p.kv_width()] = INFINITY;
    p.keys[(n - 10) * p.kv_width()] = NAN;
    p.values[12 * p.kv_width()] = NAN;
    const Floats after = p.forward();
    for (std::size_t t = 0; t < n; ++t) {
      const bool sees = (t >= 12 && t < 30) || t >= n - 20;
      EXPECT_EQ(std::isfinite(after[t * p.width()]), !sees) << t;
      if (!sees) EXPECT_EQ(after[t * p.width()], before[t * p.width()]) << t;
    }
  }
}

// The same on every processor: this test runs with each backend as the default.
TEST(Attention, TheBitsAreThoseOfEveryBackend) {
  Problem p({150, 140, 4, 2, 40, 280});
  std::uint32_t state = 1;
  for (Floats* x : {&p.queries, &p.keys, &p.values})
    for (float& value : *x)
      value = static_cast<float>(static_cast<std::int32_t>(state = state * 1664525 + 1013904223)) / 0x1p30f;
  const Floats out = p.forward();
  Gradients gradients = p.zeros();
  p.backward(out, out, gradients);
  std::uint64_t hash = 14695981039346656037u;
  for (const Floats& x : {out, gradients.queries, gradients.keys, gradients.values})
    for (const float value : x) hash = (hash ^ std::bit_cast<std::uint32_t>(value)) * 1099511628211u;
  EXPECT_EQ(hash, 10547175720426102090u);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  Floats x(12, 1.0f);
  const MatrixView<float> m(x.data(), 2, 6);
  Attention a{.queries = m, .keys = m, .values = m, .head_dim = 3};
  attention(a, m, serial_executor());
  a.offset = 1;
  expect_error(ErrorCode::shape_mismatch, "keys is 2 × 6; 3 × 6", [&] { attention(a, m, serial_executor()); });
  a.offset = 0;
  const std::size_t late[] = {0, 2};
  a.first = late;
  expect_error(ErrorCode::invalid_argument, "query 1 would see nothing", [&] { attention(a, m, serial_executor()); });
  a.first = {};
  for (const float scale : {0.0f, -1.0f, NAN}) {
    a.scale = scale;
    expect_error(ErrorCode::invalid_argument, "the scale is", [&] { attention(a, m, serial_executor()); });
  }
}

}  // namespace
}  // namespace nibble::engine
