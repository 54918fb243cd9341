// Compiled as a program that has nibble by headers alone, with flags under which the compiler fuses (CMakeLists.txt).
#define NIBBLE_HEADER_ONLY
#include "nibble/core/rounded_product.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace {

#if defined(__x86_64__)
bool can_run() { return __builtin_cpu_supports("fma"); }
#else
bool can_run() { return true; }
#endif

/// Finite values with all bits of their significands in use.
template <class T>
class Values {
 public:
  T next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    const auto whole = static_cast<std::int64_t>(state_) >> 8;
    return static_cast<T>(whole) * static_cast<T>(0x1p-50);
  }

 private:
  std::uint64_t state_ = 42;
};

template <class T>
struct RoundedProductTest : testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(RoundedProductTest, Types);

TYPED_TEST(RoundedProductTest, IsNotFusedWithTheAddition) {
  if (!can_run()) GTEST_SKIP() << "no fused multiply-add here";
  using T = TypeParam;
  constexpr std::size_t n = 4096;
  Values<T> values;
  std::array<T, n> a, b, c, sums, differences;
  for (std::size_t i = 0; i < n; ++i) a[i] = values.next(), b[i] = values.next(), c[i] = values.next();
  const nibble::RoundedProduct<T> times;
  for (std::size_t i = 0; i < n; ++i) sums[i] = c[i] + times(a[i], b[i]);
  for (std::size_t i = 0; i < n; ++i) differences[i] = c[i] - times(a[i], b[i]);
  std::size_t other = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const volatile T product = a[i] * b[i];
    EXPECT_EQ(sums[i], c[i] + product) << i;
    EXPECT_EQ(differences[i], c[i] - product) << i;
    if (std::fma(a[i], b[i], c[i]) != c[i] + product) ++other;
  }
  EXPECT_GT(other, n / 100) << "the values do not tell a fused multiply-add from two operations";
}

TYPED_TEST(RoundedProductTest, IsTheProductWithItsSign) {
  if (!can_run()) GTEST_SKIP() << "no fused multiply-add here";
  using T = TypeParam;
  const nibble::RoundedProduct<T> times;
  volatile T zero = 0, one = 1, least = std::numeric_limits<T>::denorm_min(), most = std::numeric_limits<T>::max();
  EXPECT_FALSE(std::signbit(times(zero, one)));
  EXPECT_TRUE(std::signbit(times(-zero, one)));
  EXPECT_FALSE(std::signbit(times(-zero, -one)));
  EXPECT_TRUE(std::signbit(times(-least, least)));
  EXPECT_EQ(times(least, one), least);
  EXPECT_TRUE(std::isinf(times(most, most)));
  EXPECT_TRUE(std::isnan(times(most * 2, zero)));
}

TYPED_TEST(RoundedProductTest, IsKnownAtCompileTime) { static_assert(nibble::RoundedProduct<TypeParam>()(3, 4) == 12); }

}  // namespace
