// Each architecture through all that rewrites a model, by the small models of tests/golden: what comes out is still
// that model. (Reading them, and GGUF, are model_test's and the model room's.)
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "nibble/engine/calibrate.h"
#include "nibble/engine/model.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

namespace fs = std::filesystem;
using namespace model;

std::vector<std::int32_t> ids(std::size_t count) {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<std::int32_t>((i * i * 7 + i) % 96));
  return out;
}

std::vector<float> logits(const fs::path& path) {
  const Model model = Model::load(path);
  const auto text = ids(24);
  KvCache cache(model.config(), text.size());
  return model.forward(text, cache);
}

/// ‖a − b‖²/‖b‖²
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return error / size;
}

class Architectures : public testing::TestWithParam<const char*> {
 protected:
  Architectures() : model_(fs::path(NIBBLE_TEST_DATA "/golden") / GetParam()) {}
  CalibrateReport calibrate(const char* method, const fs::path& to) const {
    CalibrateOptions o;
    o.method = CalibratedMethod::parse(method);
    o.samples = 6;
    o.sample_tokens = 32;
    return quantize_calibrated(model_, to, ids(512), o);
  }
  fs::path model_;
  testing_support::TemporaryFolder folder_;
};

// Eight bits in groups of 16 lose less than a thousandth of the logits' square; a scale that was folded into the wrong
// place, or a layer that saw another's inputs, changes most of it.
TEST_P(Architectures, CalibratedModelsAreTheSameModels) {
  const auto before = logits(model_);
  const Config config = Config::load(model_);
  for (const char* method : {"gptq-8-g16", "awq-8-g16"}) {
    const auto report = calibrate(method, folder_ / method);
    EXPECT_EQ(report.layers.size(), config.layers * config.architecture().linears().size());
    EXPECT_LT(difference(logits(folder_ / method), before), 1e-3) << method;
  }
}

TEST_P(Architectures, AwqScalesEveryInput) {
  const auto report = calibrate("awq-3-g16", folder_ / "awq");
  const Architecture& architecture = Config::load(model_).architecture();
  for (std::size_t i = 0; i < kInputs; ++i) {
    double most = 0;
    for (const Module& m : architecture.linears(static_cast<Input>(i)))
      for (const LayerReport& r : report.layers)
        if (r.layer.ends_with(m.name)) most = std::max(most, r.ratio);
    EXPECT_GT(most, 0) << "the input of " << architecture.linears(static_cast<Input>(i)).front().name;
  }
  // Of the rest nothing changes but what the scales were folded into.
  const Checkpoint in = Checkpoint::open(model_), out = Checkpoint::open(folder_ / "awq");
  for (const Module& m : architecture.block) {
    if (m.is_linear()) continue;
    const std::string norm = architecture.name(0, m) + ".weight";
    const bool folded = m.role == Role::attention_norm || m.role == Role::ffn_norm;
    EXPECT_EQ(in.read_f32(norm) != out.read_f32(norm), folded) << norm;
  }
  for (const char* end : {"model.embed_tokens.weight", "model.norm.weight"})
    EXPECT_EQ(in.read_f32(end), out.read_f32(end)) << end;
}

TEST_P(Architectures, ConvertedModelsHaveTheSameLogits) {
  QuantizeModelOptions o;
  o.spec = QuantSpec::parse("int4-g16-sym");
  (void)quantize_model(model_, folder_ / "nibble", o);
  const auto before = logits(folder_ / "nibble");
  fs::path from = folder_ / "nibble";
  for (const auto layout : {CheckpointLayout::gptq_v2, CheckpointLayout::compressed_tensors, CheckpointLayout::gptq}) {
    const fs::path to = folder_ / std::string(name_of(layout));
    ConvertModelOptions options;
    options.to = layout;
    EXPECT_TRUE(convert_model(from, to, options).losses.empty());
    EXPECT_EQ(logits(to), before) << name_of(layout);
    from = to;
  }
}

// AWQ takes a layer of several in one as AutoAWQ does: it is clipped, queries, keys and all, and the scales of what
// comes behind it fold into the rows that are multiplied there, its last ones.
TEST(LayersOfSeveralInOne, AreClippedAndFoldedIntoByTheirLastRows) {
  const auto model = calibrated_model(NIBBLE_TEST_DATA "/golden/phi3");
  const auto block = model->block(0);
  const auto groups = block->groups();
  ASSERT_EQ(groups[0].layers.size(), 1u);
  EXPECT_EQ(groups[0].layers[0].rows, 64u);  // two heads of 16 values, and a key and a value for both
  EXPECT_TRUE(groups[0].layers[0].clips);
  const ScaleSource &values = groups[1].source, &up = groups[3].source;
  EXPECT_EQ(values.linear, (LayerId{0, 0}));
  EXPECT_EQ(values.last_rows, 16u);
  ASSERT_EQ(values.rows.size(), 32u);
  EXPECT_EQ(values.rows[16], 0u);
  EXPECT_EQ(up.linear, (LayerId{2, 0}));
  EXPECT_TRUE(up.rows.empty());
}

INSTANTIATE_TEST_SUITE_P(Golden, Architectures,
                         testing::Values("gqa_tied", "bias", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "glm4"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
