// Groups of layers that see a part of the tokens, as experts do, of an engine that is not the library's.
#include <gtest/gtest.h>

#include <cmath>

#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"
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

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
