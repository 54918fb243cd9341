#include "nibble/model/export_gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/gguf_weights.h"
#include "nibble/engine/evaluate.h"
#include "nibble/engine/model.h"
#include "nibble/model/architecture.h"
#include "nibble/model/quantize.h"
#include "nibble/text/tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden_model.h"
#include "tests/support/temporary_folder.h"
#include "text/gguf_tokenizer.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;
using testing_support::copy_with_tokenizer;
using testing_support::expect_error;
using testing_support::golden;
using testing_support::TemporaryFolder;

const fs::path kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";
Ids evaluation_ids(std::size_t count) {
  std::ifstream in(NIBBLE_EXAMPLE_DATA "/evaluation.txt", std::ios::binary);
  Ids ids;
  for (char c; ids.size() < count && in.get(c);) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::vector<float> logits(const engine::Model& model, const Ids& ids) {
  engine::KvCache cache(model.config(), ids.size());
  return model.forward(ids, cache);
}

TEST(ExportGguf, Float16GivesTheLogitsOfTheSameWeights) {
  const TemporaryFolder folder;
  QuantizeModelOptions to_f16;
  to_f16.convert_to = DType::f16;
  (void)quantize_model(kModel, folder / "fp16", to_f16);
  const auto report = export_gguf(folder / "fp16", folder / "model.gguf");
  EXPECT_TRUE(report.notes.empty());
  EXPECT_EQ(report.bits_per_weight, 16);
  EXPECT_EQ(report.file_bytes, fs::file_size(folder / "model.gguf"));
  const auto ids = evaluation_ids(100);
  EXPECT_EQ(logits(engine::Model::load(folder / "fp16"), ids), logits(engine::Model::load(folder / "model.gguf"), ids));
}

TEST(ExportGguf, EveryTypePredictsNearlyAsWell) {
  const TemporaryFolder folder;
  const auto ids = evaluation_ids(4096);
  const double exact = evaluate(engine::Model::load(kModel), ids).perplexity();
  // The embedded model's perplexity rises by a third of a percent at 4.5 bits in plain groups of 32 (README).
  const struct {
    BlockType type;
    double bits, most;
  } cases[] = {{BlockType::f32, 32, 1e-6},       {BlockType::bf16, 16, 1e-6}, {BlockType::q8_0, 8.5, 0.001},
               {BlockType::q6_k, 6.5625, 0.002}, {BlockType::q5_1, 6, 0.005}, {BlockType::q4_1, 5, 0.01},
               {BlockType::q4_0, 4.5, 0.01},     {BlockType::q4_k, 4.5, 0.01}};
  for (const auto& c : cases) {
    const auto path = folder / "model.gguf";
    EXPECT_EQ(export_gguf(kModel, path, {.type = c.type}).bits_per_weight, c.bits);
    const engine::Model model = engine::Model::load(path);
    EXPECT_EQ(model.bits_per_weight(), c.bits);
    EXPECT_NEAR(evaluate(model, ids).perplexity() / exact, 1, c.most) << name_of(c.type);
  }
}

TEST(ExportGguf, CodesThatFitAreKept) {
  const TemporaryFolder folder;
  const auto layer = find_architecture("llama").linear_names(3)[1];  // k, whose rows are in another order in the file
  for (const auto& [spec, type, says] :
       {std::tuple{"int4-g32-sym", BlockType::q4_0, "42 layers keep the codes"},
        std::tuple{"int8-g32-sym", BlockType::q8_0, "42 layers keep the codes"},
        std::tuple{"int4-g128-sym", BlockType::q4_0, "42 layers were quantized already"}}) {
    const auto quantized = folder / spec, file = folder / "model.gguf";
    QuantizeModelOptions options;
    options.spec = QuantSpec::parse(spec);
    (void)quantize_model(kModel, quantized, options);
    const auto report = export_gguf(quantized, file, {.type = type});
    ASSERT_EQ(report.notes.size(), 1u);
    EXPECT_NE(report.notes[0].find(says), std::string::npos) << report.notes[0];
    if (type != exact_block_type(*decode_quantized(Checkpoint::open(quantized), layer))) continue;
    const QuantizedMatrix before = *decode_quantized(Checkpoint::open(quantized), layer);
    const QuantizedMatrix after = to_quantized(GgufWeights(file).matrix(layer + ".weight"));
    EXPECT_EQ(after.spec, before.spec);
    EXPECT_EQ(std::memcmp(after.codes.data(), before.codes.data(), before.codes.size()), 0);
    EXPECT_EQ(std::memcmp(after.scales.data(), before.scales.data(), before.scales.size()), 0);
  }
}

/// The file without its stacks, in whose place the first expert's matrices lie.
fs::path without_experts(const TemporaryFolder& folder, const GgufFile& file) {
  std::vector<GgufTensor> tensors = file.tensors();
  for (GgufTensor& t : tensors)
    if (t.shape.size() == 3) t.shape.erase(t.shape.begin());
  GgufWriter writer(folder / "dense.gguf", file.metadata(), tensors);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& t = file.tensors()[i];
    writer.write(t.name, {file.data(t).data(), t.bytes / (t.shape.size() == 3 ? t.shape[0] : 1)});
  }
  writer.finish();
  return folder / "dense.gguf";
}

