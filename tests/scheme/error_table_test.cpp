// The errors that bitsandbytes' tests publish for N(0,1), 1024 × 1024: mean |error| and mean |error|/(|x| + 1e-8).
#include <gtest/gtest.h>

#include <cmath>

#include "nibble/quantize/quantize.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

struct Errors {
  double absolute, relative;
};

Errors measure(const std::vector<float>& x, const std::string& spec) {
  const auto q = quantize(MatrixView<const float>(x.data(), 1024, 1024), spec);
  std::vector<float> back(x.size());
  dequantize(q, {back.data(), 1024, 1024});
  Errors e{0, 0};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(static_cast<double>(x[i]) - static_cast<double>(back[i]));
    e.absolute += error;
    e.relative += error / (std::abs(static_cast<double>(x[i])) + 1e-8);
  }
  return {e.absolute / static_cast<double>(x.size()), e.relative / static_cast<double>(x.size())};
}

struct Published {
  int block;
  Errors nf4, fp4;
};
constexpr Published kTable[] = {
    {32, {.067746, .189726}, {.088925, .242443}},   {64, {.072798, .203339}, {.096543, .260125}},
    {128, {.076831, .215237}, {.102969, .275817}},  {256, {.080337, .226105}, {.108684, .289831}},
    {512, {.083547, .236079}, {.114115, .302881}},  {1024, {.086610, .245370}, {.119333, .315000}},
    {2048, {.089592, .254163}, {.124556, .326607}}, {4096, {.092547, .262473}, {.129536, .337169}}};

/// The published deviation at block 64. It grows with the square root of the block, there being fewer absmax values;
/// seven of them are allowed, on both sides.
double allowed(double deviation, int block) { return 7 * deviation * std::sqrt(std::max(1.0, block / 64.0)); }

TEST(PublishedErrors, HoldForEveryBlockSizeOfNf4AndFp4) {
  const auto x = testing_support::normal(1024 * 1024, 42);
  for (const auto& row : kTable) {
    const Errors n = measure(x, "nf4-b" + std::to_string(row.block)),
                 f = measure(x, "fp4-b" + std::to_string(row.block));
    EXPECT_NEAR(n.absolute, row.nf4.absolute, allowed(7.4e-5, row.block)) << row.block;
    EXPECT_NEAR(n.relative, row.nf4.relative, allowed(3.4e-4, row.block)) << row.block;
    EXPECT_NEAR(f.absolute, row.fp4.absolute, allowed(1.11e-4, row.block)) << row.block;
    EXPECT_NEAR(f.relative, row.fp4.relative, allowed(3.79e-4, row.block)) << row.block;
  }
}

TEST(PublishedErrors, HoldWithDoubleQuantization) {
  const auto x = testing_support::normal(1024 * 1024, 43);
  for (const char* spec : {"nf4-b64-dq", "nf4-b128-dq", "fp4-b64-dq", "fp4-b128-dq"}) {
    const Errors e = measure(x, spec);
    EXPECT_LT(e.absolute, .11) << spec;
    EXPECT_LT(e.relative, .28) << spec;
  }
}

TEST(PublishedErrors, HoldForTheDynamicMap) {
  const Errors e = measure(testing_support::normal(1024 * 1024, 44), "dynamic8-b256");
  EXPECT_NEAR(e.absolute, .00852, .0001);
  EXPECT_LT(e.relative, .018);
}

/// Root of the mean square of the error over that of the values, by other implementations of the same formats: FP8 and
/// MX by microxcaling's rules, NVFP4 with one target and with the better of two.
TEST(PublishedErrors, HoldForSmallFloats) {
  const auto x = testing_support::normal(1024 * 1024, 45);
  const auto relative = [&](const std::string& spec) {
    const auto q = quantize(MatrixView<const float>(x.data(), 1024, 1024), spec);
    std::vector<float> back(x.size());
    dequantize(q, {back.data(), 1024, 1024});
    double error = 0, all = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double off = static_cast<double>(x[i]) - static_cast<double>(back[i]);
      error += off * off;
      all += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    return std::sqrt(error / all);
  };
  const std::pair<const char*, double> known[] = {
      {"fp8", .0264},         {"e4m3-t128", .0264},           {"e5m2-channel", .0526}, {"mxfp8-floor", .0294},
      {"mxfp6-floor", .0284}, {"e3m2-g32-e8m0-floor", .0540}, {"mxfp4-floor", .1150},  {"mxfp4", .1119},
      {"mxfp4-ceil", .1154},  {"nvfp4-largest", .0950},       {"nvfp4", .0869}};
  for (const auto& [spec, error] : known) EXPECT_NEAR(relative(spec), error, .0005) << spec;
  EXPECT_LT(relative("mxfp4-search"), relative("mxfp4"));
  EXPECT_LT(relative("mxfp8-search"), relative("mxfp8-floor"));
}

}  // namespace
}  // namespace nibble
