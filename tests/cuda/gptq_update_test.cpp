// GPTQ's kernels against plain loops, bit for bit.
#include "kernels/cuda/gptq_update.h"

#include <cmath>
#include <numeric>

#include "kernels/cuda/gptq_dense.h"
#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;
using cuda::GptqGrids;

std::int32_t nearest(float t) { return round_half_even(t); }
std::int32_t nearest(double t) { return static_cast<std::int32_t>(std::nearbyint(t)); }

AffineParams plain_grid(const std::vector<float>& values, const cuda::GptqStep& s) {
  Range range{values[0], values[0]};
  for (const float v : values) range = {std::min(range.min, v), std::max(range.max, v)};
  if (!s.grid_search) return grid_of(range, s.rule);
  AffineParams best = grid_of(range, s.rule);
  float least = INFINITY;
  for (int step = 0; step < kShrinkings; ++step) {
    const float p = 1 - static_cast<float>(step) / 100;
    const AffineParams tried = grid_of({range.min * p, range.max * p}, s.rule);
    float error = 0;
    for (const float v : values)
      error += search_error(v, tried.scale, static_cast<float>(tried.zero_point),
                            static_cast<float>((1 << s.rule.bits) - 1));
    if (error < least) least = error, best = tried;
  }
  return best;
}

/// What gptq_update.h says, for one row of the matrix, positions in order of solving.
template <class T>
struct PlainRow {
  std::vector<T> w;
  std::vector<AffineParams> params;  ///< By group.
  std::vector<std::uint8_t> codes;
  std::vector<T> errors, currents;
  double loss = 0;

  void fit(const cuda::GptqStep& s, const std::vector<std::int32_t>& group, std::int32_t g) {
    std::vector<float> values;
    for (std::size_t i = 0; i < group.size(); ++i)
      if (group[i] == g) values.push_back(static_cast<float>(w[i]));
    params[static_cast<std::size_t>(g)] = plain_grid(values, s);
  }

  template <class Factor>
  void solve(const cuda::GptqStep& s, const std::vector<std::int32_t>& group, const Factor& u, const Factor* drift) {
    const auto begins = [&](std::size_t i) { return i == 0 || group[i] != group[i - 1]; };
    for (std::size_t i = s.begin; i < s.end; ++i)
      if (s.grids == GptqGrids::at_step && begins(i)) fit(s, group, group[i]);
    for (std::size_t i = s.begin; i < s.end; ++i) {
      if (s.grids == GptqGrids::at_group && begins(i)) fit(s, group, group[i]);
      const AffineParams p = params[static_cast<std::size_t>(group[i])];
      const T zero = static_cast<T>(p.zero_point), top = static_cast<T>((1 << s.rule.bits) - 1);
      const T now = w[i];
      const std::int32_t q = nearest(std::min(std::max(now / static_cast<T>(p.scale), -zero), top - zero));
      const T e = (now - static_cast<T>(static_cast<float>(q) * p.scale)) / u(i, i);
      codes.push_back(static_cast<std::uint8_t>(q + p.zero_point));
      errors.push_back(e);
      currents.push_back(now);
      loss += static_cast<double>(e) * static_cast<double>(e);
      for (std::size_t j = i + 1; j < s.end; ++j) {
        const T product = e * u(i, j);
        w[j] = w[j] - product;
        if (drift == nullptr) continue;
        const T more = now * (*drift)(i, j);
        w[j] = w[j] + more;
      }
    }
  }
};

/// A columns-first square in reverse order of solving.
template <class T>
struct Reversed {
  std::vector<T> values;
  std::size_t n;
  T& operator()(std::size_t i, std::size_t j) { return values[(n - 1 - i) * n + n - 1 - j]; }
  T operator()(std::size_t i, std::size_t j) const { return values[(n - 1 - i) * n + n - 1 - j]; }
};

struct Case {
  std::size_t rows;
  std::vector<std::int32_t> group;  ///< Of each position.
  std::vector<std::size_t> ends;    ///< Of the steps.
  cuda::GptqStep step;
  bool drifts = false;
};