class GoldenGguf : public testing::TestWithParam<const char*> {};

TEST_P(GoldenGguf, LogitsAgreeWithTransformers) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden(GetParam()), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::f32});
  const Checkpoint expected = Checkpoint::open(golden(GetParam()) / "golden.safetensors");
  const Buffer raw = expected.data("input_ids");
  Ids ids;
  for (std::size_t i = 0; i < raw.size() / 8; ++i) ids.push_back(static_cast<std::int32_t>(raw.as<std::int64_t>()[i]));
  const auto theirs = expected.read_f32("logits"), ours = logits(engine::Model::load(folder / "model.gguf"), ids);
  ASSERT_EQ(ours.size(), theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i)
    ASSERT_NEAR(ours[i], theirs[i], 1e-4f * std::max(1.0f, std::abs(theirs[i]))) << "logit " << i;
}

// Llama 3's rotary scaling and tied embeddings; Qwen2's biases and order of rows; heads of 24, a sliding window; norms
// of queries and keys; norms of 1 + weight, caps and windows by a pattern; two rotary bases; layers of several in one;
// heads turned in part, and neighbour by neighbour.
INSTANTIATE_TEST_SUITE_P(Transformers, GoldenGguf,
                         testing::Values("gqa_tied", "bias", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "glm4",
                                         "mixtral", "qwen3_moe"),
                         [](const auto& p) { return std::string(p.param); });

// The names by which llama.cpp knows them.
TEST(ExportGguf, Qwen3HasItsOwnKeysAndNorms) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("qwen3"), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::q8_0});
  const GgufFile file(folder / "model.gguf");
  const auto value = [&](const char* key) { return file.metadata().at(key); };
  EXPECT_EQ(value("general.architecture"), GgufValue(std::string("qwen3")));
  EXPECT_EQ(value("qwen3.attention.key_length"), GgufValue(std::uint32_t{16}));
  EXPECT_EQ(value("qwen3.attention.value_length"), GgufValue(std::uint32_t{16}));
  EXPECT_EQ(value("qwen3.rope.freq_base"), GgufValue(1e6f));
  const Checkpoint model = Checkpoint::open(golden("qwen3"));
  for (const auto& [theirs, ours] : {std::pair{"blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight"},
                                     std::pair{"blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"}}) {
    EXPECT_EQ(file.info(theirs).type, BlockType::f32);
    EXPECT_EQ(file.info(theirs).shape, std::vector<std::size_t>{16});
    EXPECT_EQ(file.read_f32(theirs), model.read_f32(ours));
  }
  EXPECT_EQ(file.info("blk.0.attn_q.weight").type, BlockType::q8_0);
  EXPECT_FALSE(file.contains("output.weight"));
}

