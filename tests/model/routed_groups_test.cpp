// Groups of layers that see a part of the tokens, as experts do, of an engine that is not the library's.
#include <gtest/gtest.h>

#include <cmath>

#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"
#include "nibble/solver/gptq.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

using namespace testing_support;

constexpr std::size_t kWidth = 32, kRows = 16, kSequences = 16, kTokens = 24;

/// Two experts of one layer: the second sees the first token of so many of the sequences, the other all the rest.
struct PairBlock final : CalibratedBlock {
  PairBlock(std::size_t rare, std::size_t& passes) : seen(rare), runs(passes) {
    for (std::size_t e = 0; e < 2; ++e) {
      LayerGroup& group = all.emplace_back();
      group.layers = {{.name = "expert." + std::to_string(e), .rows = kRows, .cols = kWidth}};
      group.source.norm = {"norm.weight", normal(kWidth, 3)};
      group.routed = true;
      group.beside_previous = e > 0;
    }
    all[0].scaled_along = {{"router.weight", normal(2 * kWidth, 4)}};
  }
  std::span<const LayerGroup> groups() const override { return all; }
  FloatMatrix weights(LayerId id) override { return MatrixView<const float>(values[id.group].data(), kRows, kWidth); }
  void replace(LayerId, QuantizedMatrix) override {}
  void run(MatrixView<float> states, Listener listen) override {
    const std::size_t rare = runs++ % kSequences < seen ? 1 : 0;
    if (!listen(0, states.row_range(rare, states.rows - rare))) return;
    (void)listen(1, states.row_range(0, rare));
  }
  std::size_t seen, &runs;
  std::vector<LayerGroup> all;
  std::vector<float> values[2] = {normal(kRows * kWidth, 1), normal(kRows* kWidth, 2)};
};

struct PairModel final : CalibratedModel {
  explicit PairModel(std::size_t rare) : seen(rare) {}
  std::size_t blocks() const override { return 1; }
  std::size_t width() const override { return kWidth; }
  void embed(std::span<const std::int32_t> ids, MatrixView<float> states) override {
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const std::vector<float> row = normal(kWidth, static_cast<unsigned>(ids[t]));
      for (std::size_t c = 0; c < kWidth; ++c) states(t, c) = row[c] * (c % 5 == 0 ? 8.0f : 1.0f);
    }
  }
  std::unique_ptr<CalibratedBlock> block(std::size_t) override { return std::make_unique<PairBlock>(seen, runs); }
  std::size_t seen, runs = 0;
};

struct Keep final : CalibrationSink {
  void write(std::size_t, FinishedBlock block) override { finished = std::move(block); }
  FinishedBlock finished;
};

FinishedBlock calibrated(const std::string& method, PairModel& model) {
  std::vector<std::int32_t> ids(kSequences * kTokens);
  for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<std::int32_t>(t);
  CalibrateOptions o;
  o.method = CalibratedMethod::parse(method);
  o.samples = kSequences;
  o.sample_tokens = kTokens;
  Keep sink;
  (void)calibrate(model, ids, o, sink);
  return std::move(sink.finished);
}

TEST(RoutedGroups, AreRoundedToNearestBelowHalfAPercentOfTheTokens) {
  const std::string says[] = {"it saw no calibration tokens", "it saw 1 of 384 calibration tokens, less than 0.5 %",
                              ""};
  for (const char* method : {"gptq-4-g16", "awq-4-g16"})
    for (const std::size_t rare : {0u, 1u, 2u}) {
      PairModel model(rare);
      const FinishedBlock done = calibrated(method, model);
      ASSERT_EQ(done.layers.size(), 2u);
      EXPECT_EQ(done.layers[0].report.fallback, "") << method;
      EXPECT_EQ(done.layers[1].report.fallback,
                says[rare].empty() ? "" : "'expert.1.weight' was rounded to nearest: " + says[rare])
          << method;
      const double share = static_cast<double>(rare) / (kSequences * kTokens);
      EXPECT_NEAR(done.layers[0].report.coverage, 1 - share, 1e-12);
      EXPECT_NEAR(done.layers[1].report.coverage, share, 1e-12);
    }
}

// One pass for both, and one to the next block.
TEST(RoutedGroups, BesideEachOtherAreGatheredInOnePass) {
  PairModel model(2);
  (void)calibrated("gptq-4-g16", model);
  EXPECT_EQ(model.runs, 2 * kSequences);
}

// The norm and the router come back changed, once each, and so that their products are what they were.
TEST(RoutedGroups, OfOneNormAreScaledTogetherAndTheRouterAlong) {
  PairModel model(2);
  const FinishedBlock done = calibrated("awq-4-g16", model);
  ASSERT_GT(done.layers[0].report.ratio, 0);
  EXPECT_EQ(done.layers[0].report.ratio, done.layers[1].report.ratio);
  ASSERT_EQ(done.vectors.size(), 2u);
  const std::vector<float> norm = normal(kWidth, 3), router = normal(2 * kWidth, 4);
  for (std::size_t i = 0; i < router.size(); ++i) {
    const std::size_t c = i % kWidth;
    const float before = norm[c] * router[i];
    EXPECT_NEAR(done.vectors.at("norm.weight")[c] * done.vectors.at("router.weight")[i], before,
                1e-5f * std::abs(before));
  }
}

