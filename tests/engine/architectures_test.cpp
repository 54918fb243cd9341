// Each architecture through all that rewrites a model, by the small models of tests/golden: what comes out is still
// that model. (Reading them, and GGUF, are model_test's and the model room's.)
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/core/float_types.h"
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
    EXPECT_EQ(report.layers.size(), config.layers * config.architecture().linear_names(0, config.experts).size());
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
        if (r.layer.ends_with(m.name.substr(m.name.find('*') + 1))) most = std::max(most, r.ratio);
    EXPECT_GT(most, 0) << "the input of " << architecture.linears(static_cast<Input>(i)).front().name;
  }
  // Of the rest nothing changes but what the scales were folded into.
  const Checkpoint in = Checkpoint::open(model_), out = Checkpoint::open(folder_ / "awq");
  for (const Module& m : architecture.block) {
    if (m.is_linear()) continue;
    const std::string norm = std::string(m.name) + ".weight";
    const bool folded = m.role == Role::attention_norm || m.role == Role::ffn_norm || m.role == Role::router;
    bool changes = false;  // in some block: a search may find that nothing is better
    for (const TensorInfo& t : in.tensors())
      if (t.name.ends_with(norm)) changes = changes || in.read_f32(t.name) != out.read_f32(t.name);
    EXPECT_EQ(changes, folded) << norm;
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

/// The model with another router in each block: experts 0 and 1 get opposite logits, and so do 2 and 3, so that one of
/// each pair is given no less than experts 4 and 5, which get 0.
void write_with_idle_experts(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  nlohmann::json config = nlohmann::json::parse(std::ifstream(from / "config.json"));
  config["num_experts_per_tok"] = 2;
  std::ofstream(to / "config.json") << config;
  const Checkpoint in = Checkpoint::open(from);
  SafetensorsWriter writer(to / "model.safetensors", in.tensors(), {});
  for (const TensorInfo& t : in.tensors()) {
    const Buffer bytes = in.data(t.name);
    std::vector<bf16> values(bytes.as<bf16>(), bytes.as<bf16>() + t.bytes / sizeof(bf16));
    if (t.name.ends_with("mlp.gate.weight"))
      for (std::size_t c = 0; c < t.shape[1]; ++c)
        for (std::size_t e = 0; e < 6; ++e) {
          const auto of_pair = static_cast<float>(values[e / 2 * 2 * t.shape[1] + c]);
          values[e * t.shape[1] + c] = bf16(e >= 4 ? 0 : e % 2 == 0 ? of_pair : -of_pair);
        }
    writer.write(t.name, std::as_bytes(std::span(values)));
  }
  writer.finish();
}

// What is known of an expert's inputs is what the tokens that go to it show.
TEST(Experts, WithoutTokensAreRoundedToNearestAndNamed) {
  const testing_support::TemporaryFolder folder;
  write_with_idle_experts(NIBBLE_TEST_DATA "/golden/qwen3_moe", folder / "model");
  const auto before = logits(folder / "model");
  for (const char* method : {"gptq-8-g16", "awq-8-g16"}) {
    CalibrateOptions o;
    o.method = CalibratedMethod::parse(method);
    o.samples = 6;
    o.sample_tokens = 32;
    const auto report = quantize_calibrated(folder / "model", folder / method, ids(512), o);
    ASSERT_EQ(report.layers.size(), 2u * (4 + 18));
    double covered = 0;
    for (const LayerReport& r : report.layers) {
      const bool idle =
          r.layer.find("experts.4.") != std::string::npos || r.layer.find("experts.5.") != std::string::npos;
      const std::string says = "'" + r.layer + ".weight' was rounded to nearest: it saw no calibration tokens";
      EXPECT_EQ(r.fallback, idle ? says : "") << r.layer;
      const bool of_experts = r.layer.find(".experts.") != std::string::npos;
      if (!of_experts) EXPECT_EQ(r.coverage, 1) << r.layer;
      if (idle) EXPECT_EQ(r.coverage, 0) << r.layer;
      if (of_experts && !idle) EXPECT_TRUE(r.coverage > 0 && r.coverage < 1 && r.loss > 0) << r.layer;
      if (r.layer.ends_with("down_proj")) covered += r.coverage;
    }
    EXPECT_NEAR(covered, 2 * 2, 1e-12) << "each token goes to two experts of each block";
    EXPECT_LT(difference(logits(folder / method), before), 1e-3) << method;
  }
}

TEST(Experts, ARuleMayLeaveAnExpertOut) {
  const testing_support::TemporaryFolder folder;
  const fs::path model = NIBBLE_TEST_DATA "/golden/mixtral";
  for (const char* method : {"gptq-4-g16", "awq-4-g16"}) {
    CalibrateOptions o;
    o.method = CalibratedMethod::parse(method);
    o.samples = 6;
    o.sample_tokens = 32;
    o.skip = {"*experts.2.w1"};
    const auto report = quantize_calibrated(model, folder / method, ids(512), o);
    EXPECT_EQ(report.layers.size(), 2u * (4 + 11));
    const Checkpoint in = Checkpoint::open(model), out = Checkpoint::open(folder / method);
    const std::string mlp = "model.layers.0.block_sparse_moe.";
    EXPECT_EQ(in.read_f32(mlp + "experts.2.w1.weight"), out.read_f32(mlp + "experts.2.w1.weight"));
    EXPECT_EQ(in.read_f32(mlp + "gate.weight"), out.read_f32(mlp + "gate.weight"));  // one layer is not scaled, so none
    (void)logits(folder / method);
  }
}

// The passes of GPTQ: the experts' groups are gathered side by side, whatever the threads.
TEST(Experts, CalibrationDoesNotDependOnTheThreads) {
  const testing_support::TemporaryFolder folder;
  const fs::path model = NIBBLE_TEST_DATA "/golden/mixtral";
  for (const char* method : {"gptq-4-g16", "awq-4-g16"}) {
    CalibrateOptions o;
    o.method = CalibratedMethod::parse(method);
    o.samples = 4;
    o.sample_tokens = 32;
    (void)quantize_calibrated(model, folder / "many", ids(256), o);
    o.executor = &serial_executor();
    (void)quantize_calibrated(model, folder / "one", ids(256), o);
    const Checkpoint a = Checkpoint::open(folder / "many"), b = Checkpoint::open(folder / "one");
    for (const TensorInfo& t : a.tensors()) {
      const Buffer x = a.data(t.name), y = b.data(t.name);
      EXPECT_TRUE(std::equal(x.data(), x.data() + x.size(), y.data(), y.data() + y.size())) << t.name;
    }
    fs::remove_all(folder / "many");
    fs::remove_all(folder / "one");
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
                         testing::Values("gqa_tied", "bias", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "glm4",
                                         "mixtral", "qwen3_moe"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