// Of the window llama.cpp reads the size alone, and does without.
TEST(ExportGguf, LayersOfSeveralInOneAndHeadsTurnedInPartHaveTheirKeys) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("phi3"), folder / "model");
  const auto report = export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::f32});
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("no sliding window in this architecture: beyond 16"), std::string::npos);
  const GgufFile file(folder / "model.gguf");
  const auto value = [&](const char* key) { return file.metadata().at(key); };
  EXPECT_EQ(value("phi3.rope.dimension_count"), GgufValue(std::uint32_t{12}));
  EXPECT_EQ(value("phi3.attention.sliding_window"), GgufValue(std::uint32_t{16}));
  EXPECT_EQ(value("phi3.feed_forward_length"), GgufValue(std::uint32_t{64}));
  const Checkpoint model = Checkpoint::open(golden("phi3"));
  for (const auto& [theirs, ours] : {std::pair{"blk.1.attn_qkv.weight", "model.layers.1.self_attn.qkv_proj.weight"},
                                     std::pair{"blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"}})
    EXPECT_EQ(file.read_f32(theirs), model.read_f32(ours)) << theirs;
  EXPECT_FALSE(file.contains("blk.0.ffn_gate.weight"));

  // Files of longer texts scale by their length.
  std::vector<GgufTensor> tensors = file.tensors();
  tensors.push_back({"rope_factors_long.weight", BlockType::f32, {6}, 0, 24});
  GgufWriter writer(folder / "long.gguf", file.metadata(), tensors);
  for (const GgufTensor& t : file.tensors()) writer.write(t.name, {file.data(t).data(), t.bytes});
  const std::vector<float> factors(6, 2.0f);
  writer.write("rope_factors_long.weight", std::as_bytes(std::span(factors)));
  writer.finish();
  expect_error(ErrorCode::unsupported, "'rope_factors_long.weight' scales rotary embeddings by the length",
               [&] { (void)engine::Model::load(folder / "long.gguf"); });
}

TEST(ExportGguf, HeadsTurnedNeighbourByNeighbourKeepTheirRows) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("glm4"), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::f32});
  const GgufFile file(folder / "model.gguf");
  EXPECT_EQ(file.metadata().at("glm4.rope.dimension_count"), GgufValue(std::uint32_t{8}));
  const Checkpoint model = Checkpoint::open(golden("glm4"));
  for (const auto& [theirs, ours] :
       {std::pair{"blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight"},
        std::pair{"blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias"},
        std::pair{"blk.1.post_attention_norm.weight", "model.layers.1.post_self_attn_layernorm.weight"},
        std::pair{"blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"},
        std::pair{"blk.1.ffn_up.weight", "model.layers.1.mlp.gate_up_proj.weight"},
        std::pair{"blk.1.post_ffw_norm.weight", "model.layers.1.post_mlp_layernorm.weight"}})
    EXPECT_EQ(file.read_f32(theirs), model.read_f32(ours)) << theirs;

  for (const auto& [turned, says] :
       {std::pair{18u, "is 18; of the 16 values of a head"}, std::pair{7u, "is 7; of the"}}) {
    GgufMetadata metadata = file.metadata();
    metadata["glm4.rope.dimension_count"] = std::uint32_t{turned};
    GgufWriter writer(folder / "bad.gguf", metadata, file.tensors());
    for (const GgufTensor& t : file.tensors()) writer.write(t.name, {file.data(t).data(), t.bytes});
    writer.finish();
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)Config::load(folder / "bad.gguf"); });
  }
}

TEST(ExportGguf, GemmaHasItsOwnKeysAndStoresWhatNormsMultiplyBy) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("gemma2"), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::q8_0});
  const GgufFile file(folder / "model.gguf");
  const auto value = [&](const char* key) { return file.metadata().at(key); };
  EXPECT_EQ(value("gemma2.attn_logit_softcapping"), GgufValue(5.0f));
  EXPECT_EQ(value("gemma2.final_logit_softcapping"), GgufValue(8.0f));
  EXPECT_EQ(value("gemma2.attention.sliding_window"), GgufValue(std::uint32_t{16}));
  const Checkpoint model = Checkpoint::open(golden("gemma2"));
  for (const auto& [theirs, ours] :
       {std::pair{"blk.1.post_attention_norm.weight", "model.layers.1.post_attention_layernorm.weight"},
        std::pair{"blk.1.ffn_norm.weight", "model.layers.1.pre_feedforward_layernorm.weight"},
        std::pair{"blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"},
        std::pair{"output_norm.weight", "model.norm.weight"}}) {
    const auto stored = file.read_f32(theirs), weights = model.read_f32(ours);
    for (std::size_t i = 0; i < stored.size(); ++i) ASSERT_EQ(stored[i], 1 + weights[i]) << theirs;
  }
}

