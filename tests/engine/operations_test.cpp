#include "nibble/engine/operations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

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

/// The values i of a head that are turned with another: whether it is the first of the two, and the pair's number.
struct InPair {
  bool first;
  std::size_t pair, other;
};
InPair pair_of(const Rotary& heads, std::size_t i) {
  const std::size_t half = heads.width / 2;
  if (heads.pairs == model::RopePairs::neighbours) return {i % 2 == 0, i / 2, i ^ 1};
  return {i < half, i % half, i < half ? i + half : i - half};
}

TEST(Rotate, BackIsTheGradientOfForward) {
  constexpr std::size_t rows = 2, dim = 6, cols = 2 * dim;
  const Floats x = normal(rows * cols, 1), grad_y = normal(rows * cols, 2);
  for (const Rotary& heads : {Rotary{dim, dim}, Rotary{dim, 4}, Rotary{dim, dim, model::RopePairs::neighbours},
                              Rotary{dim, 4, model::RopePairs::neighbours}}) {
    const std::size_t width = heads.width;
    Floats rope(rows * width);
    for (std::size_t i = 0; i < rope.size(); ++i) {
      const double angle = static_cast<double>(i / width * 3 + i % (width / 2)) + 0.3;
      rope[i] = static_cast<float>(i % width < width / 2 ? std::cos(angle) : std::sin(angle));
    }
    const auto turned = [&](const Doubles& v) {
      Doubles y = v;
      for (std::size_t i = 0; i < v.size(); ++i) {
        const std::size_t t = i / cols, c = i % dim;
        if (c >= width) continue;
        const auto [first, pair, other] = pair_of(heads, c);
        const double cosine = static_cast<double>(rope[t * width + pair]);
        const double sine = static_cast<double>(rope[t * width + width / 2 + pair]);
        y[i] = v[i] * cosine + (first ? -1 : 1) * v[i - c + other] * sine;
      }
      return y;
    };
    Floats y = x, grad_x = grad_y;
    rotate({y.data(), rows, cols}, heads, rope);
    expect_values(y, turned(doubles(x)), 1e-6);
    rotate({grad_x.data(), rows, cols}, heads, rope, Turn::back);
    expect_gradient(grad_x, Floats(x.size()), turned, x, grad_y);
  }
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
  refused(ErrorCode::shape_mismatch, "table of angles has 11", [&] { rotate(m, {6, 6}, std::span(x).first(11)); });
  refused(ErrorCode::shape_mismatch, "table of angles has 12; 8", [&] { rotate(m, {6, 4}, x); });
  refused(ErrorCode::shape_mismatch, "the last head", [&] { rotate(m, {4, 4}, std::span(x).first(8)); });
  refused(ErrorCode::shape_mismatch, "what is turned of a head has 1; 0", [&] { rotate(m, {6, 3}, x); });
  refused(ErrorCode::shape_mismatch, "what is turned of a head has 8; 6", [&] { rotate(m, {6, 8}, x); });
  const std::size_t beyond[] = {6, 0};
  refused(ErrorCode::invalid_argument, "target 0 is token 6 of a vocabulary of 6",
          [&] { cross_entropy(m, beyond, 1, serial_executor()); });
  refused(ErrorCode::shape_mismatch, "one of the five has 5; 6",
          [&] { gate_gradient(GatedActivation::silu, m.row(0), m.row(0), std::span(x).first(5), m.row(0), m.row(0)); });
}

}  // namespace
}  // namespace nibble::engine
