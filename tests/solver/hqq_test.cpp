#include "nibble/solver/hqq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/format/safetensors.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::inline NIBBLE_ABI::hqq {
namespace {

using testing_support::expect_error;
using testing_support::normal;

constexpr std::size_t kRows = 6, kCols = 192;

/// Those of tests/golden/make_hqq_golden.py.
std::vector<float> golden_weights() {
  std::vector<float> out(kRows * kCols);
  for (std::size_t i = 0; i < out.size(); ++i) {
    double total = 0;
    for (std::uint32_t t = 0; t < 4; ++t) {
      std::uint32_t mixed = (static_cast<std::uint32_t>(i) + 1) * 2654435761u + t * 40503u;
      mixed ^= mixed >> 15;
      mixed *= 2246822519u;
      total += static_cast<double>(mixed >> 20) - 2048;
    }
    const std::size_t row = i / kCols, col = i % kCols;
    double w = total / 65536;
    if (col >= 7 && (col - 7) % 50 == 0) w *= 4;
    out[i] = static_cast<float>(w + static_cast<double>(row) / 256);
  }
  return out;
}

MatrixView<const float> view(const std::vector<float>& w, std::size_t cols) {
  return {w.data(), w.size() / cols, cols};
}

/// Σ counts·|w − ŵ|^p in doubles.
double error_of(const std::vector<float>& w, const QuantizedMatrix& q, double p, std::span<const float> counts = {}) {
  double sum = 0;
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) {
      const double e = static_cast<double>(w[r * q.cols + c]) - static_cast<double>(q.value(r, c));
      sum += (counts.empty() ? 1.0 : static_cast<double>(counts[c])) * std::pow(std::abs(e), p);
    }
  return sum;
}

/// Weights as layers have them: most small, some far out, and one group that is constant.
std::vector<float> layer_weights(std::size_t rows, std::size_t cols, unsigned seed) {
  auto w = normal(rows * cols, seed, 0.02f);
  for (std::size_t i = 5; i < w.size(); i += 37) w[i] *= 5;
  std::fill_n(w.begin(), std::min<std::size_t>(16, cols), 0.01f);
  return w;
}

constexpr const char* kMethods[] = {"hqq-4-g64",       "hqq-4-g64-scale",        "hqq-3-g64-asym",
                                    "hqq-2-g16-scale", "hqq-4-channel-sym",      "hqq-8-g32-asym",
                                    "hqq-3-g40",       "hqq-4-g64-asymreal-f32", "hqq-2-g32-asym-bf16"};

TEST(Hqq, IsTheRestatementInNumpy) {
  const auto w = golden_weights();
  const SafetensorsFile golden(NIBBLE_TEST_DATA "/golden/hqq/groups.safetensors");
  const auto stored = [&](const std::string& name) {
    return golden.data(*std::ranges::find(golden.tensors(), name, &TensorInfo::name));
  };
  for (const auto& [text, fit_scale] : {std::pair{"int4-g64-asymreal", false},
                                        {"int2-g32-asymreal", true},
                                        {"int3-g48-asym", true},
                                        {"int4-g96-sym", true}}) {
    const std::string name(text);
    const Result r = solve(view(w, kCols), {.spec = QuantSpec::parse(text), .fit_scale = fit_scale});
    const Buffer scale = stored(name + "/scale"), zero = stored(name + "/zero"), codes = stored(name + "/codes"),
                 error = stored(name + "/error");
    // Sums of floats here, of doubles there: a number that lies between two of its type may be stored as either, the
    // turns after it then start from there, and a weight between two codes may get the other.
    std::size_t others = 0;
    for (std::size_t g = 0; g < r.matrix.group_count(); ++g) {
      ASSERT_NEAR(r.matrix.scale(g), scale.as<float>()[g], 0x1p-9f * scale.as<float>()[g]) << text << ", group " << g;
      ASSERT_NEAR(r.matrix.zero(g), zero.as<float>()[g], 0x1p-6f) << text << ", group " << g;
    }
    for (std::size_t i = 0; i < w.size(); ++i)
      others += r.matrix.code(i / kCols, i % kCols) != codes.as<std::uint8_t>()[i] ? 1u : 0u;
    EXPECT_LE(others, w.size() / 200) << text;
    EXPECT_NEAR(r.report.error, error.as<double>()[0], 2e-3 * error.as<double>()[0]) << text;
    EXPECT_NEAR(r.report.rounding_error, error.as<double>()[1], 1e-5 * error.as<double>()[1]) << text;
  }
}

