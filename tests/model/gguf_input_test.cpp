// GGUF files as the input of what reads whole models.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/gguf_checkpoint.h"
#include "model/gguf_directory.h"
#include "model/gguf_weights.h"
#include "nibble/engine/model.h"
#include "nibble/model/architecture.h"
#include "nibble/model/convert.h"
#include "nibble/model/export_gguf.h"
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
using testing_support::copy_with_tokenizer;
using testing_support::expect_error;
using testing_support::golden;
using testing_support::TemporaryFolder;

const fs::path kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

void make_dense(const fs::path& from, const fs::path& to, DType type) {
  QuantizeModelOptions options;
  options.convert_to = type;
  (void)quantize_model(from, to, options);
}

void expect_same_tensors(const fs::path& a, const fs::path& b) {
  const Checkpoint ours = Checkpoint::open(a), theirs = Checkpoint::open(b);
  for (const TensorInfo& t : theirs.tensors()) {
    ASSERT_TRUE(ours.contains(t.name)) << t.name;
    EXPECT_EQ(ours.info(t.name).type, t.type) << t.name;
    EXPECT_EQ(ours.info(t.name).shape, t.shape) << t.name;
    const Buffer x = ours.data(t.name), y = theirs.data(t.name);
    ASSERT_EQ(x.size(), y.size()) << t.name;
    EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size()), 0) << t.name;
  }
  EXPECT_EQ(ours.tensors().size(), theirs.tensors().size());
}

class ThereAndBack : public testing::TestWithParam<const char*> {};

// Llama 3's rotary scaling and tied embeddings; Qwen2's biases and order of rows; heads of 24, a sliding window; norms
// of queries and keys; norms of 1 + weight, caps and windows by a pattern; two rotary bases; layers of several in one;
// heads turned in part, and neighbour by neighbour.
TEST_P(ThereAndBack, WeightsAndConfigurationAreTheSame) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden(GetParam()), folder / "model");
  make_dense(folder / "model", folder / "fp32", DType::f32);
  (void)export_gguf(folder / "fp32", folder / "model.gguf", {.type = BlockType::f32});
  make_dense(folder / "model.gguf", folder / "back", DType::f32);
  expect_same_tensors(folder / "back", folder / "fp32");
  const Config before = Config::load(folder / "fp32"), after = Config::load(folder / "back");
  EXPECT_EQ(after.hidden, before.hidden);
  EXPECT_EQ(after.intermediate, before.intermediate);
  EXPECT_EQ(after.layers, before.layers);
  EXPECT_EQ(after.heads, before.heads);
  EXPECT_EQ(after.kv_heads, before.kv_heads);
  EXPECT_EQ(after.head_dim, before.head_dim);
  EXPECT_EQ(after.turned_dim(), before.turned_dim());
  EXPECT_EQ(after.vocab, before.vocab);
  EXPECT_EQ(after.context, before.context);
  EXPECT_EQ(after.rms_eps, before.rms_eps);
  EXPECT_EQ(after.sliding_window, before.sliding_window);
  EXPECT_EQ(after.tied_embeddings, before.tied_embeddings);
  EXPECT_EQ(after.eos, before.eos);
  EXPECT_EQ(after.attention_cap, before.attention_cap);
  EXPECT_EQ(after.logit_cap, before.logit_cap);
  EXPECT_EQ(after.query_pre_attn_scalar, before.query_pre_attn_scalar);
  EXPECT_EQ(after.window_rope_theta, before.window_rope_theta);
  EXPECT_EQ(after.model_type, before.model_type);
  EXPECT_EQ(after.experts, before.experts);
  EXPECT_EQ(after.experts_per_token, before.experts_per_token);
  EXPECT_EQ(after.expert_intermediate, before.expert_intermediate);
  EXPECT_EQ(after.normalizes_experts, before.normalizes_experts);
  for (std::size_t i = 0; i < before.layers; ++i) EXPECT_EQ(after.window_of(i), before.window_of(i)) << i;
  const auto x = after.inverse_frequencies(), y = before.inverse_frequencies();
  ASSERT_EQ(x.size(), y.size());
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i] / y[i], 1, 1e-6) << i;
}
INSTANTIATE_TEST_SUITE_P(Models, ThereAndBack,
                         testing::Values("gqa_tied", "bias", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "glm4",
                                         "mixtral", "qwen3_moe"),
                         [](const auto& p) { return std::string(p.param); });

