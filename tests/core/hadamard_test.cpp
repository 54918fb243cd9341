#include "nibble/core/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "nibble/core/philox.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::inline NIBBLE_ABI {
namespace {

/// Widths that models have, and the core that each is made with.
struct Order {
  std::size_t order, core;
};
constexpr Order kOrders[] = {{1, 1},       {2, 1},       {64, 1},      {128, 1},    {4096, 1},    {12, 12},
                             {96, 12},     {576, 36},    {1536, 12},   {5632, 44},  {11008, 344}, {13824, 108},
                             {14336, 28},  {28672, 28},  {3584, 28},   {7168, 28},  {8960, 140},  {17920, 140},
                             {18944, 148}, {27648, 108}, {29568, 924}, {3072, 12},  {12288, 12},  {9728, 76},
                             {17408, 68},  {25600, 100}, {2880, 180},  {18432, 36}, {9216, 36},   {2304, 36},
                             {80, 20},     {200, 100},   {1152, 36},   {640, 20},   {52, 52},     {104, 52}};

class Orders : public testing::TestWithParam<Order> {};

TEST_P(Orders, TheCoreTimesItsTransposeIsItsOrderTimesOne) {
  const Hadamard h(GetParam().order);
  const std::size_t n = h.core_order();
  EXPECT_EQ(n, GetParam().core);
  ASSERT_EQ(h.core().size(), n * n);
  for (const std::int8_t x : h.core()) ASSERT_TRUE(x == 1 || x == -1);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i; j < n; ++j) {
      const int product = std::inner_product(&h.core()[i * n], &h.core()[i * n] + n, &h.core()[j * n], 0);
      ASSERT_EQ(product, i == j ? static_cast<int>(n) : 0) << i << ", " << j;
    }
}

// Rows of H, taken out by applying it to the vectors of one 1. Whole numbers in double: the products are exact.
TEST_P(Orders, RowsAreOfOnesAndOrthogonal) {
  const Hadamard h(GetParam().order);
  const std::size_t n = h.order(), some = std::min<std::size_t>(n, n <= 640 ? n : 48);
  std::vector<double> rows(some * n), scratch;
  for (std::size_t i = 0; i < some; ++i) {
    double* row = rows.data() + i * n;
    row[some == n ? i : i * (n - 1) / (some - 1)] = 1;
    h.apply_to_columns({row, n, 1}, scratch);
    for (std::size_t c = 0; c < n; ++c) ASSERT_EQ(std::abs(row[c]), 1);
    for (std::size_t j = 0; j <= i; ++j)
      ASSERT_EQ(std::inner_product(row, row + n, rows.data() + j * n, 0.0), i == j ? static_cast<double>(n) : 0);
  }
}

// H is the Kronecker product that the header says, on both of its sides.
TEST_P(Orders, IsTheCoreTimesSylvesters) {
  const Hadamard h(GetParam().order);
  const std::size_t n = h.order(), part = n / h.core_order(), at = n / 3;
  std::vector<double> row(n), scratch;
  row[at] = 1;
  h.apply_to_columns({row.data(), n, 1}, scratch);
  for (std::size_t c = 0; c < n; ++c) {
    const int sylvester = std::popcount(at % part & c % part) % 2 == 0 ? 1 : -1;
    ASSERT_EQ(row[c], h.core()[at / part * h.core_order() + c / part] * sylvester) << c;
  }
}

INSTANTIATE_TEST_SUITE_P(OfModels, Orders, testing::ValuesIn(kOrders),
                         [](const auto& info) { return "N" + std::to_string(info.param.order); });

TEST(Hadamard, ColumnsOfAMatrixAreRotatedAsVectors) {
  const Hadamard h(24);
  const auto values = testing_support::normal(24 * 5, 3, 1.0f);
  std::vector<double> m(values.begin(), values.end()), scratch;
  h.apply_to_columns({m.data(), 24, 5}, scratch);
  for (std::size_t c = 0; c < 5; ++c) {
    std::vector<double> column(24);
    for (std::size_t r = 0; r < 24; ++r) column[r] = static_cast<double>(values[r * 5 + c]);
    h.apply_to_columns({column.data(), 24, 1}, scratch);
    for (std::size_t r = 0; r < 24; ++r) EXPECT_EQ(column[r], m[r * 5 + c]);
  }
}

