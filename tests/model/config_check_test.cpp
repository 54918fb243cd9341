// A configuration against the tensors that there are: what does not fit is said before anything is allocated or
// written.
#include "src/model/config_check.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "nibble/engine/model.h"
#include "nibble/model/convert.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

const fs::path kGolden = NIBBLE_TEST_DATA "/golden";

/// A golden model with other tensors and another configuration.
class ConfigCheck : public testing::Test {
 protected:
  fs::path model(const std::string& base, const Json& change) {
    const fs::path out = folder_ / std::to_string(made_++);
    fs::create_directories(out);
    Json config = Json::parse(std::ifstream(kGolden / base / "config.json"));
    if (change.is_object()) config.update(change);
    std::ofstream(out / "config.json") << config;
    std::map<std::string, std::vector<float>> values;
    const Checkpoint in = Checkpoint::open(kGolden / base);
    std::vector<TensorInfo> infos = in.tensors();
    std::erase_if(infos, [&](const TensorInfo& t) { return removed_.contains(t.name); });
    for (const TensorInfo& t : infos) values[t.name] = in.read_f32(t.name);
    for (const auto& [name, size] : added_) {
      infos.push_back({name, DType::f32, size, 0, 0});
      const std::size_t count = std::accumulate(size.begin(), size.end(), std::size_t{1}, std::multiplies<>());
      values[name] = std::vector<float>(count, 0.25f);
    }
    SafetensorsWriter writer(out / "model.safetensors", infos, {});
    for (const TensorInfo& t : infos) writer.write(t.name, std::as_bytes(std::span(values[t.name])));
    writer.finish();
    return out;
  }
  /// Every way into a model says so, and none leaves anything behind.
  void refuse(const fs::path& model, ErrorCode code, const std::string& says) {
    const fs::path to = folder_ / "out";
    expect_error(code, says, [&] { (void)engine::Model::load(model); });
    QuantizeModelOptions options;
    options.spec = QuantSpec::parse("int8");
    expect_error(code, says, [&] { (void)quantize_model(model, to, options); });
    expect_error(code, says, [&] { (void)export_gguf(model, to); });
    EXPECT_FALSE(fs::exists(to));
  }
  TemporaryFolder folder_;
  std::vector<std::pair<std::string, std::vector<std::size_t>>> added_;
  std::set<std::string> removed_;
  int made_ = 0;
};

TEST_F(ConfigCheck, SizesAreThoseOfTheTensors) {
  refuse(model("gqa_tied", {{"num_hidden_layers", 1 << 28}}), ErrorCode::not_found,
         "\"num_hidden_layers\" is 268435456, and there are 20 tensors");
  refuse(model("gqa_tied", {{"num_hidden_layers", 3}}), ErrorCode::not_found, "model.layers.2.input_layernorm.weight");
  refuse(model("gqa_tied", {{"head_dim", 1 << 26}}), ErrorCode::shape_mismatch,
         "\"head_dim\" is 67108864 for 4 heads, so that tensor 'model.layers.0.self_attn.q_proj.weight' would have "
         "268435456 rows");
  refuse(model("gqa_tied", {{"vocab_size", 1 << 28}}), ErrorCode::shape_mismatch,
         "\"vocab_size\" is 268435456, and tensor 'model.embed_tokens.weight' has 96 rows");
}

TEST_F(ConfigCheck, AContextCostsNothingUntilItIsUsed) {
  EXPECT_EQ(engine::Model::load(model("gqa_tied", {{"max_position_embeddings", 1 << 28}})).config().context, 1u << 28);
}

