#include "nibble/solver/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

using testing_support::BackwardsExecutor;
using testing_support::expect_error;
using testing_support::normal;
using testing_support::TemporaryFolder;
using testing_support::view;

/// |error| of a sum of 256 products by fused multiply-adds is at most 256·2⁻²⁴ of the sum of magnitudes; the rest is
/// fp64.
void expect_sums(const Hessian& h, const std::vector<float>& x) {
  const std::size_t n = h.channels(), tokens = x.size() / n;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = 0, magnitude = 0;
      for (std::size_t t = 0; t < tokens; ++t) {
        const double p = static_cast<double>(x[t * n + i]) * static_cast<double>(x[t * n + j]);
        sum += p;
        magnitude += std::abs(p);
      }
      ASSERT_NEAR(h.sum(i, j), sum, 256 * 0x1p-24 * magnitude + 1e-30) << i << ", " << j;
      ASSERT_EQ(h.sum(i, j), h.sum(j, i));
    }
}

TEST(Hessian, SumsProductsOfAnyShape) {
  for (const auto& [tokens, channels] : std::vector<std::pair<std::size_t, std::size_t>>{
           {1, 1}, {3, 5}, {255, 33}, {256, 96}, {257, 97}, {1100, 130}, {2500, 40}}) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens of " + std::to_string(channels));
    const auto x = normal(tokens * channels, 1);
    Hessian h(channels);
    h.add(view(x, channels));
    EXPECT_EQ(h.tokens(), tokens);
    expect_sums(h, x);
  }
}

TEST(Hessian, TakesHalfPrecisionAndRowsApart) {
  const std::size_t channels = 50, tokens = 70, stride = 53;
  const auto values = normal(tokens * stride, 2);
  std::vector<f16> half(values.begin(), values.end());
  std::vector<bf16> brain(values.begin(), values.end());
  std::vector<float> upcast;
  Hessian from_half(channels), from_float(channels), from_brain(channels);
  from_half.add(MatrixView<const f16>(half.data(), tokens, channels, stride));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < channels; ++c) upcast.push_back(static_cast<float>(half[t * stride + c]));
  from_float.add(view(upcast, channels));
  from_brain.add(MatrixView<const bf16>(brain.data(), tokens, channels, stride));
  for (std::size_t i = 0; i < channels; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      EXPECT_EQ(from_half.sum(i, j), from_float.sum(i, j));
      EXPECT_NEAR(from_brain.sum(i, j), from_float.sum(i, j), 2);  // rounded to 8 bits, 70 tokens
    }
}

TEST(Hessian, ManySmallBatchesDoNotDrift) {
  // 4096 batches of one token of 1 and 1/4096 of noise: in fp32 the sum's last bit would be 2⁻¹¹.
  Hessian h(1);
  double sum = 0;
  for (int i = 0; i < 4096; ++i) {
    const float x = 1 + 0x1p-10f * static_cast<float>(i % 7);
    sum += static_cast<double>(x * x);
    h.add(MatrixView<const float>(&x, 1, 1));
  }
  EXPECT_EQ(h.sum(0, 0), sum);
}

TEST(Hessian, DoesNotDependOnThreads) {
  const std::size_t channels = 700, tokens = 300;
  const auto x = normal(tokens * channels, 3), full = normal(tokens * channels, 4);
  Hessian serial(channels, "x", true), pooled(channels, "x", true), backwards(channels, "x", true);
  BackwardsExecutor executor(7);
  serial.add(view(x, channels), view(full, channels), serial_executor());
  pooled.add(view(x, channels), view(full, channels));
  backwards.add(view(x, channels), view(full, channels), executor);
  for (const Hessian* other : {&pooled, &backwards})
    for (std::size_t i = 0; i < channels; ++i)
      for (std::size_t j = 0; j < channels; ++j) {
        ASSERT_EQ(serial.sum(i, j), other->sum(i, j));
        ASSERT_EQ(serial.cross(i, j), other->cross(i, j));
      }
}