TEST(Hqq, TheReportIsTheErrorOfWhatIsStoredAndNeverMoreThanRoundings) {
  for (const char* text : kMethods) {
    Options o = Options::parse(text);
    o.name = "layer";
    const auto w = layer_weights(24, 320, 3);
    const Result r = solve(view(w, 320), o);
    r.matrix.validate("layer");
    EXPECT_EQ(r.report.name, "layer");
    const auto rounded = quantize(view(w, 320), o.spec);
    EXPECT_NEAR(r.report.error, error_of(w, r.matrix, 0.7), 1e-4 * r.report.error) << text;
    EXPECT_NEAR(r.report.rounding_error, error_of(w, rounded, 0.7), 1e-4 * r.report.rounding_error) << text;
    EXPECT_LT(r.report.error, r.report.rounding_error) << text;
  }
}

TEST(Hqq, MoreTurnsNeverMakeAGroupWorse) {
  const auto w = layer_weights(24, 320, 5);
  for (const char* text : kMethods) {
    Options o = Options::parse(text);
    double before = std::numeric_limits<double>::infinity();
    for (o.iterations = 1; o.iterations <= 20; ++o.iterations) {
      const double error = solve(view(w, 320), o).report.error;
      EXPECT_LE(error, before) << text << ", " << o.iterations << " turns";
      before = error;
    }
    o.iterations = 1;  // the look at the range, and no turn that follows from it
    const Result one = solve(view(w, 320), o);
    EXPECT_EQ(one.report.error, one.report.rounding_error) << text;
    const auto rounded = quantize(view(w, 320), o.spec);
    EXPECT_TRUE(
        std::equal(one.matrix.codes.data(), one.matrix.codes.data() + rounded.codes.size(), rounded.codes.data()))
        << text;
  }
}

TEST(Hqq, DependsNeitherOnThreadsNorOnTheUnitOfTheWeights) {
  auto w = layer_weights(70, 256, 8);
  for (const char* text : {"hqq-4-g64-asymreal-f32", "hqq-2-g32-asymreal-f32-scale", "hqq-3-g64-asym-f32"}) {
    Options o = Options::parse(text);
    const Result all = solve(view(w, 256), o);
    o.executor = &serial_executor();
    const Result serial = solve(view(w, 256), o);
    auto larger = w;
    for (float& x : larger) x *= 1024;
    const Result scaled = solve(view(larger, 256), o);
    for (std::size_t i = 0; i < all.matrix.codes.size(); ++i) {
      ASSERT_EQ(all.matrix.codes.data()[i], serial.matrix.codes.data()[i]) << text;
      ASSERT_EQ(all.matrix.codes.data()[i], scaled.matrix.codes.data()[i]) << text;
    }
    EXPECT_EQ(all.report.error, serial.report.error);
    for (std::size_t g = 0; g < all.matrix.group_count(); ++g)
      ASSERT_EQ(scaled.matrix.scale(g), 1024 * all.matrix.scale(g)) << text;
  }
}

TEST(Hqq, ErrorsCountByImportance) {
  const auto w = layer_weights(16, 128, 9);
  std::vector<float> importance(128, 0.01f);
  for (std::size_t c = 0; c < 128; c += 8) importance[c] = 4;
  std::vector<float> shares = importance;
  for (float& x : shares) x /= 4;
  for (const char* text : {"hqq-3-g64", "hqq-2-g32-asym", "hqq-4-g64-scale"}) {
    Options o = Options::parse(text);
    const Result plain = solve(view(w, 128), o);
    o.importance = importance;
    const Result weighed = solve(view(w, 128), o);
    EXPECT_NEAR(weighed.report.error, error_of(w, weighed.matrix, 0.7, shares), 1e-4 * weighed.report.error) << text;
    EXPECT_LT(weighed.report.error, error_of(w, plain.matrix, 0.7, shares)) << text;
    // Columns that count nothing, and groups of such alone, are rounded all the same.
    std::fill(importance.begin(), importance.end(), 0.0f);
    solve(view(w, 128), o).matrix.validate("layer");
    std::fill_n(importance.begin(), 64, 1.0f);
    solve(view(w, 128), o).matrix.validate("layer");
    for (std::size_t c = 0; c < 128; ++c) importance[c] = shares[c] * 4;
  }
}

