#include "nibble/engine/operations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::engine {
namespace {

using testing_support::expect_error;
using testing_support::normal;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Function = std::function<Doubles(const Doubles&)>;

Doubles doubles(const Floats& x) { return {x.begin(), x.end()}; }

/// The operation's results against the same computed in double.
void expect_values(const Floats& actual, const Doubles& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const double y : expected) largest = std::max(largest, std::abs(y));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * largest) << "element " << i;
}

/// `actual` less `before` against central differences of Σ grad_y·f in double, by each element of x.
void expect_gradient(const Floats& actual, const Floats& before, const Function& f, const Floats& x,
                     const Floats& grad_y) {
  Doubles at = doubles(x), expected(x.size());
  const auto loss = [&] {
    const Doubles y = f(at);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(grad_y[i]) * y[i];
    return sum;
  };
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double there = at[i], h = 1e-5;
    at[i] = there + h;
    const double above = loss();
    at[i] = there - h;
    expected[i] = static_cast<double>(before[i]) + (above - loss()) / (2 * h);
    at[i] = there;
  }
  expect_values(actual, expected, 2e-6);
}

// RMSNorm

Doubles norm_of(const Doubles& x, const Doubles& weight, double epsilon) {
  Doubles y(x.size());
  const std::size_t cols = weight.size();
  for (std::size_t r = 0; r < x.size() / cols; ++r) {
    double mean = 0;
    for (std::size_t c = 0; c < cols; ++c) mean += x[r * cols + c] * x[r * cols + c] / static_cast<double>(cols);
    for (std::size_t c = 0; c < cols; ++c) y[r * cols + c] = x[r * cols + c] / std::sqrt(mean + epsilon) * weight[c];
  }
  return y;
}

TEST(RmsNorm, ItsGradientsAreThoseOfDifferences) {
  constexpr std::size_t rows = 3, cols = 21;
  const Floats x = normal(rows * cols, 1), weight = normal(cols, 2), grad_y = normal(rows * cols, 3);
  const Floats before_x = normal(rows * cols, 4), before_weight = normal(cols, 5);
  Floats y(rows * cols), grad_x = before_x, grad_weight = before_weight;
  rms_norm(MatrixView<const float>(x.data(), rows, cols), weight, 1e-2, {y.data(), rows, cols});
  expect_values(y, norm_of(doubles(x), doubles(weight), 1e-2), 1e-6);
  rms_norm_gradient(MatrixView<const float>(x.data(), rows, cols), weight, 1e-2,
                    MatrixView<const float>(grad_y.data(), rows, cols), {grad_x.data(), rows, cols}, grad_weight);
  expect_gradient(
      grad_x, before_x, [&](const Doubles& v) { return norm_of(v, doubles(weight), 1e-2); }, x, grad_y);
  expect_gradient(
      grad_weight, before_weight, [&](const Doubles& v) { return norm_of(doubles(x), v, 1e-2); }, weight, grad_y);
}

// RoPE

TEST(Rotate, BackIsTheGradientOfForward) {
  constexpr std::size_t rows = 2, dim = 6, cols = 2 * dim;
  const Floats x = normal(rows * cols, 1), grad_y = normal(rows * cols, 2);
  Floats rope(rows * dim);
  for (std::size_t i = 0; i < rope.size(); ++i) {
    const double angle = static_cast<double>(i / dim * 3 + i % (dim / 2)) + 0.3;
    rope[i] = static_cast<float>(i % dim < dim / 2 ? std::cos(angle) : std::sin(angle));
  }
  const auto turned = [&](const Doubles& v) {
    Doubles y(v.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      const std::size_t t = i / cols, c = i % dim, half = dim / 2;
      const double cosine = static_cast<double>(rope[t * dim + c % half]);
      const double sine = static_cast<double>(rope[t * dim + half + c % half]);
      y[i] = c < half ? v[i] * cosine - v[i + half] * sine : v[i] * cosine + v[i - half] * sine;
    }
    return y;
  };
  Floats y = x, grad_x = grad_y;
  rotate({y.data(), rows, cols}, dim, rope);
  expect_values(y, turned(doubles(x)), 1e-6);
  rotate({grad_x.data(), rows, cols}, dim, rope, Turn::back);
  expect_gradient(grad_x, Floats(x.size()), turned, x, grad_y);
}

// Attention

struct AttentionCase {
  std::size_t n, offset, heads, kv_heads, dim, window;
  std::vector<std::size_t> first;
  float cap;
  Floats queries, keys, values;

