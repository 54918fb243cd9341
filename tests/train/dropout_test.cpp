#include "nibble/train/dropout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/philox.h"
#include "tests/support/expect_error.h"

namespace nibble::train {
namespace {

using testing_support::expect_error;

std::vector<float> mask(const Dropout& d, std::size_t rows, std::size_t cols) {
  std::vector<float> x(rows * cols, 1);
  d.apply(MatrixView<const float>(x.data(), rows, cols), {x.data(), rows, cols});
  return x;
}

TEST(Dropout, KeepsTheShareItSaysAndTheMean) {
  const std::size_t n = 1000 * 1000;
  for (const float rate : {0.0f, 0.05f, 0.5f, 0.9f}) {
    double kept = 0, sum = 0;
    for (const float x : mask({.rate = rate, .seed = 3}, 1000, 1000)) {
      kept += x != 0;
      sum += static_cast<double>(x);
      ASSERT_TRUE(x == 0 || x == 1 / (1 - rate));
    }
    const double share = 1 - static_cast<double>(rate), sigma = std::sqrt(share * (1 - share) / n);
    EXPECT_NEAR(kept / n, share, 6 * sigma);
    EXPECT_NEAR(sum / n, 1, 6 * sigma / share + 1e-6);
  }
}

TEST(Dropout, AsksThePlaceAlone) {
  const Dropout d{.rate = 0.3f, .seed = 1, .stream = 2};
  const auto large = mask(d, 20, 30), small = mask(d, 7, 9);
  for (std::size_t r = 0; r < 7; ++r)
    for (std::size_t c = 0; c < 9; ++c) EXPECT_EQ(small[r * 9 + c], large[r * 30 + c]);
  EXPECT_EQ(mask(d, 20, 30), large);
}

TEST(Dropout, APartHasTheMaskOfItsPlace) {
  const Dropout whole{.rate = 0.3f, .seed = 1, .stream = 2};
  Dropout part = whole;
  part.first_row = 13;
  const auto all = mask(whole, 20, 30), last = mask(part, 7, 30);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), all.begin() + 13 * 30));
}

TEST(Dropout, TheMaskIsPhilox) {
  const Dropout d{.rate = 0.3f, .seed = 0x123456789abcdef0, .stream = 0xfedcba9876543210};
  std::vector<float> x(3 * 301);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) - 400;
  x[5] = INFINITY;
  const float dropped = 0x1p24f * d.rate;
  const auto kept = [&](std::uint32_t r, std::uint32_t c) {
    const auto bits = philox({c / 64 * 16 + c % 16, r, 0x76543210, 0xfedcba98}, {0x9abcdef0, 0x12345678});
    return static_cast<float>(bits[c % 64 / 16] >> 8) >= dropped;
  };
  for (const Backend* backend : backends()) {
    if (!backend->available()) continue;
    const kernels::KernelTable& isa = kernels_of(backend);
    for (std::uint32_t r = 0; r < 3; ++r) {
      const kernels::DropoutRow row{r, {0x76543210, 0xfedcba98}, {0x9abcdef0, 0x12345678}, dropped, 1 / (1 - d.rate)};
      std::vector<float> out(301);
      isa.dropout(row, x.data() + r * 301, 301, out.data());
      for (std::uint32_t c = 0; c < 301; ++c) {
        const float expected = kept(r, c) ? x[r * 301 + c] * (1 / (1 - d.rate)) : 0.0f;
        ASSERT_EQ(out[c], expected) << backend->name() << " row " << r << " column " << c;
      }
    }
  }
  std::vector<float> all = x;
  d.apply(MatrixView<const float>(all.data(), 3, 301), {all.data(), 3, 301});
  EXPECT_EQ(all.back(), kept(2, 300) ? x.back() * (1 / (1 - d.rate)) : 0.0f);
}

TEST(Dropout, EveryStreamAndSeedHasAMaskOfItsOwn) {
  const Dropout d{.rate = 0.5f, .seed = 1, .stream = 2};
  for (const Dropout other : {Dropout{0.5f, 1, 3}, Dropout{0.5f, 2, 2}, Dropout{0.5f, 1, 2 + (std::uint64_t{1} << 32)},
                              Dropout{0.5f, 1 + (std::uint64_t{1} << 32), 2}}) {
    const auto a = mask(d, 100, 100), b = mask(other, 100, 100);
    int same = 0;
    for (std::size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
    EXPECT_NEAR(same, 5000, 300);
  }
}

TEST(Dropout, RefusesWhatIsNoRateOrDoesNotFit) {
  std::vector<float> x(4);
  for (const float rate : {1.0f, -0.1f, NAN})
    expect_error(ErrorCode::invalid_argument, "the rate is", [&] { (void)mask({.rate = rate}, 2, 2); });
  expect_error(ErrorCode::shape_mismatch, "x is 2 × 2 and out 1 × 4", [&] {
    Dropout{}.apply(MatrixView<const float>(x.data(), 2, 2), {x.data(), 1, 4});
  });
}

}  // namespace
}  // namespace nibble::train