/// states += weights·states; or, each token by the expert that the sign of its first channel says, the same.
struct StepBlock final : CalibratedBlock {
  explicit StepBlock(bool routes) : routed(routes) {
    for (std::size_t e = 0; e < (routed ? 2 : 1); ++e) {
      LayerGroup& group = all.emplace_back();
      group.layers = {{.name = (routed ? "expert." : "first.") + std::to_string(e), .rows = kWidth, .cols = kWidth}};
      group.routed = routed;
      group.beside_previous = e > 0;
    }
  }
  std::span<const LayerGroup> groups() const override { return all; }
  FloatMatrix weights(LayerId id) override { return MatrixView<const float>(own[id.group].data(), kWidth, kWidth); }
  void replace(LayerId id, QuantizedMatrix q) override {
    for (std::size_t i = 0; i < kWidth * kWidth; ++i) values[id.group][i] = q.value(i / kWidth, i % kWidth);
  }
  void run(MatrixView<float> states, Listener listen) override {
    std::vector<float> rows[2];
    for (auto& t : tokens) t.clear();
    for (std::size_t t = 0; t < states.rows; ++t) {
      const std::size_t e = routed && states(t, 0) < 0 ? 1 : 0;
      tokens[e].push_back(t);
      rows[e].insert(rows[e].end(), states.row(t).begin(), states.row(t).end());
    }
    for (std::size_t e = 0; e < all.size(); ++e)
      if (!listen(e, {rows[e].data(), tokens[e].size(), kWidth})) return;
    for (std::size_t e = 0; e < all.size(); ++e)
      for (std::size_t i = 0; i < tokens[e].size(); ++i)
        for (std::size_t r = 0; r < kWidth; ++r)
          for (std::size_t c = 0; c < kWidth; ++c)
            states(tokens[e][i], r) += values[e][r * kWidth + c] * rows[e][i * kWidth + c];
  }
  std::span<const std::size_t> tokens_of(std::size_t group) const override { return tokens[group]; }

  bool routed;
  std::vector<LayerGroup> all;
  const std::vector<float> own[2] = {normal(kWidth * kWidth, 5, 0.3f), normal(kWidth* kWidth, 6, 0.3f)};
  std::vector<float> values[2] = {own[0], own[1]};
  std::vector<std::size_t> tokens[2];
};

struct StepModel final : CalibratedModel {
  std::size_t blocks() const override { return 2; }
  std::size_t width() const override { return kWidth; }
  void embed(std::span<const std::int32_t> ids, MatrixView<float> states) override { PairModel(0).embed(ids, states); }
  std::unique_ptr<CalibratedBlock> block(std::size_t index) override { return std::make_unique<StepBlock>(index == 1); }
};

struct KeepAll final : CalibrationSink {
  void write(std::size_t, FinishedBlock block) override { finished.push_back(std::move(block)); }
  std::vector<FinishedBlock> finished;
};

// Against statistics that are paired here, token by token, from what the two models' blocks give.
TEST(RoutedGroups, ArePairedWithTheirTokensInFullPrecision) {
  std::vector<std::int32_t> ids(kSequences * kTokens);
  for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<std::int32_t>(t);
  CalibrateOptions o;
  o.method = CalibratedMethod::parse("gptq-2-g16-qronos");
  o.samples = kSequences;
  o.sample_tokens = kTokens;
  StepModel model;
  KeepAll sink;
  (void)calibrate(model, ids, o, sink);
  ASSERT_EQ(sink.finished.size(), 2u);

  StepBlock first(false), quantized(false), experts(true);
  quantized.replace({0, 0}, sink.finished[0].layers.at(0).matrix);
  const auto all = [](std::size_t, MatrixView<const float>) { return true; };
  Hessian statistics[2] = {Hessian(kWidth, "0", true), Hessian(kWidth, "1", true)};
  std::size_t elsewhere = 0;
  for (std::size_t s = 0; s < kSequences; ++s) {
    std::vector<float> full(kTokens * kWidth), x;
    const MatrixView<float> full_states(full.data(), kTokens, kWidth);
    model.embed(std::span(ids).subspan(s * kTokens, kTokens), full_states);
    x = full;
    const MatrixView<float> states(x.data(), kTokens, kWidth);
    first.run(full_states, all);
    quantized.run(states, all);
    std::vector<float> rows[2], pairs[2];
    for (std::size_t t = 0; t < kTokens; ++t) {
      const std::size_t e = states(t, 0) < 0 ? 1 : 0;
      const bool same = (full_states(t, 0) < 0) == (states(t, 0) < 0);
      elsewhere += same ? 0 : 1;
      const auto from = same ? full_states.row(t) : states.row(t);
      rows[e].insert(rows[e].end(), states.row(t).begin(), states.row(t).end());
      pairs[e].insert(pairs[e].end(), from.begin(), from.end());
    }
    for (std::size_t e = 0; e < 2; ++e)
      statistics[e].add(MatrixView<const float>(rows[e].data(), rows[e].size() / kWidth, kWidth),
                        MatrixView<const float>(pairs[e].data(), pairs[e].size() / kWidth, kWidth));
  }
  EXPECT_GT(elsewhere, 5u);
  for (std::size_t e = 0; e < 2; ++e) {
    const auto expected = gptq::solve(
        experts.weights({e, 0}), statistics[e],
        {.bits = 2, .group_size = 16, .symmetric = false, .scale_type = o.method.spec.scale_type, .qronos = true});
    const QuantizedMatrix& q = sink.finished[1].layers.at(e).matrix;
    for (std::size_t r = 0; r < kWidth; ++r)
      for (std::size_t c = 0; c < kWidth; ++c) ASSERT_EQ(q.value(r, c), expected.matrix.value(r, c)) << r << ", " << c;
  }
}

TEST(RoutedGroups, WithoutTokensCannotBePaired) {
  PairModel model(2);
  expect_error(ErrorCode::unsupported, "tokens_of()", [&] { (void)calibrated("gptq-4-g16-qronos", model); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