  AttentionCase(std::size_t n_, std::size_t offset_, std::size_t heads_, std::size_t kv_heads_, std::size_t window_,
                std::vector<std::size_t> first_, float cap_)
      : n(n_),
        offset(offset_),
        heads(heads_),
        kv_heads(kv_heads_),
        dim(18),
        window(window_),
        first(std::move(first_)),
        cap(cap_),
        queries(normal(n * heads * dim, 1)),
        keys(normal((offset + n) * kv_heads * dim, 2)),
        values(normal((offset + n) * kv_heads * dim, 3)) {}
  [[nodiscard]] Attention call() const {
    return {.queries = {queries.data(), n, heads * dim},
            .keys = {keys.data(), offset + n, kv_heads * dim},
            .values = {values.data(), offset + n, kv_heads * dim},
            .head_dim = dim,
            .offset = offset,
            .window = window,
            .first = first,
            .scale = 0.4f,
            .cap = cap};
  }
  /// In double, straight from the definition.
  [[nodiscard]] Doubles of(const Doubles& q, const Doubles& k, const Doubles& v) const {
    Doubles out(n * heads * dim);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t kv = h / (heads / kv_heads);
        Doubles weights(offset + t + 1);
        double total = 0;
        for (std::size_t j = 0; j <= offset + t; ++j) {
          if ((!first.empty() && j < first[t]) || (window != 0 && j + window <= offset + t)) continue;
          double score = 0;
          for (std::size_t i = 0; i < dim; ++i)
            score += q[(t * heads + h) * dim + i] * k[(j * kv_heads + kv) * dim + i];
          score *= static_cast<double>(0.4f);
          if (cap != 0) score = std::tanh(score / static_cast<double>(cap)) * static_cast<double>(cap);
          total += weights[j] = std::exp(score);
        }
        for (std::size_t j = 0; j <= offset + t; ++j)
          for (std::size_t i = 0; i < dim; ++i)
            out[(t * heads + h) * dim + i] += weights[j] / total * v[(j * kv_heads + kv) * dim + i];
      }
    return out;
  }
};

std::vector<AttentionCase> attention_cases() {
  std::vector<AttentionCase> all;
  all.emplace_back(5, 0, 1, 1, 0, std::vector<std::size_t>{}, 0.0f);
  all.emplace_back(6, 3, 4, 2, 0, std::vector<std::size_t>{}, 0.0f);
  all.emplace_back(7, 2, 2, 1, 4, std::vector<std::size_t>{}, 1.5f);
  all.emplace_back(6, 0, 4, 4, 3, std::vector<std::size_t>{0, 0, 0, 3, 3, 5}, 0.0f);
  return all;
}

TEST(AttentionOperation, ItsGradientsAreThoseOfDifferences) {
  for (const AttentionCase& c : attention_cases()) {
    Floats out(c.queries.size());
    const Floats grad_out = normal(out.size(), 4), before_q = normal(out.size(), 5),
                 before_k = normal(c.keys.size(), 6), before_v = normal(c.keys.size(), 7);
    Floats q = before_q, k = before_k, v = before_v;
    const Attention call = c.call();
    attention(call, {out.data(), c.n, c.heads * c.dim}, default_executor());
    const Doubles dq = doubles(c.queries), dk = doubles(c.keys), dv = doubles(c.values);
    expect_values(out, c.of(dq, dk, dv), 1e-6);
    attention_gradient(call, MatrixView<const float>(out.data(), c.n, c.heads * c.dim),
                       MatrixView<const float>(grad_out.data(), c.n, c.heads * c.dim), {q.data(), c.n, c.heads * c.dim},
                       {k.data(), c.offset + c.n, c.kv_heads * c.dim}, {v.data(), c.offset + c.n, c.kv_heads * c.dim},
                       default_executor());
    expect_gradient(
        q, before_q, [&](const Doubles& x) { return c.of(x, dk, dv); }, c.queries, grad_out);
    expect_gradient(
        k, before_k, [&](const Doubles& x) { return c.of(dq, x, dv); }, c.keys, grad_out);
    expect_gradient(
        v, before_v, [&](const Doubles& x) { return c.of(dq, dk, x); }, c.values, grad_out);
  }
}

TEST(AttentionOperation, ThreadsChangeNoBit) {
  const AttentionCase c(300, 0, 4, 2, 0, {}, 0);
  Floats results[2][4];
  for (int run = 0; run < 2; ++run) {
    Executor& executor = run == 0 ? serial_executor() : default_executor();
    Floats &out = results[run][0], &q = results[run][1], &k = results[run][2], &v = results[run][3];
    out.resize(c.queries.size()), q.resize(out.size()), k.resize(c.keys.size()), v.resize(c.keys.size());
    const MatrixView<float> o(out.data(), c.n, c.heads * c.dim);
    attention(c.call(), o, executor);
    attention_gradient(c.call(), o, o, {q.data(), c.n, c.heads * c.dim}, {k.data(), c.n, c.kv_heads * c.dim},
                       {v.data(), c.n, c.kv_heads * c.dim}, executor);
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(results[0][i], results[1][i]);
}

// A document that is packed behind another has the bits that it has alone.
TEST(AttentionOperation, DocumentsBesideEachOtherDoNotMeet) {
  AttentionCase packed(6, 0, 2, 1, 0, {0, 0, 2, 2, 2, 2}, 0);
  Floats together(packed.queries.size()), alone(4 * 2 * packed.dim);
  attention(packed.call(), {together.data(), 6, 2 * packed.dim}, serial_executor());
  Attention second = packed.call();
  second.queries = second.queries.row_range(2, 4);
  second.keys = second.keys.row_range(2, 4);
  second.values = second.values.row_range(2, 4);
  second.first = {};
  attention(second, {alone.data(), 4, 2 * packed.dim}, serial_executor());
  EXPECT_TRUE(
      std::equal(alone.begin(), alone.end(), together.begin() + 2 * 2 * static_cast<std::ptrdiff_t>(packed.dim)));
}

// Gates

double gated(GatedActivation activation, double g) {
  if (activation == GatedActivation::silu) return g / (1 + std::exp(-g));
  if (activation == GatedActivation::gelu) return g * std::erfc(-g / std::numbers::sqrt2) / 2;
  return g / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (g + 0.044715 * g * g * g)));
}