TEST(ExportGguf, ExpertsLieInStacks) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("mixtral"), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::f32});
  const GgufFile file(folder / "model.gguf");
  EXPECT_EQ(file.metadata().at("llama.expert_count"), GgufValue(std::uint32_t{4}));
  EXPECT_EQ(file.metadata().at("llama.expert_used_count"), GgufValue(std::uint32_t{2}));
  const Checkpoint model = Checkpoint::open(golden("mixtral"));
  const std::string mlp = "model.layers.1.block_sparse_moe.";
  for (const auto& [theirs, ours] : {std::pair{"gate", "w1"}, std::pair{"up", "w3"}, std::pair{"down", "w2"}}) {
    const std::string stack = "blk.1.ffn_" + std::string(theirs) + "_exps.weight";
    EXPECT_EQ(file.info(stack).shape, (std::vector<std::size_t>{4, 32, 32}));
    std::vector<float> experts;
    for (int e = 0; e < 4; ++e) {
      const auto one = model.read_f32(mlp + "experts." + std::to_string(e) + "." + ours + ".weight");
      experts.insert(experts.end(), one.begin(), one.end());
    }
    EXPECT_EQ(file.read_f32(stack), experts);
  }
  EXPECT_EQ(file.read_f32("blk.1.ffn_gate_inp.weight"), model.read_f32(mlp + "gate.weight"));

  const auto changed = [&](const char* key, std::uint32_t value) {
    GgufMetadata metadata = file.metadata();
    metadata[key] = value;
    GgufWriter writer(folder / "bad.gguf", metadata, file.tensors());
    for (const GgufTensor& t : file.tensors()) writer.write(t.name, {file.data(t).data(), t.bytes});
    writer.finish();
    return folder / "bad.gguf";
  };
  for (const std::uint32_t count : {3u, 1u << 28})
    expect_error(ErrorCode::corrupt_file, "is a stack of 4",
                 [&] { (void)Config::load(changed("llama.expert_count", count)); });
  expect_error(ErrorCode::corrupt_file, "'llama.expert_used_count' is 5, of 4 experts",
               [&] { (void)Config::load(changed("llama.expert_used_count", 5)); });
  expect_error(ErrorCode::unsupported, "adds an expert that sees every token",
               [&] { (void)Config::load(changed("llama.expert_shared_count", 1)); });
  expect_error(ErrorCode::shape_mismatch, "no stack of",  // a dense model's tensors are none
               [&] { (void)engine::Model::load(without_experts(folder, file)); });
}

TEST(ExportGguf, CodesOfExpertsAreKept) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("mixtral"), folder / "model");
  QuantizeModelOptions options;
  options.spec = QuantSpec::parse("int4-g32-sym");
  (void)quantize_model(folder / "model", folder / "int4", options);
  fs::copy_file(folder / "model" / "tokenizer.json", folder / "int4" / "tokenizer.json",
                fs::copy_options::overwrite_existing);
  const auto report = export_gguf(folder / "int4", folder / "model.gguf", {.type = BlockType::q4_0});
  EXPECT_EQ(report.bits_per_weight, 4.5);
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("32 layers keep the codes"), std::string::npos) << report.notes[0];
  const engine::Model model = engine::Model::load(folder / "model.gguf");
  EXPECT_EQ(model.bits_per_weight(), 4.5);
  const std::string layer = "model.layers.1.block_sparse_moe.experts.2.w3";
  const QuantizedMatrix before = *decode_quantized(Checkpoint::open(folder / "int4"), layer);
  const QuantizedMatrix after = to_quantized(GgufWeights(folder / "model.gguf").matrix(layer + ".weight"));
  EXPECT_EQ(std::memcmp(after.codes.data(), before.codes.data(), before.codes.size()), 0);
  for (const BlockType type : {BlockType::q8_0, BlockType::bf16}) {
    (void)export_gguf(folder / "model", folder / "other.gguf", {.type = type});
    const Ids ids = {1, 5, 90, 7, 7, 30, 2};
    const auto exact = logits(engine::Model::load(folder / "model"), ids),
               given = logits(engine::Model::load(folder / "other.gguf"), ids);
    double error = 0, size = 0;
    for (std::size_t i = 0; i < exact.size(); ++i)
      error += std::pow(given[i] - exact[i], 2), size += std::pow(exact[i], 2);
    EXPECT_LT(error / size, 5e-3) << name_of(type);
  }
}

