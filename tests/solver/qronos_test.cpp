// Qronos against a restatement of the published steps, and what it is said to be: GPTQ on the least-squares solution.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/format/checkpoint.h"
#include "nibble/solver/impl/gptq_correction.h"
#include "nibble/solver/impl/gptq_setup.h"
#include "tests/solver/layers.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::gptq {
namespace {

using namespace testing_support;

/// What quantized layers before this one do: a loss of contrast, and noise.
std::vector<float> disturbed(const std::vector<float>& full, unsigned seed) {
  std::vector<float> x = full;
  const auto noise = normal(x.size(), seed, 0.05f);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.9f * x[i] + noise[i];
  return x;
}

Hessian both_of(const std::vector<float>& x, const std::vector<float>& full, std::size_t cols) {
  Hessian h(cols, "x", true);
  h.add(view(x, cols), view(full, cols));
  return h;
}

template <class T>
std::vector<T> values_of(const Checkpoint& file, const std::string& name) {
  const Buffer bytes = file.data(name);
  std::vector<T> out(bytes.size() / sizeof(T));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

TEST(Qronos, GivesTheCodesOfThePublishedSteps) {
  const Checkpoint golden = Checkpoint::open(NIBBLE_TEST_DATA "/golden/qronos/layer.safetensors");
  const FloatMatrix w = golden.matrix("weights");
  Hessian h(w.cols, "x", true);
  h.add(golden.matrix("x"), golden.matrix("full"));
  struct Case {
    const char* name;
    int bits;
    bool act_order;
  };
  for (const Case& c : {Case{"plain", 3, false}, Case{"act", 3, true}, Case{"two", 2, false}, Case{"eight", 8, true}}) {
    const auto [q, report] = solve(w, h,
                                   {.bits = c.bits,
                                    .group_size = 16,
                                    .symmetric = false,
                                    .scale_type = ScaleType::f32,
                                    .act_order = c.act_order,
                                    .qronos = true,
                                    .double_precision = true});
    EXPECT_TRUE(report.recovery.empty());
    const std::string name = c.name;
    const auto codes = values_of<std::uint8_t>(golden, name + "/codes");
    const auto zeros = values_of<std::int32_t>(golden, name + "/zeros"),
               order = values_of<std::int32_t>(golden, name + "/order");
    const std::vector<float> scales = golden.read_f32(name + "/scales");
    const std::size_t groups = scales.size() / w.rows;
    ASSERT_EQ(groups, 3u);
    for (std::size_t r = 0; r < w.rows; ++r)
      for (std::size_t i = 0; i < w.cols; ++i) {
        const auto column = static_cast<std::size_t>(order[i]);
        const std::size_t group = q.group_of(r, column), at = r * groups + i / 16;
        ASSERT_EQ(q.code(r, column), codes[r * w.cols + column]) << name << ", row " << r << ", position " << i;
        ASSERT_FLOAT_EQ(q.scale(group), scales[at]);
        ASSERT_EQ(q.zero_point(group), zeros[at]);
      }
  }
}

TEST(Qronos, IsGptqBitForBitWhereTheInputsAreThoseOfFullPrecision) {
  const std::size_t rows = 40, cols = 200;
  const auto x = correlated(2 * cols, cols, 40);
  const Hessian h = both_of(x, x, cols);
  const auto w = normal(rows * cols, 41);
  for (Options o : {Options{}, Options{.bits = 2, .group_size = 32, .symmetric = false}, Options{.act_order = true},
                    Options{.group_size = -1}, Options{.bits = 3, .group_size = 300, .static_groups = true},
                    Options{.act_group_aware = true, .grid_search = true}, Options{.compat = true},
                    Options{.double_precision = true}}) {
    const auto [plain, before] = solve(view(w, cols), h, o);
    o.qronos = true;
    const auto [q, after] = solve(view(w, cols), h, o);
    expect_same(q, plain);
    EXPECT_EQ(after.loss, before.loss);
  }
}

/// The correction itself, and all that it is made of.
struct Solved {
  Solved(const std::vector<float>& w, const Hessian& h, double damp, const Options& o)
      : diagonal(diagonal_of(h, h.dead_channels(), false)), plan(make_plan(diagonal, o)) {
    const FactorInput input{h, plan, scale_of(h), diagonal, 0};
    const auto l =
        reversed_factor<double>(input, damp * mean_of(diagonal), false, kernels_of(nullptr), serial_executor());
    correction = correction_of(view(w, h.channels()), input, l.value(), o, serial_executor());
  }
  std::vector<double> diagonal;
  Plan plan;
  Correction<double> correction;
};

/// Σ ‖W·x̂ − T·x‖² of a row with its ridge, λ·‖T − W‖², is what the correction makes least.
TEST(Qronos, NoPerturbationOfTheLeastSquaresSolutionLosesLess) {
  const std::size_t rows = 5, cols = 30, tokens = 90;
  const auto full = correlated(tokens, cols, 50), x = disturbed(full, 52);
  const Hessian h = both_of(x, full, cols);
  const auto w = normal(rows * cols, 53);
  const double damp = 0.01;
  const Solved s(w, h, damp, {.act_order = true});
  const double lambda = damp * mean_of(s.diagonal);
  const auto loss = [&](std::size_t row, const std::vector<double>& change) {
    double sum = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      double y = 0;
      for (std::size_t i = 0; i < cols; ++i) {
        const std::size_t c = s.plan.order[i];
        const auto weight = static_cast<double>(w[row * cols + c]);
        y += weight * static_cast<double>(full[t * cols + c]) -
             (weight + change[i]) * static_cast<double>(x[t * cols + c]);
      }
      sum += 2.0 / tokens * y * y;
    }
    for (const double d : change) sum += lambda * d * d;
    return sum;
  };
  for (std::size_t r = 0; r < rows; ++r) {
    const std::vector<double> best(s.correction.change.begin() + static_cast<std::ptrdiff_t>(r * cols),
                                   s.correction.change.begin() + static_cast<std::ptrdiff_t>((r + 1) * cols));
    const double least = loss(r, best);
    EXPECT_LT(least, loss(r, std::vector<double>(cols)));
    for (std::size_t i = 0; i < cols; ++i)
      for (const double step : {-1e-2, 1e-2}) {
        auto other = best;
        other[i] += step;
        EXPECT_GT(loss(r, other), least) << i;
      }
    for (unsigned seed = 0; seed < 20; ++seed) {
      const auto direction = normal(cols, 60 + seed, 1e-2f);
      auto other = best;
      for (std::size_t i = 0; i < cols; ++i) other[i] += static_cast<double>(direction[i]);
      EXPECT_GT(loss(r, other), least);
    }
  }
}

/// The first column by itself: what is best beside the others as they are.
TEST(Qronos, TheFirstColumnIsTheBestBesideTheOthers) {
  const std::size_t cols = 20;
  const auto full = correlated(80, cols, 54), x = disturbed(full, 55);
  const auto w = normal(cols, 56);
  const Solved s(w, both_of(x, full, cols), 0.01, {.act_order = true});
  const std::size_t c = s.plan.order[0];
  double product = 0, square = 0;  // of x_1 with what is left over
  for (std::size_t t = 0; t < 80; ++t) {
    double left = 0;
    for (std::size_t j = 0; j < cols; ++j)
      left +=
          static_cast<double>(w[j]) * (static_cast<double>(full[t * cols + j]) - static_cast<double>(x[t * cols + j]));
    product += left * static_cast<double>(x[t * cols + c]);
    square += static_cast<double>(x[t * cols + c]) * static_cast<double>(x[t * cols + c]);
  }
  EXPECT_NEAR(s.correction.first[0], product / square, 1e-5 * std::abs(product / square));
}

double outputs_error(const QuantizedMatrix& q, const std::vector<float>& w, const std::vector<float>& x,
                     const std::vector<float>& full) {
  const Doubles quantized = decoded(q);
  const std::size_t cols = q.cols;
  double sum = 0;
  for (std::size_t t = 0; t < x.size() / cols; ++t)
    for (std::size_t r = 0; r < q.rows; ++r) {
      double y = 0;
      for (std::size_t c = 0; c < cols; ++c)
        y += static_cast<double>(w[r * cols + c] * full[t * cols + c]) -
             quantized(index(r), index(c)) * static_cast<double>(x[t * cols + c]);
      sum += y * y;
    }
  return sum;
}

TEST(Qronos, MeetsTheFullPrecisionOutputsBetterThanGptqAndGptaq) {
  const std::size_t rows = 32, cols = 128;
  for (const bool act_order : {false, true}) {
    double plain = 0, gptaq = 0, qronos = 0;
    for (unsigned seed = 0; seed < 4; ++seed) {
      const auto full = correlated(512, cols, 30 + 2 * seed), x = disturbed(full, 60 + seed);
      const Hessian h = both_of(x, full, cols);
      const auto w = normal(rows * cols, 70 + seed);
      const auto error = [&](Options o) {
        o.bits = 3;
        o.group_size = 64;
        o.act_order = act_order;
        return outputs_error(solve(view(w, cols), h, o).matrix, w, x, full);
      };
      plain += error({});
      gptaq += error({.alpha = kPublishedAlpha});
      qronos += error({.qronos = true});
    }
    EXPECT_LT(qronos, gptaq);
    EXPECT_LT(gptaq, plain);
  }
}

TEST(Qronos, DependsNeitherOnThreadsNorOnWhoseKernelsServe) {
  const std::size_t rows = 200, cols = 300;
  const auto full = correlated(700, cols, 80), x = disturbed(full, 81);
  const Hessian h = both_of(x, full, cols);
  const auto w = normal(rows * cols, 82);
  for (Options o : {Options{.act_order = true, .qronos = true}, Options{.qronos = true, .double_precision = true}}) {
    o.executor = &serial_executor();
    const auto [expected, report] = solve(view(w, cols), h, o);
    for (int threads : {2, 7}) {
      BackwardsExecutor executor(threads);
      o.executor = &executor;
      const auto [q, again] = solve(view(w, cols), h, o);
      expect_same(q, expected);
      EXPECT_EQ(again.loss, report.loss);
    }
    o.executor = &serial_executor();
    for (const Backend* backend : available()) {
      o.backend = backend;
      expect_same(solve(view(w, cols), h, o).matrix, expected);
    }
  }
}

/// A channel that quantization silenced still counted in full precision: the others make up for it, and it is 0.
TEST(Qronos, OthersMakeUpForAChannelThatIsDeadNow) {
  const std::size_t rows = 16, cols = 48;
  const auto full = correlated(400, cols, 83);
  auto x = full;
  for (std::size_t t = 0; t < 400; ++t) x[t * cols + 7] = 0;
  const Hessian h = both_of(x, full, cols);
  const auto w = normal(rows * cols, 84);
  const auto [plain, before] = solve(view(w, cols), h, {.group_size = 16});
  const auto [q, report] = solve(view(w, cols), h, {.group_size = 16, .qronos = true});
  EXPECT_EQ(report.dead_channels, (std::vector<std::size_t>{7}));
  for (std::size_t r = 0; r < rows; ++r) EXPECT_EQ(q.value(r, 7), 0);
  EXPECT_LT(outputs_error(q, w, x, full), outputs_error(plain, w, x, full));
}

TEST(Qronos, SolvesIntoGgufBlocksToo) {
  const std::size_t rows = 32, cols = 128;
  const auto full = correlated(512, cols, 85), x = disturbed(full, 86);
  const auto w = normal(rows * cols, 87);
  const auto errors = [&](const Hessian& h, bool qronos) {
    const BlockMatrix q = solve(view(w, cols), h, BlockType::q4_0, {.qronos = qronos}).matrix;
    std::vector<float> row(cols);
    double sum = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      q.decode_row(r, row.data());
      for (std::size_t t = 0; t < 512; ++t) {
        double y = 0;
        for (std::size_t c = 0; c < cols; ++c)
          y += static_cast<double>(w[r * cols + c] * full[t * cols + c]) -
               static_cast<double>(row[c]) * static_cast<double>(x[t * cols + c]);
        sum += y * y;
      }
    }
    return sum;
  };
  const Hessian h = both_of(x, full, cols);
  EXPECT_LT(errors(h, true), errors(h, false));
  EXPECT_EQ(errors(both_of(x, x, cols), true), errors(both_of(x, x, cols), false));
}

