// AWQ's scales change no output before quantization.
#include "model/awq_fold.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

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
  const Architecture& architecture = c.architecture();
  for (std::size_t i = 0; i < c.layers; ++i) {
    DenseBlock block = DenseBlock::load(in, architecture, i);
    const auto scales = [&](std::size_t n) { return random_scales(n, random, exact); };
    BlockScales s{{{scales(c.hidden), {}},
                   {{}, scales(c.kv_heads * c.head_dim)},
                   {scales(c.hidden), {}},
                   {scales(c.intermediate), {}}}};
    for (const std::size_t source : sources) s[1].scales.push_back(s[1].source[source]);
    for (auto& [role, norm] : block.norms) norm.type = DType::f32;
    fold(architecture, block, s);
    EXPECT_EQ(block.norms.size(), 2u);
    for (const auto& [role, norm] : block.norms) {
      EXPECT_NE(values[norm.name + ".weight"], norm.weight) << norm.name;
      values[norm.name + ".weight"] = norm.weight;
    }
    for (const auto& l : block.linears) {
      EXPECT_NE(values[l.name + ".weight"], l.weights) << l.name;
      values[l.name + ".weight"] = l.weights;
      if (!l.bias.empty()) values[l.name + ".bias"] = l.bias;
    }
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
                                         NIBBLE_EXAMPLE_DATA "/austen-5m"));

// A norm is stored in 16 bits: the scales become what it then divides by, so that nothing of the rounding is left.
TEST(AwqFoldedNorm, RoundingItIsMadeUpFor) {
  const Checkpoint in = Checkpoint::open(NIBBLE_EXAMPLE_DATA "/austen-5m");
  const Architecture& architecture = find_architecture("llama");
  DenseBlock block = DenseBlock::load(in, architecture, 0);
  const std::vector<float>& norm = block.norms.at(Role::attention_norm).weight;
  ASSERT_EQ(block.norms.at(Role::attention_norm).type, DType::bf16);
  DenseBlock original = block;
  std::mt19937 random(3);
  BlockScales s;
  std::vector<float>& scales = s[static_cast<std::size_t>(Input::attention)].scales;
  scales = random_scales(norm.size(), random, false);
  const auto asked = scales;
  fold(architecture, block, s);
  EXPECT_NE(scales, asked);
  for (std::size_t c = 0; c < asked.size(); ++c) {
    EXPECT_EQ(static_cast<float>(bf16(norm[c])), norm[c]);
    EXPECT_NEAR(scales[c] / asked[c], 1, 1.0 / 256);
    const float product = norm[c] * block[Role::query].weights[c];
    const float before = original.norms.at(Role::attention_norm).weight[c] * original[Role::query].weights[c];
    EXPECT_NEAR(product, before, 4e-7f * std::abs(before));
  }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