TEST(GateGradient, IsThatOfDifferences) {
  for (const auto activation : {GatedActivation::silu, GatedActivation::gelu, GatedActivation::gelu_tanh}) {
    const Floats gate = normal(200, 1, 2), up = normal(200, 2), grad_y = normal(200, 3);
    const Floats before_gate = normal(200, 4), before_up = normal(200, 5);
    Floats grad_gate = before_gate, grad_up = before_up;
    gate_gradient(activation, gate, up, grad_y, grad_gate, grad_up);
    const auto product = [&](const Doubles& g, const Doubles& u) {
      Doubles y(g.size());
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = gated(activation, g[i]) * u[i];
      return y;
    };
    expect_gradient(
        grad_gate, before_gate, [&](const Doubles& v) { return product(v, doubles(up)); }, gate, grad_y);
    expect_gradient(
        grad_up, before_up, [&](const Doubles& v) { return product(doubles(gate), v); }, up, grad_y);
  }
}

// Cross-entropy

TEST(CrossEntropy, ItsGradientIsThatOfDifferences) {
  constexpr std::size_t rows = 4, vocabulary = 13;
  const std::vector<std::size_t> targets{3, kNoTarget, 0, 12};
  const Floats logits = normal(rows * vocabulary, 1, 3);
  const auto loss = [&](const Doubles& v) {
    double sum = 0;
    for (std::size_t t = 0; t < rows; ++t) {
      if (targets[t] == kNoTarget) continue;
      double total = 0;
      for (std::size_t i = 0; i < vocabulary; ++i) total += std::exp(v[t * vocabulary + i]);
      sum += std::log(total) - v[t * vocabulary + targets[t]];
    }
    return Doubles{sum};
  };
  Floats gradient = logits, untouched = logits;
  const CrossEntropy value = cross_entropy({untouched.data(), rows, vocabulary}, targets, 0, serial_executor());
  EXPECT_EQ(untouched, logits);
  EXPECT_EQ(value.targets, 3);
  EXPECT_NEAR(value.loss, loss(doubles(logits))[0], 1e-5);
  EXPECT_EQ(cross_entropy({gradient.data(), rows, vocabulary}, targets, 0.5f, default_executor()).loss, value.loss);
  expect_gradient(gradient, Floats(logits.size()), loss, logits, {0.5f});
}

TEST(CrossEntropy, OfLargeLogitsIsFinite) {
  Floats logits{1000, 0, -1000};
  const std::size_t target[] = {1};
  EXPECT_EQ(cross_entropy({logits.data(), 1, 3}, target, 1, serial_executor()).loss, 1000);
  EXPECT_EQ(logits, (Floats{1, -1, 0}));
}

TEST(Operations, RefuseWhatDoesNotFit) {
  Floats x(12);
  const MatrixView<float> m(x.data(), 2, 6);
  const auto refused = [](ErrorCode code, const char* words, auto action) { expect_error(code, words, action); };
  refused(ErrorCode::shape_mismatch, "the weight has 5; 6", [&] { rms_norm(m, std::span(x).first(5), 0, m); });
  refused(ErrorCode::shape_mismatch, "table of angles has 11", [&] { rotate(m, 6, std::span(x).first(11)); });
  refused(ErrorCode::shape_mismatch, "the last head", [&] { rotate(m, 4, std::span(x).first(8)); });
  const std::size_t beyond[] = {6, 0};
  refused(ErrorCode::invalid_argument, "target 0 is token 6 of a vocabulary of 6",
          [&] { cross_entropy(m, beyond, 1, serial_executor()); });
  Attention a{.queries = m, .keys = m, .values = m, .head_dim = 3};
  attention(a, m, serial_executor());
  a.offset = 1;
  refused(ErrorCode::shape_mismatch, "keys is 2 × 6; 3 × 6", [&] { attention(a, m, serial_executor()); });
  a.offset = 0;
  const std::size_t late[] = {0, 2};
  a.first = late;
  refused(ErrorCode::invalid_argument, "query 1 would see nothing", [&] { attention(a, m, serial_executor()); });
  refused(ErrorCode::shape_mismatch, "one of the five has 5; 6",
          [&] { gate_gradient(GatedActivation::silu, m.row(0), m.row(0), std::span(x).first(5), m.row(0), m.row(0)); });
}

}  // namespace
}  // namespace nibble::engine