TEST(Hessian, GathersTheCrossStatistic) {
  const std::size_t channels = 45, tokens = 300;
  const auto x = normal(tokens * channels, 5), full = normal(tokens * channels, 6);
  Hessian h(channels, "x", true);
  h.add(view(x, channels), view(full, channels));
  expect_sums(h, x);
  for (std::size_t i = 0; i < channels; ++i)
    for (std::size_t j = 0; j < channels; ++j) {
      double sum = 0, magnitude = 0;
      for (std::size_t t = 0; t < tokens; ++t) {
        const double p = static_cast<double>(full[t * channels + i] - x[t * channels + i]) *
                         static_cast<double>(x[t * channels + j]);
        sum += p;
        magnitude += std::abs(p);
      }
      EXPECT_NEAR(h.cross(i, j), sum, 256 * 0x1p-24 * magnitude);
    }
}

TEST(Hessian, MergesLikeOneThatSawBoth) {
  const std::size_t channels = 20;
  const auto a = normal(256 * channels, 7), b = normal(512 * channels, 8);
  Hessian both(channels), first(channels), second(channels);
  both.add(view(a, channels));
  both.add(view(b, channels));
  first.add(view(a, channels));
  second.add(view(b, channels));
  first.merge(second);
  EXPECT_EQ(first.tokens(), 768u);
  for (std::size_t i = 0; i < channels; ++i)
    for (std::size_t j = 0; j <= i; ++j) EXPECT_EQ(first.sum(i, j), both.sum(i, j));
  expect_error(ErrorCode::shape_mismatch, "21", [&] { first.merge(Hessian(21)); });
  expect_error(ErrorCode::shape_mismatch, "asymmetric", [&] { first.merge(Hessian(20, "y", true)); });
}

TEST(Hessian, NamesWhatIsNotFiniteAndCountsNothingOfIt) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, 0x1p60f}) {
    auto x = normal(300 * 40, 9);
    x[257 * 40 + 39] = bad;
    Hessian h(40, "layers.3.down_proj");
    expect_error(ErrorCode::non_finite, "'layers.3.down_proj': token 257, channel 39 is " + std::to_string(bad),
                 [&] { h.add(view(x, 40)); });
    EXPECT_EQ(h.tokens(), 0u);
    EXPECT_EQ(h.sum(0, 0), 0.0);
  }
  Hessian h(3, "x");
  const float x[] = {1, 2, 3, 4};
  expect_error(ErrorCode::shape_mismatch, "2 × 2", [&] { h.add(MatrixView<const float>(x, 2, 2)); });
  expect_error(ErrorCode::invalid_argument, "asymmetric",
               [&] { h.add(MatrixView<const float>(x, 1, 3), MatrixView<const float>(x, 1, 3)); });
  expect_error(ErrorCode::unsupported, "I32", [&] { h.add(FloatMatrix(x, DType::i32, 1, 3, 3)); });
  expect_error(ErrorCode::invalid_argument, "no channels", [] { Hessian(0, "x"); });
}

TEST(Hessian, ListsDeadChannels) {
  auto x = normal(20 * 6, 10);
  for (std::size_t t = 0; t < 20; ++t) x[t * 6 + 1] = x[t * 6 + 4] = 0;
  x[19 * 6 + 4] = 1e-10f;
  Hessian h(6);
  h.add(view(x, 6));
  EXPECT_EQ(h.dead_channels(), std::vector<std::size_t>{1});
}

TEST(Hessian, FromSumRefusesWhatIsNoSumOfSquares) {
  double sum[] = {2, 9, 1, 3};
  const MatrixView<const double> m(sum, 2, 2);
  const Hessian h = Hessian::from_sum(m, 7, "y");
  EXPECT_EQ(h.tokens(), 7u);
  EXPECT_EQ(h.sum(0, 1), 1.0);  // the lower triangle is read
  sum[2] = std::nan("");
  expect_error(ErrorCode::non_finite, "'y': element (1, 0) is nan", [&] { Hessian::from_sum(m, 7, "y"); });
  sum[2] = 1;
  sum[3] = -1;
  expect_error(ErrorCode::invalid_argument, "(1, 1)", [&] { Hessian::from_sum(m, 7, "y"); });
  expect_error(ErrorCode::shape_mismatch, "1 × 2", [&] { Hessian::from_sum({sum, 1, 2}, 7, "y"); });
}