TEST_F(ConfigCheck, WidthsOfQuantizedLayersAreBoundedByTheirBytes) {
  QuantizeModelOptions options;
  options.spec = QuantSpec::parse("nf4");
  quantize_model(model("gqa_tied", {}), folder_ / "nf4", options);
  Json config = Json::parse(std::ifstream(folder_ / "nf4" / "config.json"));
  config["head_dim"] = 1 << 26;
  std::ofstream(folder_ / "nf4" / "config.json") << config;
  expect_error(ErrorCode::shape_mismatch, "all that is stored of it are",
               [&] { (void)engine::Model::load(folder_ / "nf4"); });
}

TEST_F(ConfigCheck, CodesInElementsOfAFloatTypeAreNotTakenForRows) {
  QuantizeModelOptions options;
  options.spec = QuantSpec::parse("nf4");
  quantize_model(model("gqa_tied", {}), folder_ / "nf4", options);
  const Checkpoint in = Checkpoint::open(folder_ / "nf4");
  std::vector<TensorInfo> infos = in.tensors();
  for (TensorInfo& t : infos)  // bnb_4bit_quant_storage: bfloat16
    if (t.type == DType::u8 && t.name.ends_with("_proj.weight")) t.type = DType::bf16, t.shape = {t.bytes / 2, 1};
  fs::create_directories(folder_ / "bf16");
  fs::copy_file(folder_ / "nf4" / "config.json", folder_ / "bf16" / "config.json");
  SafetensorsWriter writer(folder_ / "bf16" / "model.safetensors", infos, {});
  for (const TensorInfo& t : infos) {
    const Buffer bytes = in.data(t.name);
    writer.write(t.name, {bytes.data(), bytes.size()});
  }
  writer.finish();
  const engine::Model expected = engine::Model::load(folder_ / "nf4"), stored = engine::Model::load(folder_ / "bf16");
  const std::int32_t ids[] = {1, 2, 3};
  engine::KvCache a(expected.config(), 3), b(stored.config(), 3);
  EXPECT_EQ(expected.forward(ids, a), stored.forward(ids, b));
}

TEST_F(ConfigCheck, ABiasIsThereIfTheConfigurationSaysSo) {
  refuse(model("gqa_tied", {{"attention_bias", true}}), ErrorCode::corrupt_file,
         "there is no tensor 'model.layers.0.self_attn.q_proj.bias', though \"attention_bias\" is true");
  refuse(model("gqa_tied", {{"mlp_bias", true}}), ErrorCode::corrupt_file, "'model.layers.0.mlp.gate_proj.bias'");
  added_ = {{"model.layers.1.mlp.up_proj.bias", {112}}};
  refuse(model("gqa_tied", {}), ErrorCode::corrupt_file, "'model.layers.1.mlp.up_proj.bias' is a bias");
  added_ = {{"model.layers.0.self_attn.o_proj.bias", {64}}};
  refuse(model("bias", {}), ErrorCode::corrupt_file, "'model.layers.0.self_attn.o_proj.bias' is a bias");
}

TEST_F(ConfigCheck, AStoredHeadIsTheTiedEmbeddingOrAnError) {
  added_ = {{"lm_head.weight", {96, 64}}};
  refuse(model("gqa_tied", {}), ErrorCode::corrupt_file, "'lm_head.weight' differs from 'model.embed_tokens.weight'");
  EXPECT_FALSE(engine::Model::load(model("gqa_tied", {{"tie_word_embeddings", false}})).config().tied_embeddings);
  added_.clear();
  refuse(model("bias", {{"tie_word_embeddings", true}}), ErrorCode::corrupt_file, "\"tie_word_embeddings\"");
}

// What GGUF cannot say, or llama.cpp does not read, is not exported as another model.
TEST_F(ConfigCheck, GgufCarriesTheMeaningOrIsNotWritten) {
  const auto refused = [&](const fs::path& model, const std::string& says) {
    expect_error(ErrorCode::unsupported, says, [&] { (void)export_gguf(model, folder_ / "out.gguf"); });
    EXPECT_FALSE(fs::exists(folder_ / "out.gguf"));
  };
  const Json windows{{"use_sliding_window", true}, {"sliding_window", 16}};
  Json types = windows;
  types["layer_types"] = {"full_attention", "sliding_attention"};
  refused(model("bias", types), "some layers have a sliding window of 16 tokens");
  refused(model("bias",
                {{"rope_parameters",
                  {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}}}}),
          "does not read in a qwen2 model");
}