template <class T>
void check_update(const Case& c) {
  const std::size_t rows = c.rows, cols = c.group.size();
  cuda::GptqStep step = c.step;
  step.rows = rows;
  step.cols = cols;
  step.groups = static_cast<std::size_t>(*std::max_element(c.group.begin(), c.group.end())) + 1;
  std::vector<std::int32_t> members(cols), first(step.groups + 1);
  std::iota(members.begin(), members.end(), 0);
  std::stable_sort(members.begin(), members.end(), [&](std::int32_t a, std::int32_t b) {
    return c.group[static_cast<std::size_t>(a)] < c.group[static_cast<std::size_t>(b)];
  });
  for (const std::int32_t g : c.group) ++first[static_cast<std::size_t>(g) + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());

  const auto values = converted<T>(normal(rows * cols, 31));
  Reversed<T> u{converted<T>(normal(cols * cols, 32, 0.1f)), cols},
      p{converted<T>(normal(cols * cols, 33, 0.1f)), cols};
  for (std::size_t i = 0; i < cols; ++i) u(i, i) = 1 + std::abs(u(i, i));
  const DeviceArray<T> w(values), inverse(u.values), drift(p.values), errors(256 * rows), currents(256 * rows);
  const DeviceArray<std::int32_t> groups(c.group), positions(members), begins(first), zeros(step.groups * rows);
  const DeviceArray<std::uint8_t> codes(cols * rows);
  const DeviceArray<float> scales(step.groups * rows);
  const DeviceArray<double> losses(std::vector<double>(rows, 0.0));
  const cuda::GptqBuffers<T> buffers{w.get(),      inverse.get(),   c.drifts ? drift.get() : nullptr,
                                     groups.get(), positions.get(), begins.get(),
                                     codes.get(),  scales.get(),    zeros.get(),
                                     errors.get(), currents.get(),  losses.get()};
  std::vector<PlainRow<T>> plain(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    plain[r].params.resize(step.groups);
    for (std::size_t i = 0; i < cols; ++i) plain[r].w.push_back(values[(cols - 1 - i) * rows + r]);
    for (std::size_t g = 0; g < step.groups && step.grids == GptqGrids::given; ++g)
      plain[r].fit(step, c.group, static_cast<std::int32_t>(g));
  }
  if (step.grids == GptqGrids::given) require(cuda::gptq_fit(step, buffers, nullptr), "gptq_fit");
  for (const std::size_t end : c.ends) {
    step.end = end;
    require(cuda::gptq_update(step, buffers, nullptr), "gptq_update");
    const auto e = errors.host(), now = currents.host();
    for (std::size_t r = 0; r < rows; ++r) {
      plain[r].solve(step, c.group, u, c.drifts ? &p : nullptr);
      for (std::size_t i = step.begin; i < end; ++i) {
        ASSERT_EQ(e[(end - 1 - i) * rows + r], plain[r].errors[i]) << "row " << r << ", position " << i;
        if (c.drifts) ASSERT_EQ(now[(end - 1 - i) * rows + r], plain[r].currents[i]) << "row " << r << ", " << i;
      }
    }
    step.begin = end;
  }
  const auto code = codes.host();
  const auto scale = scales.host();
  const auto zero = zeros.host();
  const auto loss = losses.host();
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < cols; ++i) ASSERT_EQ(code[(cols - 1 - i) * rows + r], plain[r].codes[i]);
    for (std::size_t g = 0; g < step.groups; ++g) {
      ASSERT_EQ(scale[g * rows + r], plain[r].params[g].scale);
      ASSERT_EQ(zero[g * rows + r], plain[r].params[g].zero_point);
    }
    ASSERT_NEAR(loss[r], plain[r].loss, 1e-12 * plain[r].loss);  // the order of adding up steps
  }
}

/// Positions i with the same i / size share a group.
std::vector<std::int32_t> runs(std::size_t cols, std::size_t size) {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < cols; ++i) out.push_back(static_cast<std::int32_t>(i / size));
  return out;
}

const std::vector<std::int32_t> kScattered{2, 0, 1, 0, 2, 2, 1, 0, 0, 1, 2, 0, 1, 1};

TEST(CudaGptqUpdate, SolvesABlockAsDefined) {
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(check_update<float>({3, runs(20, 8), {8, 16, 20}, {}}));
    ASSERT_NO_FATAL_FAILURE(check_update<float>(
        {70, runs(13, 5), {13}, {.rule = {.bits = 3, .symmetric = false, .scale_type = ScaleType::f32}}}));
    ASSERT_NO_FATAL_FAILURE(
        check_update<float>({65, runs(24, 24), {8, 16, 24}, {.rule = {.bits = 8, .symmetric = false}}}));
    ASSERT_NO_FATAL_FAILURE(check_update<double>({33, runs(20, 8), {8, 20}, {}}));
  });
}