// int(head_dim·factor) is what transformers turns: a factor that is rounded down would lose a pair.
TEST(GgufInput, ThePartOfAHeadComesBackWhole) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("glm4"), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::f32});
  const GgufFile file(folder / "model.gguf");
  for (std::size_t turned = 2; turned <= 16; turned += 2) {
    GgufMetadata metadata = file.metadata();
    metadata["glm4.rope.dimension_count"] = static_cast<std::uint32_t>(turned);
    GgufWriter writer(folder / "other.gguf", metadata, file.tensors());
    for (const GgufTensor& t : file.tensors()) writer.write(t.name, {file.data(t).data(), t.bytes});
    writer.finish();
    EXPECT_EQ(Config::parse(config_json(folder / "other.gguf"), "config.json").turned_dim(), turned);
  }
}

// Of files without one, versions of llama.cpp take windows of another size, or none.
TEST(GgufInput, AWindowThatIsNotStatedIsNotGuessed) {
  const TemporaryFolder folder;
  copy_with_tokenizer(golden("gemma3"), folder / "model");
  (void)export_gguf(folder / "model", folder / "model.gguf", {.type = BlockType::f32});
  std::ifstream in(folder / "model.gguf", std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(in), {});
  const std::string key = "gemma3.attention.sliding_window";
  bytes.replace(bytes.find(key), key.size(), "gemma3.attention.sliding_w1ndow");
  std::ofstream(folder / "other.gguf", std::ios::binary) << bytes;
  expect_error(ErrorCode::corrupt_file, key, [&] { (void)Config::load(folder / "other.gguf"); });
}

TEST(GgufInput, QuantizingAFileOfFloatsGivesWhatItsDirectoryGives) {
  const TemporaryFolder folder;
  make_dense(kModel, folder / "fp16", DType::f16);
  (void)export_gguf(folder / "fp16", folder / "model.gguf", {.type = BlockType::f16});
  QuantizeModelOptions options;
  options.spec = QuantSpec::parse("int4-g128-sym");
  (void)quantize_model(folder / "fp16", folder / "a", options);
  const auto report = quantize_model(folder / "model.gguf", folder / "b", options);
  EXPECT_EQ(report.layers, 42u);
  EXPECT_TRUE(report.notes.empty());
  const Checkpoint a = Checkpoint::open(folder / "a"), b = Checkpoint::open(folder / "b");
  for (const auto& layer : find_architecture("llama").linear_names(3)) {
    const auto x = decode_quantized(a, layer), y = decode_quantized(b, layer);
    ASSERT_TRUE(x && y) << layer;
    EXPECT_EQ(std::memcmp(x->codes.data(), y->codes.data(), x->codes.size()), 0) << layer;
    EXPECT_EQ(std::memcmp(x->scales.data(), y->scales.data(), x->scales.size()), 0) << layer;
  }
  EXPECT_EQ(a.read_f32("model.embed_tokens.weight"), b.read_f32("model.embed_tokens.weight"));
  EXPECT_EQ(text::load_tokenizer(folder / "b")->encode("Emma"), (std::vector<std::int32_t>{'E', 'm', 'm', 'a'}));
}

TEST(GgufInput, QuantizingAQuantizedFileSaysSo) {
  const TemporaryFolder folder;
  (void)export_gguf(kModel, folder / "model.gguf", {.type = BlockType::q4_k});
  QuantizeModelOptions options;
  options.spec = QuantSpec::parse("int8");
  const auto report = quantize_model(folder / "model.gguf", folder / "out", options);
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("42 tensors of Q4_K"), std::string::npos) << report.notes[0];
  // What was quantized are the file's values, whatever the directory's were.
  const auto layer = find_architecture("llama").linear_names(2)[0];
  const BlockMatrix stored = GgufWeights(folder / "model.gguf").matrix(layer + ".weight");
  std::vector<float> row(stored.cols);
  stored.decode_row(5, row.data());
  const auto q = decode_quantized(Checkpoint::open(folder / "out"), layer);
  for (std::size_t c = 0; c < row.size(); ++c) ASSERT_NEAR(q->value(5, c), row[c], 0.01f) << c;
}

// Q4_0, Q5_0 and Q8_0 are integers with f16 scales in groups of 32: other layouts hold the same codes.
TEST(GgufInput, ExactTypesAreConvertedCodeForCode) {
  const TemporaryFolder folder;
  for (const auto& [spec, type, to] :
       {std::tuple{"int4-g32-sym", BlockType::q4_0, CheckpointLayout::gptq},
        std::tuple{"int4-g32-sym", BlockType::q4_0, CheckpointLayout::compressed_tensors},
        std::tuple{"int8-g32-sym", BlockType::q8_0, CheckpointLayout::nibble}}) {
    const std::string name = std::string(spec) + std::string(name_of(to));
    QuantizeModelOptions quantize;
    quantize.spec = QuantSpec::parse(spec);
    (void)quantize_model(kModel, folder / ("source" + name), quantize);
    (void)export_gguf(folder / ("source" + name), folder / (name + ".gguf"), {.type = type});
    ConvertModelOptions options;
    options.to = to;
    const auto report = convert_model(folder / (name + ".gguf"), folder / name, options);
    EXPECT_EQ(report.layers, 42u);
    EXPECT_TRUE(report.losses.empty());
    const Checkpoint before = Checkpoint::open(folder / ("source" + name)), after = Checkpoint::open(folder / name);
    for (const auto& layer : find_architecture("llama").linear_names(4)) {
      const auto x = decode_quantized(before, layer), y = decode_quantized(after, layer);
      ASSERT_TRUE(x && y) << layer;
      for (std::size_t r = 0; r < x->rows; r += 7)
        for (std::size_t c = 0; c < x->cols; ++c) ASSERT_EQ(x->value(r, c), y->value(r, c)) << layer;
    }
    EXPECT_GT(engine::Model::load(folder / name).bits_per_weight(), 4);
  }
}

