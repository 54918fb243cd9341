// The types of a mix's tensors against those that llama.cpp's own quantizer gave them (make_gguf_mixes_golden.py).
#include "nibble/model/gguf_mix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/gguf_plan.h"
#include "nibble/engine/calibrate.h"
#include "nibble/model/export_gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden_model.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using Json = nlohmann::ordered_json;

constexpr const char* kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

/// A model of zeros.
void write_model(const fs::path& folder, const Json& shape) {
  copy_with_tokenizer(golden(shape["model"]), folder);
  Json config = Json::parse(std::ifstream(folder / "config.json"));
  config["num_hidden_layers"] = shape["blocks"];
  config["hidden_size"] = shape["hidden"];
  config["num_attention_heads"] = shape["heads"];
  config["num_key_value_heads"] = shape["keys"];
  config["head_dim"] = shape["hidden"].get<int>() / shape["heads"].get<int>();
  config["intermediate_size"] = 256;
  config["tie_word_embeddings"] = shape["tied"];
  if (shape["experts"] != 0) config["num_local_experts"] = shape["experts"];
  if (shape["model"] == "gqa_tied") config.erase("rope_scaling");
  std::ofstream(folder / "config.json") << config;

  const Config c = Config::load(folder);
  const Architecture& a = c.architecture();
  std::vector<TensorInfo> tensors;
  const auto add = [&](const std::string& name, std::vector<std::size_t> of) {
    tensors.push_back({name + ".weight", DType::f16, std::move(of), 0, 0});
  };
  add(std::string(a.embedding.name), {c.vocab, c.hidden});
  add(std::string(a.final_norm.name), {c.hidden});
  if (!c.tied_embeddings) add(std::string(a.head.name), {c.vocab, c.hidden});
  for (std::size_t i = 0; i < c.layers; ++i)
    for (const Module& m : a.block)
      for (std::size_t e = 0; e < (m.is_expert() ? c.experts : 1); ++e)
        if (m.is_norm()) add(a.name(i, m), {c.elements(m.out)});
        else add(a.name(i, m, e), {c.elements(m.out), c.elements(m.in)});
  SafetensorsWriter writer(folder / "model.safetensors", tensors, {});
  const std::vector<std::byte> zeros(1 << 20);
  for (const TensorInfo& t : tensors) {
    std::size_t bytes = 2;
    for (const std::size_t d : t.shape) bytes *= d;
    writer.write(t.name, std::span(zeros).first(bytes));
  }
  writer.finish();
}

/// As the golden file has them: of each kind of tensor the types and how many blocks in a row have them.
Json types_of(const GgufPlan& plan) {
  std::map<std::string, std::map<int, std::string>> kinds;
  for (const GgufTensor& t : plan.tensors()) {
    if (t.type == BlockType::f32 || !t.name.ends_with(".weight")) continue;
    const bool in_block = t.name.starts_with("blk.");
    const std::size_t begin = in_block ? t.name.find('.', 4) + 1 : 0;
    const std::string kind = t.name.substr(begin, t.name.rfind('.') - begin);
    kinds[kind][in_block ? std::stoi(t.name.substr(4)) : 0] = name_of(t.type);
  }
  Json out = Json::object();
  for (const auto& [kind, types] : kinds) {
    Json runs = Json::array();
    for (const auto& [block, type] : types) {
      if (!runs.empty() && runs.back()[0] == type) runs.back()[1] = runs.back()[1].get<int>() + 1;
      else runs.push_back({type, 1});
    }
    out[kind] = runs;
  }
  return out;
}

TEST(GgufMix, GivesTensorsTheTypesThatLlamaCppGives) {
  const Json models = Json::parse(std::ifstream(NIBBLE_TEST_DATA "/golden/gguf_mixes.json"));
  std::size_t compared = 0;
  const TemporaryFolder folder;
  for (const auto& [name, model] : models.items()) {
    write_model(folder / name, model["shape"]);
    ImportanceMatrix importance;
    const std::vector<float> ones(256, 1.0f);
    importance.add(model["shape"]["experts"] != 0 ? "blk.0.attn_q.weight" : "blk.0.ffn_down.weight",
                   MatrixView<const float>(ones.data(), 1, 256));
    for (const GgufMix& mix : gguf_mixes())
      for (const bool weighed : {false, true}) {
        std::string key(mix.name);
        if (weighed && model["mixes"].contains(key + " weighed")) key += " weighed";
        if (!model["mixes"].contains(key)) continue;  // Q2_K_S is not written without
        ExportGgufOptions o;
        o.mix = &mix;
        if (weighed) o.importance = &importance;
        const GgufPlan plan(folder / name, o);
        EXPECT_EQ(types_of(plan), model["mixes"][key]) << name << " " << key;
        EXPECT_EQ(plan.metadata().at("general.file_type"), GgufValue(mix.file_type));
        ++compared;
      }
    fs::remove_all(folder / name);
  }
  EXPECT_EQ(compared, 7 * (2 * 17 - 1u));
}

TEST(GgufMix, IsWrittenOfTheSizeThatItsTypesHave) {
  const TemporaryFolder folder;
  const GgufMix& mix = *find_gguf_mix("q4_k_m");
  EXPECT_EQ(mix.name, "Q4_K_M");
  EXPECT_EQ(find_gguf_mix("Q4_K_X"), nullptr);
  EXPECT_EQ(find_gguf_mix(""), nullptr);
  ExportGgufOptions o;
  o.mix = &mix;
  const ExportGgufReport report = export_gguf(kModel, folder / "model.gguf", o);
  const GgufFile file(folder / "model.gguf");
  double bits = 0, weights = 0;
  for (const GgufTensor& t : file.tensors())
    if (t.name.starts_with("blk.") && t.shape.size() == 2) {
      bits += 8.0 * static_cast<double>(t.bytes);
      weights += static_cast<double>(t.shape[0]) * static_cast<double>(t.shape[1]);
    }
  EXPECT_NEAR(report.bits_per_weight, bits / weights, 1e-9);
  EXPECT_GT(report.bits_per_weight, 4.5);
  EXPECT_LT(report.bits_per_weight, 6.5);
}

TEST(GgufMix, GptqSolvesEachLayerIntoItsOwnType) {
  const TemporaryFolder folder;
  ExportGgufOptions o;
  o.mix = find_gguf_mix("Q3_K_M");
  CalibrateOptions few;
  few.samples = 2;
  few.sample_tokens = 32;
  const std::vector<std::int32_t> ids(2000, 'e');
  const ExportGgufReport report = engine::export_gguf_calibrated(kModel, folder / "model.gguf", ids, o, few);
  std::map<std::string, std::string> methods;
  for (const LayerReport& r : report.layers) methods[r.layer] = r.method;
  EXPECT_EQ(methods.at("model.layers.1.self_attn.v_proj"), "gptq-Q5_K");
  EXPECT_EQ(methods.at("model.layers.2.self_attn.v_proj"), "gptq-Q4_K");
  EXPECT_EQ(methods.at("model.layers.2.self_attn.q_proj"), "gptq-Q3_K");
  EXPECT_EQ(methods.size(), 42u);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
