// GPTQ on the device: every option, followed in exact arithmetic (gptq_replay.h) and compared with the CPU's
// solver. In double precision the bounds are so small that nothing but the definition passes; in single precision they
// are the roundings', and most of a code at worst.
#include <cmath>

#include "nibble/cuda/gptq.h"
#include "tests/cuda/gptq_replay.h"
#include "tests/cuda/gptq_support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

/// The CPU in fp64 may choose other codes only at what is nearly a tie; after the first, its row goes another way.
void expect_near(const GptqReplay& replay, const std::vector<GptqReplay::Position>& row, const QuantizedMatrix& actual,
                 const QuantizedMatrix& expected, std::size_t r) {
  const gptq::Plan& plan = replay.plan();
  for (std::size_t i = 0; i < plan.cols(); ++i) {
    const std::size_t group = r * plan.groups + plan.group[i], c = plan.order[i];
    if (actual.scale(group) != expected.scale(group) || actual.zero_point(group) != expected.zero_point(group)) return;
    const int off = actual.code(r, c) - expected.code(r, c);
    if (off == 0) continue;
    EXPECT_EQ(std::abs(off), 1) << "row " << r << ", position " << i;
    EXPECT_GE(row[i].distance, 0.5 - row[i].slack) << "row " << r << ", position " << i;
    return;
  }
}

/// `most_slack`: what the bound may be at most, in codes, or it says nothing.
void check_solution(const Layer& layer, gptq::Options o, double most_slack) {
  on_device([&](const cuda::Context& context) {
    const gptq::Result actual = cuda::gptq_solve(context, layer.weights(), layer.h, o, nullptr);
    o.double_precision = true;
    const gptq::Result expected = gptq::solve(layer.weights(), layer.h, o);
    Rounding rounding;
    if (o.name.find("fp64") != std::string::npos) rounding.epsilon = rounding.factor_epsilon = 0x1p-53;
    GptqReplay replay(layer.weights(), layer.h, o, actual.report.damp_percent, rounding);
    ASSERT_LT(replay.perturbation(), 0.1) << o.name;
    for (std::size_t r = 0; r < layer.rows; ++r)
      expect_near(replay, replay.row(actual.matrix, r), actual.matrix, expected.matrix, r);
    EXPECT_LT(replay.most_slack, most_slack) << o.name;
    EXPECT_NEAR(actual.report.loss, replay.loss, replay.loss_slack + 1e-12 * replay.loss) << o.name;
    if (o.alpha == 0) {
      const Doubles delta = doubles_of(layer.w, layer.h) - decoded(actual.matrix);
      const double loss = loss_of(delta, damped(layer.h, actual.report.damp_percent, o.compat));
      EXPECT_NEAR(actual.report.loss, loss, replay.loss_slack + 1e-10 * loss) << o.name;
    }
    EXPECT_EQ(actual.matrix.g_idx, expected.matrix.g_idx) << o.name;
    EXPECT_EQ(actual.matrix.spec, expected.matrix.spec) << o.name;
    EXPECT_EQ(actual.report.dead_channels, expected.report.dead_channels);
    EXPECT_EQ(actual.report.recovery, expected.report.recovery);
    EXPECT_EQ(actual.report.fallback, "");
  });
}

std::vector<gptq::Options> every_option() {
  const auto f32 = ScaleType::f32;
  return {{.bits = 4, .group_size = 32, .name = "groups"},
          {.bits = 3, .group_size = 48, .symmetric = false, .act_order = true, .name = "act-order"},
          {.bits = 4, .group_size = 144, .symmetric = false, .scale_type = ScaleType::bf16, .name = "a long group"},
          {.bits = 8, .group_size = 7, .scale_type = f32, .name = "short groups"},
          {.bits = 4, .group_size = 32, .act_order = true, .static_groups = true, .name = "static groups"},
          {.bits = 3, .group_size = 20, .symmetric = false, .static_groups = true, .name = "static, in order"},
          {.bits = 4, .group_size = 20, .act_group_aware = true, .name = "group-aware order"},
          {.bits = 4, .group_size = -1, .symmetric = false, .name = "one scale a row"},
          {.bits = 8, .group_size = -1, .scale_type = f32, .act_order = true, .name = "one scale a row, act-order"},
          {.bits = 3, .group_size = 36, .grid_search = true, .name = "search"},
          {.bits = 4,
           .group_size = 32,
           .act_order = true,
           .static_groups = true,
           .grid_search = true,
           .name = "search first"},
          {.bits = 4, .group_size = 48, .scale_type = f32, .compat = true, .name = "the reference"},
          {.bits = 4,
           .group_size = 40,
           .symmetric = false,
           .scale_type = f32,
           .act_order = true,
           .compat = true,
           .name = "the reference, act-order"},
          {.bits = 4, .group_size = 32, .alpha = 0.25, .name = "asymmetric"},
          {.bits = 3,
           .group_size = 24,
           .symmetric = false,
           .act_order = true,
           .alpha = 1,
           .name = "asymmetric, act-order"}};
}