TEST(Qronos, SaysWhatIsMissing) {
  const std::size_t cols = 16;
  const auto x = normal(40 * cols, 88);
  auto w = normal(3 * cols, 89);
  expect_error(ErrorCode::invalid_argument, "qronos needs a Hessian that gathered full-precision activations",
               [&] { solve(view(w, cols), hessian_of(x, cols), {.qronos = true}); });
  const Hessian h = both_of(x, disturbed(x, 90), cols);
  expect_error(ErrorCode::invalid_argument, "two corrections",
               [&] { solve(view(w, cols), h, {.alpha = 0.25, .qronos = true}); });
  w[cols + 3] = std::numeric_limits<float>::quiet_NaN();
  expect_error(ErrorCode::non_finite, "'q_proj': row 1, column 3 is nan",
               [&] { solve(view(w, cols), h, {.qronos = true, .name = "q_proj"}); });
  const std::vector<float> large = {1e38f};  // finite, and what it asks for is not
  const double one = 1, much = 1e30;
  const Hessian far = Hessian::from_sum({&one, 1, 1}, {&much, 1, 1}, 2, "x");
  expect_error(ErrorCode::non_finite, "'q_proj': what row 0, column 0 has to make up for is inf",
               [&] { solve(view(large, 1), far, {.qronos = true, .name = "q_proj"}); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::gptq