TEST(ExportGguf, RefusesWeightsOfExpertsThatLlamaCppWouldNormalize) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("qwen3_moe"), folder / "model");
  Json config = Json::parse(std::ifstream(folder / "model" / "config.json"));
  config.erase("norm_topk_prob");
  std::ofstream(folder / "model" / "config.json") << config;
  expect_error(ErrorCode::unsupported, "\"norm_topk_prob\" is false, and llama.cpp",
               [&] { (void)export_gguf(folder / "model", folder / "x.gguf", {}); });
}

// llama.cpp takes these for granted, so that another value would be another model.
TEST(ExportGguf, RefusesAGemmaThatIsNotAsLlamaCppTakesIt) {
  const TemporaryFolder folder;
  const std::vector<std::pair<Json, std::string>> cases = {
      {{{"query_pre_attn_scalar", 24}}, "\"query_pre_attn_scalar\" is 24"},
      {{{"attn_logit_softcapping", nullptr}}, "not capped"},
      {{{"layer_types", {"full_attention", "sliding_attention"}}}, "some layers have a sliding window of 16"}};
  for (const auto& [change, says] : cases) {
    const fs::path model = folder / "model";
    fs::remove_all(model);
    copy_with_tokenizer(golden("gemma2"), model);
    Json config = Json::parse(std::ifstream(model / "config.json"));
    config.update(change);
    std::ofstream(model / "config.json") << config;
    expect_error(ErrorCode::unsupported, says, [&] { (void)export_gguf(model, folder / "x.gguf", {}); });
  }
}

TEST(ExportGguf, RowsThatAreNoWholeBlocksFallBackAndAreNamed) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("gqa_tied"), folder / "model");
  const auto report = export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::q4_k});
  const GgufFile file(folder / "model.gguf");
  EXPECT_EQ(file.info("blk.0.attn_q.weight").type, BlockType::q5_0);   // rows of 64
  EXPECT_EQ(file.info("blk.1.ffn_down.weight").type, BlockType::f16);  // rows of 112
  EXPECT_EQ(file.info("token_embd.weight").type, BlockType::q8_0);
  EXPECT_EQ(file.info("blk.0.attn_norm.weight").type, BlockType::f32);
  EXPECT_FALSE(file.contains("output.weight"));
  EXPECT_TRUE(report.notes.empty());
  ASSERT_EQ(report.types.size(), 4u);  // Q8_0 for the embedding, F32 for norms, and two in place of Q4_K
  std::size_t tensors = 0, bytes = 0, blocks = 0;
  for (const GgufTypeShare& share : report.types) {
    tensors += share.tensors;
    bytes += share.bytes;
    if (share.type == BlockType::q5_0) EXPECT_EQ(share.why, "their rows of 64 are no multiple of 256, as Q4_K needs");
    if (share.type == BlockType::f16) EXPECT_EQ(share.why, "their rows of 112 are no multiple of 256, as Q4_K needs");
    if (!share.why.empty()) blocks += share.tensors;
  }
  EXPECT_EQ(blocks, 14u);
  EXPECT_EQ(tensors, file.tensors().size());
  for (const GgufTensor& t : file.tensors()) bytes -= t.bytes;
  EXPECT_EQ(bytes, 0u);
  EXPECT_GT(logits(engine::Model::load(folder / "model.gguf"), {1, 2, 3}).size(), 0u);
}

class GgufTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(GgufTokenizer, AgreesWithTheOriginalLibrary) {
  const TemporaryFolder folder;
  text::ModelTokens config;
  config.vocab = 3000;
  const auto file = folder / "tokenizer.gguf";
  GgufWriter(file, text::tokenizer_metadata(golden(GetParam()), config), {}).finish();
  const auto tokenizer = text::load_tokenizer(file);
  for (const Json& c : Json::parse(std::ifstream(golden(GetParam()) / "cases.json"))) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text, false), c["ids"].get<Ids>()) << c["text"];
    EXPECT_EQ(tokenizer->encode(text), c["ids_with_special"].get<Ids>()) << c["text"];
    EXPECT_EQ(tokenizer->decode(c["ids"].get<Ids>()), c["decoded"].get<std::string>()) << c["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(Libraries, GgufTokenizer,
                         testing::Values("gpt2", "llama3", "qwen2", "smollm2", "sentencepiece"),
                         [](const auto& p) { return std::string(p.param); });

/// Texts without special tokens, which SentencePiece does not look for.
std::vector<Json> plain_cases(const std::string& name) {
  std::vector<Json> out;
  for (const Json& c : Json::parse(std::ifstream(golden(name) / "cases.json"))) {
    const auto text = c["text"].get<std::string>();
    const auto has = [&](const char* token) { return text.find(token) != std::string::npos; };
    if (!has("<s>") && !has("</s>") && !has("<|im_start|>")) out.push_back(c);
  }
  return out;
}

TEST(GgufTokenizer, ScoresMadeOfMergesCutTextAsTheMergesDo) {
  const TemporaryFolder folder;
  text::ModelTokens config;
  config.vocab = 513;
  for (const char* name : {"json_llama2", "json_mistral", "json_gemma"}) {
    const auto file = folder / "tokenizer.gguf";
    GgufWriter(file, text::tokenizer_metadata(golden(name), config), {}).finish();
    const auto tokenizer = text::load_tokenizer(file);
    const auto cases = plain_cases(name);
    EXPECT_GT(cases.size(), 40u);
    for (const Json& c : cases) {
      const auto text = c["text"].get<std::string>();
      const bool begins_with_space = text.starts_with(' ') || text.starts_with("▁");
      if (begins_with_space && std::string(name) == "json_mistral") continue;  // Metaspace gives it no second one
      EXPECT_EQ(tokenizer->encode(text), c["ids_with_special"].get<Ids>()) << name << c["text"];
      EXPECT_EQ(tokenizer->decode(c["ids"].get<Ids>()), c["decoded"].get<std::string>()) << name << c["text"];
    }
  }
}

TEST(GgufTokenizer, MergesThatNoScoresCanSayAreRefused) {
  const TemporaryFolder folder;
  const Json good = Json::parse(std::ifstream(golden("json_llama2") / "tokenizer.json"));
  const auto refused = [&](const std::string& says, const auto& change) {
    Json bad = good;
    change(bad);
    std::ofstream(folder / "tokenizer.json") << bad;
    text::ModelTokens config;
    config.vocab = 600;
    expect_error(ErrorCode::unsupported, says, [&] { (void)text::tokenizer_metadata(folder.path(), config); });
  };
  refused("no merge makes", [](Json& d) { d["model"]["merges"].erase(20); });
  refused("its normalizer and pre-tokenizer", [](Json& d) { d["normalizer"] = {{"type", "NFC"}}; });
  refused("tokens on one side", [](Json& d) {
    Json& single = d["post_processor"]["single"];
    single.insert(single.begin(), single[0]);
  });
  Json unigram = Json::parse(std::ifstream(golden("json_t5") / "tokenizer.json"));
  refused("unigram", [&](Json& d) { d = unigram; });
}