TEST(CudaGptq, EveryOptionInSinglePrecision) {
  const Layer layer;
  for (gptq::Options o : every_option()) {
    // Where sums may be in any order, only the bound of a better conditioned Hessian tells anything.
    o.damp_percent = on_gpu ? 1 : 0.1;
    ASSERT_NO_FATAL_FAILURE(check_solution(layer, o, 0.125));
  }
}

/// What the bound may be at most in double precision, in codes.
constexpr double kDoubleSlack = on_gpu ? 1e-6 : 1e-7;

TEST(CudaGptq, EveryOptionInDoublePrecision) {
  const Layer layer;
  for (gptq::Options o : every_option()) {
    o.double_precision = true;
    o.name += ", fp64";
    ASSERT_NO_FATAL_FAILURE(check_solution(layer, o, kDoubleSlack));
  }
}

/// Longer than a step, so that the step in which a group begins fits its grid to columns of later ones.
TEST(CudaGptq, AGroupLongerThanAStep) {
  const Layer layer(2, 290);
  const auto check = [&](gptq::Options o) {
    o.double_precision = true;
    o.group_size = 280;
    ASSERT_NO_FATAL_FAILURE(check_solution(layer, o, kDoubleSlack));
  };
  check({.symmetric = false, .act_order = true, .name = "a long group, fp64"});
  check({.scale_type = ScaleType::f32, .compat = true, .name = "a long group as in the reference, fp64"});
}

TEST(CudaGptq, TakesHalfPrecisionWeightsAndRowsApart) {
  const Layer layer(3, 24);
  const std::size_t stride = 29;
  std::vector<f16> half(layer.rows * stride, f16(NAN));
  std::vector<float> wide;
  for (std::size_t r = 0; r < layer.rows; ++r)
    for (std::size_t c = 0; c < layer.cols; ++c) {
      half[r * stride + c] = f16(layer.w[r * layer.cols + c]);
      wide.push_back(static_cast<float>(half[r * stride + c]));
    }
  on_device([&](const cuda::Context& context) {
    const gptq::Options o{.group_size = 8, .act_order = true};
    expect_same(
        cuda::gptq_solve(context, {half.data(), DType::f16, layer.rows, layer.cols, stride}, layer.h, o, nullptr)
            .matrix,
        cuda::gptq_solve(context, view(wide, layer.cols), layer.h, o, nullptr).matrix);
  });
}

/// Grids of the original weights are the CPU's, bit for bit, whatever the codes are.
TEST(CudaGptq, GridsThatComeFirstAreTheCpus) {
  const Layer layer(9, 70);
  on_device([&](const cuda::Context& context) {
    for (const bool search : {false, true})
      for (const bool symmetric : {false, true})
        for (const bool compat : {false, true}) {
          const gptq::Options o{.bits = 3,
                                .group_size = 16,
                                .symmetric = symmetric,
                                .act_order = true,
                                .static_groups = true,
                                .grid_search = search,
                                .compat = compat};
          const auto actual = cuda::gptq_solve(context, layer.weights(), layer.h, o, nullptr).matrix;
          const auto expected = gptq::solve(layer.weights(), layer.h, o).matrix;
          for (std::size_t g = 0; g < expected.group_count(); ++g) {
            ASSERT_EQ(actual.scale(g), expected.scale(g)) << g;
            ASSERT_EQ(actual.zero_point(g), expected.zero_point(g)) << g;
          }
        }
  });
}

}  // namespace
}  // namespace nibble