TEST(Hqq, AZeroPointThatStartsRoundedIsNoWorseThanThere) {
  const auto w = layer_weights(16, 128, 4);
  Options o = Options::parse("hqq-4-g64-round");
  const Result all = solve(view(w, 128), o);
  o.iterations = 1;
  const Result start = solve(view(w, 128), o);
  const auto rounded = quantize(view(w, 128), o.spec);
  for (std::size_t g = 0; g < start.matrix.group_count(); ++g)
    EXPECT_EQ(start.matrix.zero(g), std::nearbyint(rounded.zero(g))) << g;
  EXPECT_NEAR(start.report.error, error_of(w, start.matrix, 0.7), 1e-4 * start.report.error);
  EXPECT_LT(all.report.error, start.report.error);
  EXPECT_EQ(all.report.rounding_error, start.report.error);
}

TEST(Hqq, HalfPrecisionWeightsAreTheirFloats) {
  const auto w = layer_weights(8, 64, 2);
  std::vector<bf16> narrow;
  std::vector<float> wide;
  for (const float x : w) wide.push_back(static_cast<float>(narrow.emplace_back(x)));
  const Result a = solve(MatrixView<const bf16>(narrow.data(), 8, 64)), b = solve(view(wide, 64));
  EXPECT_TRUE(std::equal(a.matrix.codes.data(), a.matrix.codes.data() + a.matrix.codes.size(), b.matrix.codes.data()));
  EXPECT_EQ(a.report.error, b.report.error);
}

TEST(Hqq, ZerosAndConstantsAndTheSmallestFloatsAreOrdinaryGroups) {
  std::vector<float> w(4 * 64, 0.0f);
  for (std::size_t c = 0; c < 64; ++c) {
    w[64 + c] = 0.3f;
    w[128 + c] = (c % 2 == 0 ? 1.0f : -1.0f) * 0x1p-149f;
    w[192 + c] = 100.0f + static_cast<float>(c % 3) * 0.25f;
  }
  for (const char* text :
       {"hqq-4-g64-asymreal-f32", "hqq-4-g64", "hqq-4-g64-scale", "hqq-4-g64-asym", "hqq-4-g64-sym"}) {
    const Result r = solve(view(w, 64), Options::parse(text));
    r.matrix.validate("w");
    for (std::size_t c = 0; c < 64; ++c) {
      EXPECT_EQ(r.matrix.value(0, c), 0) << text;
      EXPECT_NEAR(r.matrix.value(1, c), 0.3f, 1e-3f) << text;
      EXPECT_LE(std::abs(r.matrix.value(2, c)), 0x1p-24f) << text;
      EXPECT_NEAR(r.matrix.value(3, c), w[192 + c], r.matrix.scale(3) / 2 + 0.05f) << text;
    }
  }
}

TEST(Hqq, BadOptionsAreNamedWithTheirValues) {
  const auto w = layer_weights(4, 64, 1);
  const auto refused = [&](const std::string& says, auto&& change) {
    Options o;
    o.name = "k_proj";
    change(o);
    expect_error(ErrorCode::invalid_argument, says, [&] { (void)solve(view(w, 64), o); });
  };
  refused("lp_norm is 0.000000", [](Options& o) { o.lp_norm = 0; });
  refused("lp_norm is 1.500000", [](Options& o) { o.lp_norm = 1.5f; });
  refused("lp_norm is nan", [](Options& o) { o.lp_norm = std::numeric_limits<float>::quiet_NaN(); });
  refused("beta is -1.000000", [](Options& o) { o.beta = -1; });
  refused("kappa is 0.900000", [](Options& o) { o.kappa = 0.9f; });
  refused("iterations is 0", [](Options& o) { o.iterations = 0; });
  refused("'k_proj': it fits", [](Options& o) { o.spec = QuantSpec::parse("nf4"); });
  refused("take -asymreal", [](Options& o) { o.spec = QuantSpec::parse("int4-g32-asymraw"); });
  refused("without fit_scale", [](Options& o) { o.spec = QuantSpec::parse("int4-g32-sym"); });
  refused("round_zero is of real", [](Options& o) {
    o.spec = QuantSpec::parse("int4-g32-asym");
    o.fit_scale = o.round_zero = true;
  });
  refused("cross rows of 64", [](Options& o) { o.spec = QuantSpec::parse("int4-b48-asymreal"); });
  refused("bits is 9", [](Options& o) { o.spec.bits = 9; });
}

TEST(Hqq, BadWeightsAndImportanceAreNamedWithTheirPlace) {
  auto w = layer_weights(4, 64, 1);
  Options o{.name = "k_proj"};
  w[2 * 64 + 33] = std::numeric_limits<float>::quiet_NaN();
  expect_error(ErrorCode::non_finite, "tensor 'k_proj', row 2, column 33: the value is nan",
               [&] { (void)solve(view(w, 64), o); });
  w[2 * 64 + 33] = -std::numeric_limits<float>::infinity();
  expect_error(ErrorCode::non_finite, "row 2, column 33: the value is -inf", [&] { (void)solve(view(w, 64), o); });
  w[2 * 64 + 33] = 1e9f;
  o.spec = QuantSpec::parse("int4-g32-asymreal");
  expect_error(ErrorCode::non_finite, "row 2, column 32: the scale", [&] { (void)solve(view(w, 64), o); });
  std::vector<float> importance(63, 1.0f);
  o.importance = importance;
  expect_error(ErrorCode::shape_mismatch, "64 columns; its importance is that of 63",
               [&] { (void)solve(view(w, 64), o); });
  importance.assign(64, 1.0f);
  importance[9] = -1;
  o.importance = importance;
  expect_error(ErrorCode::non_finite, "the importance of column 9 is -1", [&] { (void)solve(view(w, 64), o); });
  o.importance = {};
  expect_error(ErrorCode::invalid_argument, "0 × 64",
               [&] { (void)solve(MatrixView<const float>(w.data(), 0, 64), o); });
  expect_error(ErrorCode::invalid_argument, "its data is null",
               [&] { (void)solve(MatrixView<const float>(nullptr, 4, 64), o); });
}

TEST(Hqq, ItsTextSaysWhatIsStoredAndWhatMoves) {
  const auto parsed = [](const char* text) { return Options::parse(text); };
  EXPECT_EQ(parsed("hqq-4-g64").spec, QuantSpec::parse("int4-g64-asymreal"));
  EXPECT_FALSE(parsed("hqq-4-g64").fit_scale);
  EXPECT_TRUE(parsed("hqq-4-g64-scale").fit_scale);
  EXPECT_EQ(parsed("hqq-3-g128-asym").spec, QuantSpec::parse("int3-g128-asym"));
  EXPECT_TRUE(parsed("hqq-3-g128-asym").fit_scale);
  EXPECT_EQ(parsed("hqq-4-channel-sym-f16").spec, QuantSpec::parse("int4-channel-sym-f16"));
  EXPECT_TRUE(parsed("hqq-4-g64-round").round_zero && !parsed("hqq-4-g64-round").fit_scale);
  EXPECT_TRUE(parsed("hqq-4-g64-scale-round").round_zero && parsed("hqq-4-g64-scale-round").fit_scale);
  EXPECT_TRUE(Options::is_hqq("hqq-9") && Options::is_hqq("hqq") && !Options::is_hqq("hqqq-4"));
  for (const char* text : {"hqq", "hqq-", "hqq-9-g64", "hqq-x-g64", "hqq-4-g64-act", "hqq-4-b64-asymraw", "hqq-4-g0"})
    expect_error(ErrorCode::invalid_argument, std::string("'") + text + "'", [&] { (void)Options::parse(text); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::hqq