// No more experts are looked for than there can be, and none is left out.
TEST_F(ConfigCheck, ExpertsAreThoseOfTheFile) {
  const std::string mlp = "model.layers.1.block_sparse_moe.";
  for (const char* none : {"num_local_experts", "num_experts_per_tok"})
    refuse(model("mixtral", {{none, 0}}), ErrorCode::corrupt_file,
           "\"" + std::string(none) + "\" is 0; a positive whole number is needed");
  refuse(model("mixtral", {{"num_experts_per_tok", 5}}), ErrorCode::corrupt_file,
         "\"num_experts_per_tok\" is 5, of 4 experts");
  refuse(model("mixtral", {{"num_experts", 6}}), ErrorCode::corrupt_file,
         "\"num_experts\" is 6, and \"num_local_experts\" 4");
  refuse(model("mixtral", {{"num_local_experts", 1 << 28}}), ErrorCode::not_found,
         "there are 268435456 experts in each of 2 blocks, the configuration says, and only 41 tensors");
  refuse(model("mixtral", {{"num_local_experts", 5}}), ErrorCode::not_found,
         "6 are missing: 'model.layers.0.block_sparse_moe.experts.4.w1.weight'");
  refuse(model("mixtral", {{"num_local_experts", 3}}), ErrorCode::shape_mismatch,
         "tensor 'model.layers.0.block_sparse_moe.gate.weight' is 4 × 32; the configuration needs 3 × 32");

  removed_ = {mlp + "experts.3.w2.weight"};
  refuse(model("mixtral", {}), ErrorCode::not_found, "1 are missing: '" + mlp + "experts.3.w2.weight'");
  added_ = {{mlp + "experts.3.w2.weight", {32, 16}}};
  refuse(model("mixtral", {}), ErrorCode::shape_mismatch,
         "tensor '" + mlp + "experts.3.w2.weight' is 32 × 16; the configuration needs 32 × 32");
  removed_ = {mlp + "gate.weight"};
  added_ = {{mlp + "gate.weight", {4, 16}}};
  refuse(model("mixtral", {}), ErrorCode::shape_mismatch,
         "tensor '" + mlp + "gate.weight' is 4 × 16; the configuration needs 4 × 32");
  added_ = {{mlp + "gate.weight", {4, 32}}, {mlp + "experts.0.w1.bias", {32}}};
  refuse(model("mixtral", {}), ErrorCode::corrupt_file, "is a bias that no mixtral model has");
}

// Of a model that was saved by its stacks the error says what it lacks.
TEST_F(ConfigCheck, StacksOfExpertsAreNotTakenForExperts) {
  const Checkpoint published = Checkpoint::open(kGolden / "mixtral");
  for (const TensorInfo& t : published.tensors())
    if (t.name.find(".experts.") != std::string::npos) removed_.insert(t.name);
  for (const std::string block : {"0", "1"}) {
    added_.push_back({"model.layers." + block + ".mlp.experts.gate_up_proj", {4, 64, 32}});
    added_.push_back({"model.layers." + block + ".mlp.experts.down_proj", {4, 32, 32}});
  }
  refuse(model("mixtral", {}), ErrorCode::not_found,
         "there are tensors that no mixtral model has: 'model.layers.0.mlp.e");
  refuse(model("mixtral", {{"num_local_experts", 128}}), ErrorCode::unsupported,
         "tensor 'model.layers.0.mlp.experts.down_proj' is a stack; each expert's weights are read from tensors of "
         "their own, 'model.layers.0.block_sparse_moe.experts.0.w2.weight' say");
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