TEST(Hadamard, OrdersThatNothingConstructsAreNamed) {
  for (const std::size_t n : {0u, 3u, 6u, 10u, 92u, 172u, 577u}) {
    EXPECT_FALSE(hadamard_core_order(n)) << n;
    testing_support::expect_error(ErrorCode::unsupported, "order " + std::to_string(n) + " ", [&] { Hadamard h(n); });
  }
  EXPECT_EQ(hadamard_core_order(184), std::nullopt);
  EXPECT_EQ(hadamard_core_order(368), 368u);  // 367 is prime
}

TEST(Hadamard, VectorsOfAnotherSizeAreRefused) {
  const Hadamard h(12);
  std::vector<double> m(48), scratch;
  testing_support::expect_error(ErrorCode::shape_mismatch, "of 8 × 1", [&] {
    h.apply_to_columns({m.data(), 8, 1}, scratch);
  });
  testing_support::expect_error(ErrorCode::shape_mismatch, "stride of 4", [&] {
    h.apply_to_columns({m.data(), 12, 2, 4}, scratch);
  });
  const RandomRotation r(12, {});
  testing_support::expect_error(ErrorCode::shape_mismatch, "size 12", [&] { r.apply({m.data(), 13}, scratch); });
}

std::vector<double> rotated(std::size_t size, const RandomRotationOptions& o, std::size_t at) {
  std::vector<double> v(size), scratch;
  v[at] = 1;
  RandomRotation(size, o).apply(v, scratch);
  return v;
}

TEST(RandomRotation, IsOrthogonal) {
  constexpr std::size_t n = 144;
  std::vector<std::vector<double>> rows;
  for (std::size_t i = 0; i < n; ++i) rows.push_back(rotated(n, {.seed = 5, .stream = 2}, i));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j)
      EXPECT_NEAR(std::inner_product(rows[i].begin(), rows[i].end(), rows[j].begin(), 0.0), i == j ? 1 : 0, 1e-13);
}

// What a seed gives must not change from one version to the next.
TEST(RandomRotation, SignsAreThoseOfTheCounterBasedGenerator) {
  const RandomRotationOptions o{.seed = 0x123456789abcdef0u, .stream = 7};
  constexpr std::size_t n = 512;
  const Hadamard h(n);
  for (std::size_t i = 0; i < n; i += 37) {
    const auto words = philox({static_cast<std::uint32_t>(i / 128), 0, 7, 0x524F5441u}, {0x9abcdef0u, 0x12345678u});
    const bool minus = (words[i / 32 % 4] >> i % 32 & 1u) != 0;
    std::vector<double> row(n), scratch;
    row[i] = minus ? -1 : 1;
    h.apply_to_columns({row.data(), n, 1}, scratch);
    const auto got = rotated(n, o, i);
    for (std::size_t c = 0; c < n; ++c) ASSERT_EQ(got[c], row[c] * (1 / std::sqrt(512.0))) << i << ", " << c;
  }
}

TEST(RandomRotation, SeedsAndStreamsDiffer) {
  const auto signs = [](const RandomRotationOptions& o) {
    std::vector<bool> out;
    for (std::size_t i = 0; i < 64; ++i) out.push_back(rotated(64, o, i)[0] > 0);
    return out;
  };
  const auto plain = signs({});
  EXPECT_EQ(plain, signs({}));
  EXPECT_NE(plain, signs({.seed = 1}));
  EXPECT_NE(plain, signs({.seed = std::uint64_t{1} << 32}));
  EXPECT_NE(plain, signs({.stream = 1}));
}

TEST(RandomRotation, OfBlocksWhereNoOrderIsConstructible) {
  testing_support::expect_error(ErrorCode::unsupported, "order 92 ", [] { RandomRotation r(92, {}); });
  EXPECT_EQ(RandomRotation(92, {.block = true}).order(), 4u);
  EXPECT_EQ(RandomRotation(576, {.block = true}).order(), 576u);
  const auto row = rotated(92, {.block = true}, 9);
  for (std::size_t c = 0; c < 92; ++c) EXPECT_EQ(std::abs(row[c]), c / 4 == 2 ? 0.5 : 0) << c;
  testing_support::expect_error(ErrorCode::unsupported, "size 45", [] { RandomRotation r(45, {.block = true}); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI
