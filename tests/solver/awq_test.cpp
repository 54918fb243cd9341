#include "nibble/solver/awq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/quantize/quantize.h"
#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::awq {
namespace {

using namespace testing_support;

ActivationStats stats_of(const std::vector<float>& x, std::size_t channels) {
  ActivationStats out(channels, "x", x.size() / channels);
  out.add(view(x, channels));
  return out;
}

std::vector<double> outputs(const std::vector<float>& x, const std::vector<double>& w, std::size_t cols) {
  std::vector<double> out;
  for (std::size_t t = 0; t < x.size() / cols; ++t)
    for (std::size_t r = 0; r < w.size() / cols; ++r) {
      double y = 0;
      for (std::size_t c = 0; c < cols; ++c) y += static_cast<double>(x[t * cols + c]) * w[r * cols + c];
      out.push_back(y);
    }
  return out;
}

std::vector<double> outputs(const std::vector<float>& x, const std::vector<float>& w, std::size_t cols) {
  return outputs(x, std::vector<double>(w.begin(), w.end()), cols);
}

/// What the scheme itself makes of groups of w, one weight after another.
std::vector<float> rounded(const std::vector<float>& w, std::size_t cols, const QuantSpec& s) {
  std::vector<float> out;
  const std::size_t size = s.granularity == Granularity::group ? s.group_size : cols;
  for (std::size_t row = 0; row < w.size(); row += cols)
    for (std::size_t first = 0; first < cols; first += size) {
      const std::span<const float> group(w.data() + row + first, std::min(size, cols - first));
      const bool symmetric = s.scheme == SchemeKind::symmetric;
      const AffineParams p = symmetric ? fit_symmetric(range_of(group), s.bits, s.narrow_range, s.scale_type)
                                       : fit_asymmetric(range_of(group), s.bits, s.preserve_zero, s.scale_type);
      const std::int32_t low = symmetric ? symmetric_low(s.narrow_range) : 0;
      for (float x : group) out.push_back(affine_decode(affine_encode(x, p, low, (1 << s.bits) - 1), p));
    }
  return out;
}

double squared_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

/// The method as published, in plain loops.
std::vector<double> scales_by_hand(double ratio, const std::vector<float>& x, const std::vector<std::vector<float>>& ws,
                                   std::size_t cols, std::size_t group, bool duo) {
  std::vector<double> s(cols);
  for (std::size_t c = 0; c < cols; ++c) {
    double mean = 0;
    for (std::size_t t = 0; t < x.size() / cols; ++t) mean += std::abs(static_cast<double>(x[t * cols + c]));
    mean /= static_cast<double>(x.size() / cols);
    double weight = 0, rows = 0;
    for (const auto& w : ws)
      for (std::size_t row = 0; row < w.size(); row += cols, ++rows) {
        double largest = 0;
        const std::size_t first = c / group * group;
        for (std::size_t i = first; i < std::min(cols, first + group); ++i)
          largest = std::max(largest, std::abs(static_cast<double>(w[row + i])));
        weight += std::abs(static_cast<double>(w[row + c])) / (largest + 1e-6);
      }
    s[c] = std::max(std::pow(mean, ratio) / (duo ? std::pow(weight / rows, 1 - ratio) + 1e-4 : 1.0), 1e-4);
  }
  const auto [least, most] = std::minmax_element(s.begin(), s.end());
  const double middle = std::sqrt(*least * *most);
  for (double& value : s) value /= middle;
  return s;
}

TEST(AwqScales, ChooseTheGridsArgmin) {
  const std::size_t cols = 96, tokens = 60;
  const auto x = correlated(tokens, cols, 1);
  const std::vector<std::vector<float>> ws = {normal(20 * cols, 2), normal(33 * cols, 3)};
  const LinearWeights linears[] = {{"q", view(ws[0], cols)}, {"k", view(ws[1], cols)}};
  for (const char* text : {"int4-g32-asym", "int3-g32-sym", "int2-g32-asym", "int8-g32-sym", "int4-channel-asym"})
    for (const bool duo : {false, true}) {
      SCOPED_TRACE(std::string(text) + (duo ? ", duo" : ""));
      const QuantSpec spec = QuantSpec::parse(text);
      const Scales found = search_scales(linears, stats_of(x, cols), {.spec = spec, .duo_scaling = duo});
      ASSERT_EQ(found.losses.size(), 20u);
      std::vector<double> losses;
      for (int i = 0; i < 20; ++i) {
        const std::size_t group = spec.granularity == Granularity::group ? 32 : cols;
        const auto s = scales_by_hand(i / 20.0, x, ws, cols, group, duo);
        double sum = 0, count = 0;
        for (const auto& w : ws) {
          std::vector<float> scaled(w.size());
          for (std::size_t j = 0; j < w.size(); ++j) scaled[j] = w[j] * static_cast<float>(s[j % cols]);
          const auto q = rounded(scaled, cols, spec);
          std::vector<double> back(w.size());
          for (std::size_t j = 0; j < w.size(); ++j) back[j] = static_cast<double>(q[j]) / s[j % cols];
          sum += squared_difference(outputs(x, back, cols), outputs(x, w, cols));
          count += static_cast<double>(tokens * w.size() / cols);
        }
        losses.push_back(sum / count);
        // A scale's last bit may move a weight across a tie; one such is far below 1 % of 5,000 weights' squares.
        EXPECT_NEAR(found.losses[static_cast<std::size_t>(i)], losses.back(), 0.01 * losses.back());
      }
      const auto chosen = static_cast<std::size_t>(std::lround(found.ratio * 20));
      EXPECT_EQ(found.loss, found.losses[chosen]);
      EXPECT_EQ(found.loss, *std::min_element(found.losses.begin(), found.losses.end()));
      EXPECT_LE(losses[chosen], *std::min_element(losses.begin(), losses.end()) * 1.02);
      const auto s = scales_by_hand(found.ratio, x, ws, cols, spec.granularity == Granularity::group ? 32 : cols, duo);
      for (std::size_t c = 0; c < cols; ++c) EXPECT_NEAR(static_cast<double>(found.scales[c]), s[c], 1e-5 * s[c]);
    }
}

TEST(AwqScales, HelpWhereAFewChannelsAreLarge) {
  const std::size_t cols = 128, tokens = 100;
  const auto x = correlated(tokens, cols, 4);
  const auto w = normal(64 * cols, 5);
  const LinearWeights linear[] = {{"up", view(w, cols)}};
  const Scales found = search_scales(linear, stats_of(x, cols), {.spec = QuantSpec::parse("int3-g128-asym")});
  EXPECT_GT(found.ratio, 0);
  EXPECT_LT(found.loss, 0.8 * found.losses[0]);
}

TEST(AwqScales, AskTheCallersOwnModule) {
  const std::size_t cols = 32;
  const auto x = correlated(50, cols, 6), w = normal(8 * cols, 7), v = normal(5 * cols, 8);
  const LinearWeights linears[] = {{"gate", view(w, cols)}, {"up", view(v, cols)}};
  int calls = 0;
  ScaleOptions o{.spec = QuantSpec::parse("int4-g32-sym")};
  o.loss = [&](std::span<const MatrixView<const float>> weights) {
    EXPECT_EQ(weights.size(), 2u);
    EXPECT_EQ(weights[0].rows, 8u);
    EXPECT_EQ(weights[1].rows, 5u);
    return std::abs(static_cast<double>(calls++) - 13);
  };
  const Scales found = search_scales(linears, stats_of(x, cols), o);
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(found.ratio, 13 / 20.0);
  EXPECT_EQ(found.loss, 0);
  o.loss = [](auto) { return 1.0; };
  EXPECT_EQ(search_scales(linears, stats_of(x, cols), o).ratio, 0);  // of equals, the first
}

TEST(AwqClip, ChoosesTheGridsArgminInEveryGroup) {
  const std::size_t cols = 80, rows = 37, tokens = 50;
  const auto x = correlated(tokens, cols, 9);
  auto w = normal(rows * cols, 10);
  for (std::size_t i = 0; i < w.size(); i += 53) w[i] *= 3;
  for (const char* text : {"int3-g32-asym", "int4-g32-sym", "int2-channel-sym"}) {
    const QuantSpec spec = QuantSpec::parse(text);
    const std::size_t size = spec.granularity == Granularity::group ? 32 : cols, groups = (cols + size - 1) / size;
    const auto limits = search_clip({"v", view(w, cols)}, stats_of(x, cols), {.spec = spec});
    ASSERT_EQ(limits.size(), rows * groups);
    bool any = false;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t first = g * size, n = std::min(size, cols - first);
        const std::vector<float> group(w.begin() + static_cast<std::ptrdiff_t>(r * cols + first),
                                       w.begin() + static_cast<std::ptrdiff_t>(r * cols + first + n));
        std::vector<float> part;
        for (std::size_t t = 0; t < tokens; ++t)
          part.insert(part.end(), x.begin() + static_cast<std::ptrdiff_t>(t * cols + first),
                      x.begin() + static_cast<std::ptrdiff_t>(t * cols + first + n));
        float largest = 0;
        for (float value : group) largest = std::max(largest, std::abs(value));
        QuantSpec whole = spec;
        whole.granularity = Granularity::channel;
        const auto error = [&](float limit) {
          auto clipped = group;
          for (float& value : clipped) value = std::clamp(value, -limit, limit);
          return squared_difference(outputs(part, rounded(clipped, n, whole), n), outputs(part, group, n));
        };
        double least = std::numeric_limits<double>::infinity();
        for (int i = 0; i < 10; ++i) least = std::min(least, error(largest * (1 - static_cast<float>(i) / 20)));
        EXPECT_LE(error(limits[r * groups + g]), least * (1 + 1e-4)) << text << " row " << r << ", group " << g;
        any = any || limits[r * groups + g] < largest;
      }
    EXPECT_TRUE(any);
    auto clipped = w;
    apply_clip({clipped.data(), rows, cols}, limits, size);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const float limit = limits[i / cols * groups + i % cols / size];
      EXPECT_EQ(clipped[i], std::clamp(w[i], -limit, limit));
    }
  }
}

void expect_same_outputs(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (double y : a) largest = std::max(largest, std::abs(y));
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5 * largest) << i;
}

std::vector<float> some_scales(std::size_t n, unsigned seed) {
  auto out = normal(n, seed);
  for (float& s : out) s = std::exp(s);
  return out;
}

TEST(AwqFolding, IntoANormChangesNothing) {
  const std::size_t cols = 40, tokens = 12, rows = 9;
  const auto x = normal(tokens * cols, 11), s = some_scales(cols, 12);
  for (const bool plus_one : {false, true}) {
    auto norm = normal(cols, 13), bias = normal(cols, 14), w = normal(rows * cols, 15);
    const auto run = [&] {
      auto y = x;
      for (std::size_t i = 0; i < y.size(); ++i)
        y[i] = y[i] * (norm[i % cols] + (plus_one ? 1.0f : 0.0f)) + bias[i % cols];
      return outputs(y, w, cols);
    };
    const auto before = run();
    fold_into_norm(norm, bias, s, plus_one);
    scale_columns({w.data(), rows, cols}, s);
    expect_same_outputs(before, run());
  }
}

TEST(AwqFolding, IntoTheLastRowsOfALinearChangesNothing) {
  // As in a fused query, key and value: only the value's rows feed the next linear.
  const std::size_t in = 24, hidden = 16, all = 40, tokens = 10, rows = 7;
  const auto x = normal(tokens * in, 16), s = some_scales(hidden, 17);
  auto previous = normal(all * in, 18), bias = normal(all, 19), w = normal(rows * hidden, 20);
  const auto untouched = previous;
  const auto run = [&] {
    const auto y = outputs(x, previous, in);
    std::vector<float> last;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t i = all - hidden; i < all; ++i) last.push_back(static_cast<float>(y[t * all + i]) + bias[i]);
    return outputs(last, w, hidden);
  };
  const auto before = run();
  fold_into_linear({previous.data(), all, in}, bias, s);
  scale_columns({w.data(), rows, hidden}, s);
  expect_same_outputs(before, run());
  EXPECT_TRUE(std::equal(untouched.begin(), untouched.begin() + (all - hidden) * in, previous.begin()));
}

TEST(AwqFolding, ThroughGroupedQueryAttentionChangesNothing) {
  // Attention mixes tokens but not channels: any mixing of v's outputs, repeated for the heads that share them.
  const std::size_t heads = 6, kv_heads = 2, dim = 4, in = 20, tokens = 8, cols = heads * dim, rows = 5;
  const auto source = value_sources(heads, kv_heads, dim);
  ASSERT_EQ(source.size(), cols);
  EXPECT_EQ(source[0], 0u);
  EXPECT_EQ(source[2 * dim + 3], 3u);
  EXPECT_EQ(source[3 * dim], dim);
  const auto x = normal(tokens * in, 21);
  auto v = normal(kv_heads * dim * in, 22), o = normal(rows * cols, 23);
  const auto inputs_of_o = [&] {
    const auto y = outputs(x, v, in);
    std::vector<float> out;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t c = 0; c < cols; ++c) {
        double mixed = 0;  // the mean of this token and those before
        for (std::size_t u = 0; u <= t; ++u) mixed += y[u * kv_heads * dim + source[c]] / static_cast<double>(t + 1);
        out.push_back(static_cast<float>(mixed));
      }
    return out;
  };
  const auto before = outputs(inputs_of_o(), o, cols);
  const LinearWeights linear[] = {{"o_proj", view(o, cols)}};
  const Scales found =
      search_scales(linear, stats_of(inputs_of_o(), cols),
                    {.spec = QuantSpec::parse("int2-g8-asym"), .source = source, .sources = kv_heads * dim});
  for (std::size_t c = 0; c < cols; ++c) EXPECT_EQ(found.scales[c], found.source_scales[source[c]]);
  fold_into_linear({v.data(), kv_heads * dim, in}, {}, found.source_scales);
  scale_columns({o.data(), rows, cols}, found.scales);
  expect_same_outputs(before, outputs(inputs_of_o(), o, cols));
}

TEST(AwqStats, SampleEvenlyInBoundedMemory) {
  const std::size_t cols = 3;
  ActivationStats stats(cols, "x", 16);
  std::vector<double> sums(cols);
  for (int batch = 0; batch < 50; ++batch) {
    std::vector<float> x;
    for (int t = 0; t < 7; ++t)
      for (std::size_t c = 0; c < cols; ++c) x.push_back(static_cast<float>(batch * 7 + t) * (c == 1 ? -1.0f : 1.0f));
    for (std::size_t i = 0; i < x.size(); ++i) sums[i % cols] += static_cast<double>(std::abs(x[i]));
    stats.add(view(x, cols));
    const auto sample = stats.sample();
    ASSERT_LE(sample.rows, 16u);
    ASSERT_GE(sample.rows, std::min<std::size_t>(7, stats.tokens()));
    const float apart = sample.rows > 1 ? sample(1, 0) : 0;
    for (std::size_t t = 0; t < sample.rows; ++t) ASSERT_EQ(sample(t, 0), static_cast<float>(t) * apart);
  }
  EXPECT_EQ(stats.tokens(), 350u);
  for (std::size_t c = 0; c < cols; ++c) EXPECT_FLOAT_EQ(stats.mean_magnitudes()[c], static_cast<float>(sums[c] / 350));
  const float halves[] = {2, 2, 2};
  const float second = stats.sample()(1, 0);
  stats.divide(halves);
  EXPECT_EQ(stats.sample()(1, 0), second / 2);
  EXPECT_FLOAT_EQ(stats.mean_magnitudes()[0], static_cast<float>(sums[0] / 700));
}

TEST(Awq, RefusesBadInputByName) {
  const std::size_t cols = 8;
  auto x = normal(5 * cols, 24);
  const auto w = normal(2 * cols, 25);
  const ActivationStats stats = stats_of(x, cols);
  const LinearWeights linear[] = {{"up_proj", view(w, cols)}};
  x[3 * cols + 2] = std::nanf("");
  expect_error(ErrorCode::non_finite, "'mlp': token 3, channel 2 is nan", [&] {
    ActivationStats s(cols, "mlp");
    s.add(view(x, cols));
  });
  expect_error(ErrorCode::invalid_argument, "no tokens", [&] { search_scales(linear, ActivationStats(cols), {}); });
  expect_error(ErrorCode::invalid_argument, "no linears", [&] { search_scales({}, stats, {}); });
  expect_error(ErrorCode::invalid_argument, "nf4",
               [&] { search_scales(linear, stats, {.spec = QuantSpec::parse("nf4")}); });
  const std::size_t source[] = {0, 1, 2, 3, 4, 5, 6, 8};
  expect_error(ErrorCode::invalid_argument, "channel 7 is 8",
               [&] { search_scales(linear, stats, {.source = source, .sources = 8}); });
  const LinearWeights narrow[] = {{"up_proj", view(w, 4)}};
  expect_error(ErrorCode::shape_mismatch, "'up_proj' has 4 columns", [&] { search_scales(narrow, stats, {}); });
  expect_error(ErrorCode::shape_mismatch, "'up_proj' has 4 columns", [&] { search_clip(narrow[0], stats, {}); });
  expect_error(ErrorCode::invalid_argument, "30 steps", [&] { search_clip(linear[0], stats, {.steps = 30}); });
  auto weights = w;
  const std::vector<float> few(3, 1.0f), zeros(cols, 0.0f);
  const MatrixView<float> m(weights.data(), 2, cols);
  expect_error(ErrorCode::shape_mismatch, "3 values", [&] { scale_columns(m, few); });
  expect_error(ErrorCode::invalid_argument, "scale 0 is", [&] { scale_columns(m, zeros); });
  expect_error(ErrorCode::shape_mismatch, "3 limits", [&] { apply_clip(m, few, 4); });
  expect_error(ErrorCode::shape_mismatch, "rows of the operation before", [&] { fold_into_linear(m, {}, few); });
  expect_error(ErrorCode::invalid_argument, "5 heads", [] { value_sources(5, 2, 4); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::awq