TEST(Hessian, FromSumTakesACrossStatisticOfTheSameSize) {
  const double sum[] = {2, 9, 1, 3};
  double cross[] = {4, 5, 6, -7};
  const MatrixView<const double> m(sum, 2, 2), c(cross, 2, 2);
  const Hessian h = Hessian::from_sum(m, c, 7, "y");
  EXPECT_TRUE(h.asymmetric());
  EXPECT_EQ(h.sum(0, 1), 1.0);
  EXPECT_EQ(h.cross(0, 1), 5.0);
  EXPECT_EQ(h.cross(1, 1), -7.0);
  expect_error(ErrorCode::shape_mismatch, "'y' is 2 × 2, its cross statistic 1 × 2", [&] {
    Hessian::from_sum(m, {cross, 1, 2}, 7, "y");
  });
  cross[1] = std::nan("");
  expect_error(ErrorCode::non_finite, "cross statistic of 'y': element (0, 1) is nan",
               [&] { Hessian::from_sum(m, c, 7, "y"); });
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST(HessianFile, ComesBackExactly) {
  const TemporaryFolder folder;
  for (const bool asymmetric : {false, true}) {
    const std::size_t channels = 37;
    const auto x = normal(100 * channels, 11), full = normal(100 * channels, 12);
    Hessian h(channels, "läyer", asymmetric);
    if (asymmetric) h.add(view(x, channels), view(full, channels));
    else h.add(view(x, channels));
    h.save(folder / "h");
    h.save(folder / "h");  // over the old one
    const Hessian back = Hessian::load(folder / "h");
    EXPECT_EQ(back.name(), h.name());
    EXPECT_EQ(back.tokens(), h.tokens());
    EXPECT_EQ(back.asymmetric(), asymmetric);
    for (std::size_t i = 0; i < channels; ++i)
      for (std::size_t j = 0; j < channels; ++j) {
        EXPECT_EQ(back.sum(i, j), h.sum(i, j));
        if (asymmetric) EXPECT_EQ(back.cross(i, j), h.cross(i, j));
      }
  }
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 1u) << "a temporary file was left";
}

TEST(HessianFile, RefusesEveryHostileFile) {
  const TemporaryFolder folder;
  const auto x = normal(10 * 3, 13);
  Hessian h(3, "abc");
  h.add(view(x, 3));
  h.save(folder / "good");
  const std::string good = read(folder / "good");
  ASSERT_EQ(good.size(), 40u + 3 + 6 * 8);
  const auto refused = [&](const std::string& bytes, const std::string& says) {
    write(folder / "bad", bytes);
    expect_error(ErrorCode::corrupt_file, says, [&] { Hessian::load(folder / "bad"); });
  };
  for (std::size_t size = 0; size < good.size(); ++size) refused(good.substr(0, size), "bytes");
  refused(good + "x", "channels need");
  std::string other = good;
  other[0] = 'X';
  refused(other, "NIBHESS1");
  const auto with = [&](std::size_t at, std::uint64_t value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, 8);
    return bytes;
  };
  for (std::uint64_t channels : {std::uint64_t{0}, std::uint64_t{1} << 32, std::uint64_t{1} << 63, ~std::uint64_t{0}})
    refused(with(8, channels), "channels is");
  refused(with(8, 4), "channels need");
  refused(with(24, 1), "channels need");
  refused(with(24, 2), "asymmetric is 2");
  refused(with(32, ~std::uint64_t{0}), "name has");
  refused(with(32, 4), "channels need");
  const std::uint64_t nan = 0x7ff8000000000000u, minus_one = 0xbff0000000000000u;
  refused(with(43 + 8, nan), "element (1, 0)");
  refused(with(43, minus_one), "element (0, 0)");
  expect_error(ErrorCode::not_found, "missing", [&] { Hessian::load(folder / "missing"); });
  expect_error(ErrorCode::invalid_argument, "nowhere", [&] { h.save(folder / "nowhere" / "h"); });
}

}  // namespace
}  // namespace nibble