TEST(GgufTokenizer, TokensAddedBesideASentencePieceModelGoAlong) {
  const TemporaryFolder folder;
  fs::copy_file(golden("sentencepiece") / "tokenizer.model", folder / "tokenizer.model");
  std::ofstream(folder / "tokenizer.json")
      << R"({"added_tokens": [{"id": 512, "content": "<|im_end|>", "special": true},
      {"id": 513, "content": "<tool>"}]})";
  text::ModelTokens config;
  config.vocab = 520;
  GgufWriter(folder / "t.gguf", text::tokenizer_metadata(folder.path(), config), {}).finish();
  const auto tokenizer = text::load_tokenizer(folder / "t.gguf");
  EXPECT_EQ(tokenizer->encode("a<tool>", false).back(), 513);
  EXPECT_EQ(tokenizer->decode(Ids{513}), "<tool>");
}

TEST(GgufTokenizer, BytesStayBytes) {
  const TemporaryFolder folder;
  (void)export_gguf(kModel, folder / "model.gguf", {.type = BlockType::q8_0});
  const auto tokenizer = text::load_tokenizer(folder / "model.gguf");
  EXPECT_EQ(tokenizer->encode("A\xFF"), (Ids{65, 255}));
  EXPECT_EQ(tokenizer->decode(Ids{65, 255}), "A\xFF");
}

TEST(GgufModel, RefusesMetadataThatCannotBe) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("gqa_tied"), folder / "model");
  (void)export_gguf(folder / "model", folder / "good.gguf");
  const GgufFile good(folder / "good.gguf");
  const auto broken = [&](const std::string& key, const std::optional<GgufValue>& value, const std::string& says,
                          ErrorCode code = ErrorCode::corrupt_file) {
    GgufMetadata metadata = good.metadata();
    metadata.erase(key);
    if (value) metadata[key] = *value;
    GgufWriter writer(folder / "bad.gguf", metadata, good.tensors());
    for (const GgufTensor& t : good.tensors()) writer.write(t.name, {good.data(t).data(), t.bytes});
    writer.finish();
    expect_error(code, says, [&] {
      (void)engine::Model::load(folder / "bad.gguf");
      (void)text::load_tokenizer(folder / "bad.gguf");
    });
  };
  const auto unsupported = ErrorCode::unsupported;
  const auto u32 = [](std::uint32_t v) { return GgufValue(v); };
  const auto text = [](const char* v) { return GgufValue(std::string(v)); };
  broken("general.architecture", text("mamba"), "is 'mamba'", unsupported);
  broken("general.architecture", u32(1), "'general.architecture' is not text");
  broken("llama.block_count", std::nullopt, "'llama.block_count' is missing");
  broken("llama.block_count", u32(0), "'llama.block_count' is 0");
  broken("llama.block_count", u32(1u << 30), "'llama.block_count' is 1073741824");
  broken("llama.block_count", GgufValue(std::int32_t{-2}), "'llama.block_count' is -2");
  broken("llama.block_count", GgufValue(2.0f), "not a whole number");
  broken("llama.block_count", u32(3), "blk.2.attn_norm.weight", ErrorCode::not_found);
  broken("llama.embedding_length", u32(32), "configuration needs", ErrorCode::shape_mismatch);
  broken("llama.attention.head_count_kv", u32(3), "must divide the number of heads");
  broken("llama.attention.key_length", u32(15), "must be even");
  broken("llama.attention.value_length", u32(8), "is not the key's", unsupported);
  broken("llama.attention.layer_norm_rms_epsilon", std::nullopt, "is missing");
  broken("llama.attention.layer_norm_rms_epsilon", GgufValue(NAN), "a positive number");
  broken("llama.attention.layer_norm_rms_epsilon", u32(1), "not a floating-point number");
  broken("llama.rope.freq_base", GgufValue(-1.0f), "a positive number");
  broken("llama.rope.dimension_count", u32(8), "rotates all 16", unsupported);
  broken("llama.expert_count", u32(8), "'llama.expert_used_count' is missing");  // Mixtral's files say "llama" too
  broken("llama.block_count", u32(1u << 28), "'llama.block_count' is 268435456, and there is no tensor",
         ErrorCode::not_found);
  broken("llama.attention.key_length", u32(1u << 26), "tensor 'blk.0.attn_q.weight' has 64 rows");
  // Keys that other models have: refused but for the value that changes nothing.
  const GgufValue f2 = 2.0f, no = false;
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping", "attention.clamp_kqv", "attention.scale",
                          "logit_scale", "residual_scale", "embedding_scale", "rope.scaling.attn_factor"})
    broken(std::string("llama.") + key, f2, std::string("'llama.") + key + "' is 2, which", unsupported);
  broken("llama.attention.causal", no, "lets tokens see those after them", unsupported);
  broken("llama.attention.sliding_window_pattern", u32(2), "to some layers only", unsupported);
  broken("llama.rope.scaling.factor", f2, "beside the factors of 'rope_freqs.weight'", unsupported);
  broken("split.count", GgufValue(std::uint16_t{2}), "one of 2 files", ErrorCode::not_found);
  broken("tokenizer.ggml.model", text("bert"), "is 'bert'", unsupported);
  broken("tokenizer.ggml.pre", text("tekken"), "is 'tekken'", unsupported);
  broken("tokenizer.ggml.tokens", std::nullopt, "'tokenizer.ggml.tokens' is missing");
  broken("tokenizer.ggml.tokens", u32(1), "not an array of the type");
  broken("tokenizer.ggml.merges", std::nullopt, "'tokenizer.ggml.merges' is missing");
  broken("tokenizer.ggml.merges", GgufArray{std::vector<std::string>{"a"}}, "merge 0");
  broken("tokenizer.ggml.eos_token_id", GgufValue(~std::uint64_t{0}), "which is no token");
}