TEST(GgufInput, TypesWithoutAnExactFormAreRefusedByConvertWithAWayOut) {
  const TemporaryFolder folder;
  (void)export_gguf(kModel, folder / "model.gguf", {.type = BlockType::q4_k});
  ConvertModelOptions options;
  options.to = CheckpointLayout::gptq;
  const auto convert = [&] { (void)convert_model(folder / "model.gguf", folder / "out", options); };
  expect_error(ErrorCode::unsupported, "42 tensors of Q4_K", convert);
  expect_error(ErrorCode::unsupported, "--to bf16", convert);
  EXPECT_FALSE(fs::exists(folder / "out"));
  make_dense(folder / "model.gguf", folder / "bf16", DType::bf16);
  EXPECT_EQ(engine::Model::load(folder / "bf16").bits_per_weight(), 16);
}

/// The embedded model's file with a tensor more.
void write_with(const fs::path& from, const fs::path& to, const std::string& name) {
  const GgufFile file(from);
  std::vector<GgufTensor> tensors = file.tensors();
  tensors.push_back({name, BlockType::f32, {4}, 0, 0});
  GgufWriter writer(to, file.metadata(), tensors);
  for (const GgufTensor& t : file.tensors()) {
    const Buffer bytes = file.data(t);
    writer.write(t.name, {bytes.data(), bytes.size()});
  }
  const float zeros[4] = {};
  writer.write(name, std::as_bytes(std::span(zeros)));
  writer.finish();
}

TEST(GgufInput, ATensorWithoutAPlaceIsNotDropped) {
  const TemporaryFolder folder;
  (void)export_gguf(kModel, folder / "model.gguf");
  for (const char* name : {"blk.0.attn_q_norm.weight", "blk.17.attn_norm.weight", "mtp.weight"}) {
    write_with(folder / "model.gguf", folder / "more.gguf", name);
    expect_error(ErrorCode::unsupported, std::string("tensor '") + name + "' has no place",
                 [&] { make_dense(folder / "more.gguf", folder / "out", DType::f32); });
  }
}

class TokenizerFiles : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerFiles, SayWhatTheMetadataDid) {
  const TemporaryFolder folder;
  text::ModelTokens config;
  config.vocab = 3000;
  auto metadata = text::tokenizer_metadata(golden(GetParam()), config);
  metadata["tokenizer.chat_template"] = std::string("{{ messages }}");
  GgufWriter(folder / "tokenizer.gguf", metadata, {}).finish();
  fs::create_directories(folder / "out");
  EXPECT_TRUE(write_side_files(folder / "tokenizer.gguf", folder / "out").notes.empty());
  EXPECT_EQ(Json::parse(std::ifstream(folder / "out" / "tokenizer_config.json"))["chat_template"], "{{ messages }}");
  const auto tokenizer = text::load_tokenizer(folder / "out");
  for (const Json& c : Json::parse(std::ifstream(golden(GetParam()) / "cases.json"))) {
    const auto text = c["text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text, false), c["ids"].get<std::vector<std::int32_t>>()) << c["text"];
    EXPECT_EQ(tokenizer->encode(text), c["ids_with_special"].get<std::vector<std::int32_t>>()) << c["text"];
  }
}
INSTANTIATE_TEST_SUITE_P(Tokenizers, TokenizerFiles, testing::Values("gpt2", "llama3", "sentencepiece"),
                         [](const auto& p) { return std::string(p.param); });

TEST(GgufInput, ATokenizerWithoutAWordIsANoteNotAFailure) {
  const TemporaryFolder folder;
  GgufWriter(folder / "t.gguf", {{"tokenizer.ggml.model", std::string("bert")}}, {}).finish();
  fs::create_directories(folder / "out");
  const auto notes = write_side_files(folder / "t.gguf", folder / "out").notes;
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("'bert'"), std::string::npos) << notes[0];
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
