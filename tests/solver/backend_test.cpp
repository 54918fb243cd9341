// The solvers use the caller's backend and never ask for the default, and whose kernels they use changes no bit.
#include <gtest/gtest.h>

#include "nibble/quantize/quantize.h"
#include "nibble/solver/awq.h"
#include "nibble/solver/gptq.h"
#include "tests/solver/layers.h"
#include "tests/support/backends.h"
#include "tests/support/counting_backend.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::size_t kRows = 40, kCols = 96, kTokens = 300;

/// All numbers that the solvers gave.
struct Results {
  std::vector<QuantizedMatrix> matrices;
  std::vector<double> numbers;
};

/// Everything that takes a backend, with this one.
Results solve_all(const Backend* backend) {
  const auto x = correlated(kTokens, kCols, 1), full = correlated(kTokens, kCols, 2), w = normal(kRows * kCols, 3);
  Results out;
  Hessian h(kCols, "x"), both(kCols, "x and full", true), none(kCols, "nothing");
  h.add(view(x, kCols), serial_executor(), backend);
  both.add(view(x, kCols), view(full, kCols), serial_executor(), backend);
  for (std::size_t i = 0; i < kCols; ++i)
    for (const double sum : {h.sum(i, 0), h.sum(i, i), both.sum(i, 0), both.cross(i, 1)}) out.numbers.push_back(sum);
  for (const bool twice : {false, true})
    for (const Hessian* hessian : {&h, &both, &none}) {
      gptq::Options o{.bits = 3, .group_size = 32, .double_precision = twice, .backend = backend};
      o.alpha = hessian->asymmetric() ? 0.25 : 0;
      auto [matrix, report] = gptq::solve(view(w, kCols), *hessian, o);
      EXPECT_EQ(report.fallback.empty(), hessian != &none);
      out.numbers.push_back(report.loss);
      out.numbers.push_back(gptq::layer_loss(view(w, kCols), matrix, h, serial_executor(), backend));
      out.matrices.push_back(std::move(matrix));
    }
  awq::ActivationStats stats(kCols);
  stats.add(view(x, kCols));
  const awq::LinearWeights linear{"w", view(w, kCols)};
  const auto spec = QuantSpec::parse("int3-g32-asym");
  const auto found = awq::search_scales({&linear, 1}, stats, {.spec = spec, .grid = 4, .backend = backend});
  const auto limits = awq::search_clip(linear, stats, {.spec = spec, .grid = 8, .steps = 3, .backend = backend});
  out.numbers.insert(out.numbers.end(), found.losses.begin(), found.losses.end());
  out.numbers.insert(out.numbers.end(), limits.begin(), limits.end());
  return out;
}

void expect_equal(const Results& a, const Results& b) {
  EXPECT_EQ(a.numbers, b.numbers);
  ASSERT_EQ(a.matrices.size(), b.matrices.size());
  for (std::size_t i = 0; i < a.matrices.size(); ++i) expect_same(a.matrices[i], b.matrices[i]);
}

TEST(SolverBackend, EveryBuiltInOneGivesTheBitsOfTheDefault) {
  const Results expected = solve_all(nullptr);
  const NoDefaultBackend guard;
  expect_error(ErrorCode::not_found, "nobody asks", [] { (void)solve_all(nullptr); });
  for (const Backend* backend : available()) {
    SCOPED_TRACE(backend->name());
    expect_equal(solve_all(backend), expected);
  }
}

TEST(SolverBackend, OneOfTheCallersOwnRoundsAndDecodes) {
  const Results expected = solve_all(nullptr);
  const NoDefaultBackend guard;
  const CountingBackend own;
  expect_equal(solve_all(&own), expected);
  EXPECT_EQ(own.quantized, 2 + 4);  // the layers nothing is known of, and the ratios tried
  EXPECT_GE(own.decoded, 4 + 6);    // the ratios, and each loss
}

}  // namespace
}  // namespace nibble