TEST(CudaGptqUpdate, KeepsGridsThatAreGiven) {
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(check_update<float>({66, kScattered, {6, 14}, {.grids = GptqGrids::given}}));
    ASSERT_NO_FATAL_FAILURE(check_update<double>(
        {5, kScattered, {14}, {.grids = GptqGrids::given, .grid_search = true, .rule = {.symmetric = false}}}));
  });
}

TEST(CudaGptqUpdate, FitsToStaleWeightsAsTheReferenceDoes) {
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(
        check_update<float>({5, runs(22, 6), {8, 16, 22}, {.grids = GptqGrids::at_step, .rule = {.reference = true}}}));
    ASSERT_NO_FATAL_FAILURE(check_update<double>(
        {5, runs(22, 6), {22}, {.grids = GptqGrids::at_step, .rule = {.symmetric = false, .reference = true}}}));
  });
}

TEST(CudaGptqUpdate, SearchesAndDrifts) {
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(check_update<float>({4, runs(36, 18), {18, 36}, {.grid_search = true}, true}));
    ASSERT_NO_FATAL_FAILURE(check_update<double>({4, runs(20, 7), {14, 20}, {}, true}));
  });
}

TEST(CudaGptqUpdate, RefusesAStepThatIsNone) {
  const cuda::GptqBuffers<float> none;
  EXPECT_NE(cuda::gptq_update({.rows = 1, .cols = 4, .begin = 2, .end = 2}, none, nullptr), cudaSuccess);
  EXPECT_NE(cuda::gptq_update({.rows = 1, .cols = 600, .begin = 0, .end = 257}, none, nullptr), cudaSuccess);
  EXPECT_NE(cuda::gptq_update({.rows = 1, .cols = 4, .begin = 0, .end = 4, .groups = 0}, none, nullptr), cudaSuccess);
}

template <class T>
void check_mask() {
  std::vector<T> square(17 * 17);
  for (std::size_t i = 0; i < square.size(); ++i) square[i] = T(1) / static_cast<T>(i + 3);
  const DeviceArray<T> matrix(square);
  require(cuda::gptq_keep_above_diagonal(matrix.get(), 17, nullptr), "keep above diagonal");
  const auto kept = matrix.host();
  for (std::size_t c = 0; c < 17; ++c)
    for (std::size_t r = 0; r < 17; ++r) ASSERT_EQ(kept[c * 17 + r], r < c ? square[c * 17 + r] : T(0));
}

TEST(CudaGptqDense, SubtractsMasksNarrowsAndSums) {
  for_each_order([&] {
    const std::size_t rows = 5, cols = 301;
    const auto a = normal(rows * 310, 41), b = normal(rows * 305, 42);
    const DeviceArray<float> da(a), db(b), difference(rows * cols), products(rows * cols);
    require(cuda::gptq_subtract(da.get(), 310, db.get(), 305, difference.get(), cols, rows, cols, nullptr), "subtract");
    const auto d = difference.host();
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) ASSERT_EQ(d[r * cols + c], a[r * 310 + c] - b[r * 305 + c]);
    const DeviceArray<float> in_place(d);  // the second operand may be the result
    require(cuda::gptq_subtract(da.get(), 310, in_place.get(), cols, in_place.get(), cols, rows, cols, nullptr),
            "subtract in place");
    const auto twice = in_place.host();
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < cols; ++c) ASSERT_EQ(twice[r * cols + c], a[r * 310 + c] - d[r * cols + c]);
    const DeviceArray<double> sums(rows);
    require(cuda::gptq_row_products(da.get(), difference.get(), rows, cols, sums.get(), nullptr), "row products");
    const auto s = sums.host();
    for (std::size_t r = 0; r < rows; ++r) {
      double expected = 0, size = 0;
      for (std::size_t c = 0; c < cols; ++c) {
        const double product = static_cast<double>(a[r * cols + c]) * static_cast<double>(d[r * cols + c]);
        expected += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(s[r], expected, 2 * static_cast<double>(cols) * 0x1p-53 * size);  // products of floats are exact
    }
    ASSERT_NO_FATAL_FAILURE(check_mask<float>());
    ASSERT_NO_FATAL_FAILURE(check_mask<double>());
    std::vector<double> wide(289);
    for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = 1.0 / static_cast<double>(i + 3);
    const DeviceArray<double> from(wide);
    const DeviceArray<float> narrow(wide.size());
    require(cuda::gptq_downcast(from.get(), narrow.get(), wide.size(), nullptr), "narrow");
    const auto n = narrow.host();
    for (std::size_t i = 0; i < n.size(); ++i) ASSERT_EQ(n[i], static_cast<float>(wide[i]));
  });
}

}  // namespace
}  // namespace nibble
