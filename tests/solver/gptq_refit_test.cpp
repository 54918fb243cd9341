// Scales refitted by least squares once the codes are known.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/solver/layers.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::gptq {
namespace {

using namespace testing_support;

constexpr std::size_t kRows = 40, kCols = 200;

std::vector<Options> cases() {
  return {{.bits = 3, .group_size = 64},
          {.bits = 2, .group_size = 32, .symmetric = false},
          {.bits = 2, .group_size = 48, .symmetric = false, .act_order = true},
          {.bits = 3, .group_size = 48, .act_order = true, .static_groups = true},
          {.bits = 3, .group_size = 25, .symmetric = false, .act_group_aware = true, .grid_search = true},
          {.bits = 4, .group_size = -1, .scale_type = ScaleType::f32},
          {.bits = 2, .group_size = 300, .double_precision = true}};
}

Options refitted(Options o) {
  o.refit_scales = true;
  return o;
}

Hessian layer() { return hessian_of(correlated(2 * kCols, kCols, 7), kCols); }

TEST(GptqRefit, LosesLessByOtherScalesAlone) {
  const Hessian h = layer();
  const auto w = normal(kRows * kCols, 1);
  for (const Options& o : cases()) {
    const auto [before, plain] = solve(view(w, kCols), h, o);
    const auto [after, report] = solve(view(w, kCols), h, refitted(o));
    EXPECT_LT(report.loss, 0.999 * plain.loss);
    EXPECT_EQ(after.g_idx, before.g_idx);
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t c = 0; c < kCols; ++c) {
        ASSERT_EQ(after.code(r, c), before.code(r, c));
        if (!o.symmetric) ASSERT_EQ(after.zero_point(after.group_of(r, c)), before.zero_point(before.group_of(r, c)));
      }
    const double loss = loss_of(doubles_of(w, h) - decoded(after), damped(h, report.damp_percent));
    EXPECT_NEAR(report.loss, loss, (o.double_precision ? 1e-6 : 1e-4) * loss);
  }
}

/// One scale a row: no other is better, and the formula gives it.
TEST(GptqRefit, GivesTheLeastSquaresScaleOfARow) {
  const Hessian h = layer();
  const auto w = normal(kRows * kCols, 2);
  const Options o{
      .bits = 3, .group_size = -1, .scale_type = ScaleType::f32, .refit_scales = true, .double_precision = true};
  const QuantizedMatrix q = solve(view(w, kCols), h, o).matrix;
  const Doubles hessian = damped(h, o.damp_percent), weights = doubles_of(w, h);
  for (std::size_t r = 0; r < kRows; ++r) {
    Eigen::RowVectorXd u(index(kCols));
    for (std::size_t c = 0; c < kCols; ++c) u(index(c)) = static_cast<double>(q.code(r, c)) - 4;
    const double best = (u * hessian).dot(weights.row(index(r))) / (u * hessian).dot(u);
    EXPECT_NEAR(static_cast<double>(q.scale(r)), best, 1e-6 * best);
    const auto loss = [&](double scale) { return loss_of(weights.row(index(r)) - scale * u, hessian); };
    const auto kept = static_cast<double>(q.scale(r));
    EXPECT_GT(loss(kept * 1.001), loss(kept));
    EXPECT_GT(loss(kept * 0.999), loss(kept));
  }
}

TEST(GptqRefit, DependsNeitherOnThreadsNorOnWhoseKernelsServe) {
  const Hessian h = layer();
  const auto w = normal(kRows * kCols, 3);
  for (Options o : cases()) {
    o = refitted(o);
    o.executor = &serial_executor();
    const QuantizedMatrix expected = solve(view(w, kCols), h, o).matrix;
    BackwardsExecutor executor(7);
    o.executor = &executor;
    expect_same(solve(view(w, kCols), h, o).matrix, expected);
    o.executor = &serial_executor();
    for (const Backend* backend : available()) {
      o.backend = backend;
      expect_same(solve(view(w, kCols), h, o).matrix, expected);
    }
  }
}

TEST(GptqRefit, SaysWhereItHasNoPlace) {
  const Hessian h = layer();
  const auto w = normal(4 * kCols, 4);
  expect_error(ErrorCode::invalid_argument, "compat excludes refit_scales",
               [&] { solve(view(w, kCols), h, {.refit_scales = true, .compat = true}); });
  const Hessian whole = hessian_of(correlated(200, 64, 5), 64);
  expect_error(ErrorCode::invalid_argument, "a refit of scales has no place in Q4_0 blocks",
               [&] { solve(view(normal(4 * 64, 6), 64), whole, BlockType::q4_0, {.refit_scales = true}); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::gptq