// llama.cpp takes a factor without a type as linear, and the older key where there is no other.
TEST(GgufModel, ReadsLinearScalingInItsOlderForms) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("mistral"), folder / "model");
  (void)export_gguf(folder / "model", folder / "plain.gguf", {.type = BlockType::f32});
  const GgufFile plain(folder / "plain.gguf");
  const auto factor = [&](const std::string& key, const GgufValue& value) {
    GgufMetadata metadata = plain.metadata();
    metadata[key] = value;
    GgufWriter writer(folder / "scaled.gguf", metadata, plain.tensors());
    for (const GgufTensor& t : plain.tensors()) writer.write(t.name, {plain.data(t).data(), t.bytes});
    writer.finish();
    const auto scaling = Config::load(folder / "scaled.gguf").rope_scaling;
    return scaling ? scaling->factor : 0.0;
  };
  EXPECT_EQ(factor("llama.rope.scaling.factor", 4.0f), 4);
  EXPECT_EQ(factor("llama.rope.scale_linear", 4.0f), 4);
  EXPECT_EQ(factor("llama.rope.scale_linear", 1.0f), 0);
  EXPECT_EQ(factor("llama.logit_scale", 1.0f), 0);  // and a neutral key is passed over
}

TEST(GgufModel, RefusesFilesThatAreNoModel) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::not_found, "no.gguf", [&] { (void)engine::Model::load(folder / "no.gguf"); });
  std::ofstream(folder / "text.gguf") << "not a model";
  expect_error(ErrorCode::corrupt_file, "text.gguf", [&] { (void)engine::Model::load(folder / "text.gguf"); });
  expect_error(ErrorCode::corrupt_file, "text.gguf", [&] { (void)text::load_tokenizer(folder / "text.gguf"); });
  GgufWriter(folder / "empty.gguf", {}, {}).finish();
  expect_error(ErrorCode::unsupported, "general.architecture",
               [&] { (void)engine::Model::load(folder / "empty.gguf"); });
  expect_error(ErrorCode::unsupported, "can be read, not written",
               [&] { (void)export_gguf(kModel, folder / "x.gguf", {.type = BlockType::q8_k}); });
  expect_error(ErrorCode::not_found, "no tokenizer", [&] { (void)export_gguf(golden("bias"), folder / "x.gguf"); });
  EXPECT_FALSE(fs::exists(folder / "x.gguf"));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
