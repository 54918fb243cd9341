// AWQ's scales change no output before quantization.
#include "model/awq_fold.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

#include "nibble/engine/calibrate.h"
#include "nibble/engine/model.h"
#include "nibble/solver/awq.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;

/// Between 1/4 and 4; `exact`: powers of two.
std::vector<float> random_scales(std::size_t n, std::mt19937& random, bool exact) {
  std::uniform_real_distribution<float> exponent(-2, 2);
  std::vector<float> out(n);
  for (float& s : out) s = std::exp2(exact ? std::round(exponent(random)) : exponent(random));
  return out;
}

/// The model at `from` with every block folded by random scales, all tensors F32.
void write_folded(const fs::path& from, const fs::path& to, bool exact) {
  const Config c = Config::load(from);
  const Checkpoint in = Checkpoint::open(from);
  std::map<std::string, std::vector<float>> values;
  for (const TensorInfo& t : in.tensors()) values[t.name] = in.read_f32(t.name);
  std::mt19937 random(7);
  const auto sources = awq::value_sources(c.heads, c.kv_heads, c.head_dim);
  const auto model = engine::calibrated_model(from);
  for (std::size_t i = 0; i < c.layers; ++i) {
    DenseBlock block = DenseBlock::load(*model->block(i));
    const auto scales = [&](std::size_t n) { return random_scales(n, random, exact); };
    BlockScales s{{{scales(c.hidden), {}}, {{}, scales(c.kv_heads * c.head_dim)}, {scales(c.hidden), {}}}};
    const std::size_t feed_forwards = std::max<std::size_t>(1, c.experts);
    s.resize(2 + feed_forwards);  // experts share those of the first
    for (std::size_t e = 0; e < feed_forwards; ++e) s.push_back({scales(block.groups.back().layers.front().cols), {}});
    for (const std::size_t source : sources) s[1].scales.push_back(s[1].source[source]);
    for (LayerGroup& group : block.groups) group.source.norm.type = DType::f32;
    fold(block, s);
    std::set<std::string> norms;
    for (std::size_t g = 0; g < block.groups.size(); ++g) {
      if (const StoredVector& norm = block.groups[g].source.norm; !norm.values.empty()) {
        if (norms.insert(norm.name).second) EXPECT_NE(values[norm.name], norm.values) << norm.name;
        values[norm.name] = norm.values;
      }
      for (const StoredVector& router : block.groups[g].scaled_along) {
        EXPECT_NE(values[router.name], router.values) << router.name;
        values[router.name] = router.values;
      }
      for (std::size_t l = 0; l < block.linears[g].size(); ++l) {
        const CalibratedLayer& layer = block.layer({g, l});
        const std::vector<float>& folded = block.linears[g][l].weights;
        EXPECT_NE(values[layer.name + ".weight"], folded) << layer.name;
        values[layer.name + ".weight"] = folded;
        if (!layer.bias.values.empty()) values[layer.bias.name] = layer.bias.values;
      }
    }
    EXPECT_EQ(norms.size(), 2u);
  }
  fs::create_directories(to);
  fs::copy_file(from / "config.json", to / "config.json");
  std::vector<TensorInfo> tensors;
  for (const TensorInfo& t : in.tensors()) tensors.push_back({t.name, DType::f32, t.shape, 0, 0});
  SafetensorsWriter writer(to / "model.safetensors", tensors, {});
  for (const auto& [name, v] : values) writer.write(name, std::as_bytes(std::span(v)));
  writer.finish();
}

class AwqFold : public testing::TestWithParam<const char*> {
 protected:
  /// Logits of the model itself, and folded.
  std::pair<std::vector<float>, std::vector<float>> logits(bool exact) {
    const testing_support::TemporaryFolder folder;
    write_folded(GetParam(), folder / "folded", exact);
    return {logits_of(GetParam()), logits_of(folder / "folded")};
  }

 private:
  static std::vector<float> logits_of(const fs::path& path) {
    const engine::Model model = engine::Model::load(path);
    std::vector<std::int32_t> ids;
    for (std::size_t t = 0; t < 64; ++t) ids.push_back(static_cast<std::int32_t>(t * 37 % model.config().vocab));
    engine::KvCache cache(model.config(), ids.size());
    return model.forward(ids, cache);
  }
};

// Powers of two scale without rounding: every product of the forward pass is the same, bit for bit.
TEST_P(AwqFold, ByPowersOfTwoNothingChanges) {
  const auto [before, after] = logits(true);
  EXPECT_EQ(before, after);
}

// Other scales round each weight once more, to 2⁻²⁴ of it, and what a logit's terms lose is of their size, not its own.
TEST_P(AwqFold, TheFoldedModelComputesTheSame) {
  const auto [before, after] = logits(false);
  float most = 0;
  for (const float x : before) most = std::max(most, std::abs(x));
  for (std::size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(before[i], after[i], 1e-5f * most) << i;
}

INSTANTIATE_TEST_SUITE_P(Models, AwqFold,
                         testing::Values(NIBBLE_TEST_DATA "/golden/gqa_tied", NIBBLE_TEST_DATA "/golden/bias",
                                         NIBBLE_TEST_DATA "/golden/mistral", NIBBLE_TEST_DATA "/golden/qwen3",
                                         NIBBLE_TEST_DATA "/golden/gemma2", NIBBLE_TEST_DATA "/golden/gemma3",
                                         NIBBLE_TEST_DATA "/golden/phi3", NIBBLE_TEST_DATA "/golden/glm4",
                                         NIBBLE_TEST_DATA "/golden/mixtral", NIBBLE_TEST_DATA "/golden/qwen3_moe",
                                         NIBBLE_EXAMPLE_DATA "/austen-5m"));

// A norm is stored in 16 bits: the scales become what it then divides by, so that nothing of the rounding is left.
TEST(AwqFoldedNorm, RoundingItIsMadeUpFor) {
  DenseBlock block = DenseBlock::load(*engine::calibrated_model(NIBBLE_EXAMPLE_DATA "/austen-5m")->block(0));
  const StoredVector& stored = block.groups.front().source.norm;
  ASSERT_EQ(stored.name, "model.layers.0.input_layernorm.weight");
  ASSERT_EQ(stored.type, DType::bf16);
  const std::vector<float>& norm = stored.values;
  DenseBlock original = block;
  std::mt19937 random(3);
  BlockScales s(block.groups.size());
  std::vector<float>& scales = s.front().scales;
  scales = random_scales(norm.size(), random, false);
  const auto asked = scales;
  fold(block, s);
  EXPECT_NE(scales, asked);
  for (std::size_t c = 0; c < asked.size(); ++c) {
    EXPECT_EQ(static_cast<float>(bf16(norm[c])), norm[c]);
    EXPECT_NEAR(scales[c] / asked[c], 1, 1.0 / 256);
    const float product = norm[c] * block[{0, 0}].weights[c];
    const float before = original.groups.front().source.norm.values[c] * original[{0, 0}].weights[c];
    EXPECT_NEAR(product, before, 4e-7f * std::abs(before));
  }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
