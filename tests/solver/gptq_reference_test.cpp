// The solver against independent ones, in fp64: the published algorithm step by step, the optimal brain quantizer that
// inverts the rest of the Hessian anew for every column, and the identity of the loss.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "nibble/scheme/affine.h"
#include "tests/solver/layers.h"

namespace nibble::inline NIBBLE_ABI::gptq {
namespace {

using namespace testing_support;

struct Case {
  std::string name;
  std::size_t rows, cols;
  Options options;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::string numbered(const char* name, std::int64_t number) { return std::string(name).append(std::to_string(number)); }

/// Every column order × grid × group that could go its own way: groups inside, equal to, across and beyond blocks.
std::vector<Case> cases() {
  std::vector<Case> out;
  const auto add = [&](std::string name, std::size_t rows, std::size_t cols, Options o) {
    o.double_precision = true;
    o.scale_type = ScaleType::f32;
    out.push_back({std::move(name), rows, cols, std::move(o)});
  };
  for (std::int64_t group : {-1, 1, 7, 32, 48, 96, 128, 200, 300, 1000})
    for (const bool symmetric : {true, false}) {
      std::string name = group < 0 ? "channel" : numbered("g", group);
      if (!symmetric) name += "_asym";
      add(name, 5, 330, {.group_size = group, .symmetric = symmetric});
      add(name + "_act", 5, 330, {.group_size = group, .symmetric = symmetric, .act_order = true});
      add(name + "_small", 3, 140, {.group_size = group, .symmetric = symmetric, .act_order = group % 2 == 0});
    }
  for (std::int64_t group : {7, 48, 128, 300}) {
    add(numbered("static_g", group), 3, 330, {.group_size = group, .act_order = true, .static_groups = true});
    add(numbered("gar_g", group), 3, 330, {.group_size = group, .act_group_aware = true});
  }
  for (int bits = 2; bits <= 8; ++bits)
    add(numbered("bits", bits), 70, 40, {.bits = bits, .group_size = 16, .act_order = true});
  add("gar_small", 3, 140, {.group_size = 48, .act_group_aware = true});
  add("search", 4, 64, {.bits = 3, .group_size = 32, .grid_search = true});
  add("damp", 4, 64, {.group_size = 32, .damp_percent = 0.3});
  add("one", 1, 1, {});
  return out;
}

Hessian layer_hessian(const Case& c, bool with_dead = true) {
  auto x = correlated(2 * c.cols, c.cols, 7);
  if (with_dead && c.cols > 20)
    for (std::size_t t = 0; t < 2 * c.cols; ++t) x[t * c.cols + 5] = x[t * c.cols + 17] = 0;
  return hessian_of(x, c.cols);
}

template <class Wanted>
std::vector<Case> cases_that(const Wanted& wanted) {
  std::vector<Case> out;
  for (Case& c : cases())
    if (wanted(c)) out.push_back(std::move(c));
  return out;
}

class Loss : public testing::TestWithParam<Case> {};
class OptimalBrain : public testing::TestWithParam<Case> {};
class Published : public testing::TestWithParam<Case> {};

TEST_P(Loss, IsThatOfTheOutputs) {
  const Case& c = GetParam();
  const auto w = normal(c.rows * c.cols, 1);
  const Hessian h = layer_hessian(c);
  const auto [q, report] = solve(view(w, c.cols), h, c.options);
  q.validate("q");
  ASSERT_EQ(report.fallback, "");
  ASSERT_TRUE(report.recovery.empty());
  const Doubles delta = doubles_of(w, h) - decoded(q), hessian = damped(h, report.damp_percent);
  const double loss = loss_of(delta, hessian);
  // Where groups of one column leave next to nothing, Δ is itself a difference of nearly equal fp64 values.
  const double cancelled = 0x1p-48 * (delta * hessian).cwiseAbs().cwiseProduct(doubles_of(w, h).cwiseAbs()).sum();
  EXPECT_NEAR(report.loss, loss, 1e-10 * loss + cancelled);
  EXPECT_DOUBLE_EQ(report.error, report.loss / static_cast<double>(c.rows));
}

/// The order of the columns, from what each option is said to mean.
std::vector<std::size_t> order_of(const Doubles& h, const Options& o) {
  const auto n = static_cast<std::size_t>(h.rows());
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto larger = [&](std::size_t a, std::size_t b) { return h(index(a), index(a)) > h(index(b), index(b)); };
  if (o.act_order) std::stable_sort(order.begin(), order.end(), larger);
  if (!o.act_group_aware) return order;
  const auto size = static_cast<std::size_t>(o.group_size);
  const auto largest = [&](std::size_t group) {
    double most = 0;
    for (std::size_t c = group * size; c < std::min(n, (group + 1) * size); ++c)
      most = std::max(most, h(index(c), index(c)));
    return most;
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return a / size != b / size ? largest(a / size) > largest(b / size) : larger(a, b);
  });
  return order;
}

AffineParams own_grid(const Options& o, float low, float high) {
  return o.symmetric ? fit_symmetric({low, high}, o.bits, /*narrow_range=*/false, o.scale_type)
                     : fit_asymmetric({low, high}, o.bits, true, o.scale_type);
}

/// Groups of one row of weights in the order of solving: which columns, and where the first of them comes up.
struct Groups {
  std::vector<std::size_t> of;  ///< By position.
  [[nodiscard]] bool begins(std::size_t i) const { return i == 0 || of[i] != of[i - 1]; }
};

Groups groups_of(const std::vector<std::size_t>& order, const Options& o) {
  Groups out;
  const bool by_rank = o.act_order && !o.static_groups;
  for (std::size_t i = 0; i < order.size(); ++i)
    out.of.push_back(o.group_size < 0 ? 0 : (by_rank ? i : order[i]) / static_cast<std::size_t>(o.group_size));
  return out;
}

/// The grid of the group of position i, from a row of weights in the order of solving.
template <class Grid>
AffineParams fit(const Eigen::RowVectorXd& row, const Groups& groups, std::size_t i, const Grid& grid) {
  float low = INFINITY, high = -INFINITY;
  for (std::size_t j = 0; j < groups.of.size(); ++j)
    if (groups.of[j] == groups.of[i]) {
      low = std::min(low, static_cast<float>(row(index(j))));
      high = std::max(high, static_cast<float>(row(index(j))));
    }
  return grid(low, high);
}

int code_of(double w, AffineParams p, int bits) {
  const double t = std::nearbyint(w / static_cast<double>(p.scale)) + p.zero_point;
  return static_cast<int>(std::clamp(t, 0.0, static_cast<double>((1 << bits) - 1)));
}
double value_of(int code, AffineParams p) {
  return static_cast<double>(static_cast<float>(code - p.zero_point) * p.scale);
}

Doubles permuted(const Doubles& h, const std::vector<std::size_t>& order) {
  Doubles out(h.rows(), h.cols());
  for (std::size_t i = 0; i < order.size(); ++i)
    for (std::size_t j = 0; j < order.size(); ++j) out(index(i), index(j)) = h(index(order[i]), index(order[j]));
  return out;
}

/// Optimal brain quantization (Frantar & Alistarh 2022, OBC) in a fixed order: the inverse of what is left of H, anew
/// for each column. O(n⁴) a matrix.
TEST_P(OptimalBrain, QuantizerGivesTheSameCodes) {
  const Case& c = GetParam();
  const auto w = normal(c.rows * c.cols, 2);
  const Hessian h = layer_hessian(c);
  const QuantizedMatrix q = solve(view(w, c.cols), h, c.options).matrix;
  const auto order = order_of(damped(h, 0), c.options);
  const auto groups = groups_of(order, c.options);
  const Doubles hp = permuted(damped(h, c.options.damp_percent), order), weights = doubles_of(w, h);
  std::vector<Eigen::RowVectorXd> inverses;  // the first row of each
  for (std::size_t i = 0; i < c.cols; ++i)
    inverses.emplace_back(hp.bottomRightCorner(index(c.cols - i), index(c.cols - i)).inverse().row(0));
  for (std::size_t r = 0; r < c.rows; ++r) {
    Eigen::RowVectorXd row(index(c.cols));
    for (std::size_t i = 0; i < c.cols; ++i) row(index(i)) = weights(index(r), index(order[i]));
    AffineParams grid;
    for (std::size_t i = 0; i < c.cols; ++i) {
      if (groups.begins(i))
        grid = fit(row, groups, i, [&](float low, float high) { return own_grid(c.options, low, high); });
      const int code = code_of(row(index(i)), grid, c.options.bits);
      ASSERT_EQ(q.code(r, order[i]), code) << "row " << r << ", position " << i;
      row.tail(inverses[i].size()) -= (row(index(i)) - value_of(code, grid)) / inverses[i](0) * inverses[i];
    }
  }
}

/// find_params of the reference implementation.
AffineParams reference_grid(const Options& o, float low, float high) {
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  if (o.symmetric) {
    high = std::max(std::abs(low), high);
    if (low < 0) low = -high;
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  const int top = (1 << o.bits) - 1;
  const float scale = (high - low) / static_cast<float>(top);
  return {scale, o.symmetric ? (top + 1) / 2 : static_cast<std::int32_t>(std::nearbyint(-low / scale))};
}

/// The published algorithm, operation by operation: Cholesky, inverse, Cholesky; blocks of 128; grids from the matrix
/// that has not seen the current block; GPTAQ's P beside U, where there is a cross statistic.
void expect_published(const Case& c, const std::vector<float>& w, const Hessian& h) {
  Options o = c.options;
  o.compat = true;
  const QuantizedMatrix q = solve(view(w, c.cols), h, o).matrix;
  const auto order = order_of(damped(h, 0, true), o);
  const auto groups = groups_of(order, o);
  const Doubles hp = permuted(damped(h, o.damp_percent, true), order);
  const Doubles inverse = hp.llt().solve(Doubles::Identity(hp.rows(), hp.cols()));
  const Doubles u = inverse.llt().matrixU();
  Doubles p = Doubles::Zero(u.rows(), u.cols());
  if (o.alpha > 0) {
    Doubles d(u.rows(), u.cols());
    for (std::size_t i = 0; i < c.cols; ++i)
      for (std::size_t j = 0; j < c.cols; ++j)
        d(index(i), index(j)) = 2.0 / static_cast<double>(h.tokens()) * h.cross(order[i], order[j]);
    const Doubles s = (d * u.transpose()).triangularView<Eigen::StrictlyUpper>();
    p = o.alpha * s * u;
  }
  const Doubles weights = doubles_of(w, h);
  for (std::size_t r = 0; r < c.rows; ++r) {
    Eigen::RowVectorXd row(index(c.cols)), current = row, error = row;
    for (std::size_t i = 0; i < c.cols; ++i) row(index(i)) = weights(index(r), index(order[i]));
    const Eigen::RowVectorXd original = row;
    AffineParams grid;
    std::vector<AffineParams> first(c.cols);
    for (std::size_t i = 0; o.static_groups && i < c.cols; ++i)
      first[i] = fit(original, groups, i, [&](float low, float high) { return reference_grid(o, low, high); });
    for (std::size_t begin = 0; begin < c.cols; begin += 128) {
      const std::size_t end = std::min(begin + 128, c.cols);
      Eigen::RowVectorXd block = row.segment(index(begin), index(end - begin));
      for (std::size_t i = begin; i < end; ++i) {
        if (o.static_groups) grid = first[i];
        else if (groups.begins(i))
          grid = fit(row, groups, i, [&](float low, float high) { return reference_grid(o, low, high); });
        const double now = block(index(i - begin));
        const int code = code_of(now, grid, o.bits);
        ASSERT_EQ(q.code(r, order[i]), code) << "row " << r << ", position " << i;
        ASSERT_EQ(q.scale(q.group_of(r, order[i])), grid.scale);
        current(index(i)) = now;
        error(index(i)) = (now - value_of(code, grid)) / u(index(i), index(i));
        for (std::size_t j = i + 1; j < end; ++j)
          block(index(j - begin)) += now * p(index(i), index(j)) - error(index(i)) * u(index(i), index(j));
      }
      for (std::size_t j = end; j < c.cols; ++j)
        for (std::size_t i = begin; i < end; ++i)
          row(index(j)) += current(index(i)) * p(index(i), index(j)) - error(index(i)) * u(index(i), index(j));
    }
  }
}

TEST_P(Published, AlgorithmGivesTheCodesOfCompat) {
  const Case& c = GetParam();
  auto w = normal(c.rows * c.cols, 3);
  for (std::size_t i = 0; i < std::min<std::size_t>(40, c.cols); ++i) w[i] = std::abs(w[i]);  // the quirk's groups
  expect_published(c, w, layer_hessian(c));
}

TEST_P(Published, AsymmetricCalibrationGivesTheSameCodes) {
  Case c = GetParam();
  c.options.alpha = 0.25;
  const auto x = correlated(2 * c.cols, c.cols, 7), noise = normal(x.size(), 8, 0.2f);
  auto full = x;
  for (std::size_t i = 0; i < x.size(); ++i) full[i] += noise[i] * std::abs(x[i]) + 0.1f * x[i];
  Hessian h(c.cols, "x", true);
  h.add(view(x, c.cols), view(full, c.cols));
  expect_published(c, normal(c.rows * c.cols, 4), h);
}

std::string name_of_case(const testing::TestParamInfo<Case>& test) { return test.param.name; }

/// The search for a grid is tested by itself, in gptq_test.
bool plain_grid(const Case& c) { return !c.options.grid_search; }
/// Some of what reaches past one block; more would take minutes.
bool short_enough(const Case& c) { return plain_grid(c) && (c.cols <= 140 || c.name == "g300_act"); }

INSTANTIATE_TEST_SUITE_P(Gptq, Loss, testing::ValuesIn(cases()), name_of_case);
INSTANTIATE_TEST_SUITE_P(Gptq, OptimalBrain, testing::ValuesIn(cases_that(short_enough)), name_of_case);
INSTANTIATE_TEST_SUITE_P(Gptq, Published, testing::ValuesIn(cases_that(plain_grid)), name_of_case);

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::gptq
