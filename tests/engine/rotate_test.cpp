// A rotated model is the same model: by the engine, on the small models of tests/golden and on random ones.
#include "nibble/model/rotate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/engine/model.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/embedded_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden_model.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

namespace fs = std::filesystem;
using namespace model;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

std::vector<float> logits(const fs::path& path) {
  const Model model = Model::load(path);
  std::vector<std::int32_t> text;
  for (std::size_t i = 0; i < 24; ++i) text.push_back(static_cast<std::int32_t>((i * i * 7 + i) % 96));
  KvCache cache(model.config(), text.size());
  return model.forward(text, cache);
}

/// The largest difference, of the largest logit.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    size = std::max(size, std::abs(static_cast<double>(b[i])));
  }
  return most / size;
}

nlohmann::json json_of(const fs::path& path) { return nlohmann::json::parse(std::ifstream(path)); }

RotateOptions options(bool fold, bool r1, bool r2, std::uint64_t seed = 1) {
  RotateOptions o;
  o.fold_norms = fold, o.r1 = r1, o.r2 = r2, o.seed = seed;
  return o;
}

class EveryArchitecture : public testing::TestWithParam<const char*> {
 protected:
  [[nodiscard]] bool has_post_norms() const {
    const Architecture& a = Config::load(from_).architecture();
    return a.has(Role::attention_post_norm) || a.has(Role::ffn_post_norm);
  }
  const fs::path from_ = fs::path(NIBBLE_TEST_DATA "/golden") / GetParam();
  TemporaryFolder folder_;
};

TEST_P(EveryArchitecture, ComputesTheSame) {
  const auto before = logits(from_);
  std::vector<RotateOptions> ways{options(true, false, false), options(false, false, true), options(true, false, true)};
  if (!has_post_norms()) ways.insert(ways.end(), {options(true, true, false), options(true, true, true)});
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const fs::path to = folder_ / std::to_string(i);
    const RotateReport report = rotate_model(from_, to, ways[i]);
    EXPECT_LT(difference(logits(to), before), 1e-5) << i;
    EXPECT_EQ(report.norms > 0, ways[i].fold_norms);
    EXPECT_EQ(report.rotated > 0, ways[i].r1 || ways[i].r2);
  }
}

// The weights do change, all that the plan names: a rotation that did nothing would pass the test of logits.
TEST_P(EveryArchitecture, ChangesWhatItShould) {
  const bool r1 = !has_post_norms();
  (void)rotate_model(from_, folder_ / "out", options(true, r1, true));
  const Config config = Config::load(folder_ / "out");
  EXPECT_FALSE(config.tied_embeddings);
  const Checkpoint in = Checkpoint::open(from_), out = Checkpoint::open(folder_ / "out");
  EXPECT_TRUE(out.contains("lm_head.weight"));
  const float neutral = config.architecture().norm_plus_one ? 0 : 1;
  for (const BlockModule& m : config.architecture().modules(0, config.experts)) {
    const auto after = out.read_f32(m.name + ".weight");
    const bool folded = m->role == Role::attention_norm || m->role == Role::ffn_norm;
    if (folded) EXPECT_EQ(after, std::vector<float>(after.size(), neutral)) << m.name;
    else EXPECT_EQ(after == in.read_f32(m.name + ".weight"), m->is_norm() || (!r1 && m->role == Role::down)) << m.name;
  }
  EXPECT_EQ(out.read_f32("model.embed_tokens.weight") != in.read_f32("model.embed_tokens.weight"), r1);
}

INSTANTIATE_TEST_SUITE_P(Golden, EveryArchitecture,
                         testing::Values("gqa_tied", "bias", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "glm4",
                                         "mixtral", "qwen3_moe"));

TEST(Rotate, NormsBetweenAnOutputAndTheStreamStandInTheWayOfR1) {
  const TemporaryFolder folder;
  for (const char* name : {"gemma2", "gemma3", "glm4"}) {
    const fs::path from = fs::path(NIBBLE_TEST_DATA "/golden") / name;
    expect_error(ErrorCode::unsupported, "R1 of the architecture '" + Config::load(from).model_type,
                 [&] { (void)rotate_model(from, folder / "out", options(true, true, true)); });
    EXPECT_FALSE(fs::exists(folder / "out"));
  }
}

/// A llama with every bias that there can be, an odd core (36 = 4·9) and three query heads to a value.
std::vector<NamedTensor> biased_tensors(const testing_support::TinyModel& m) {
  auto tensors = testing_support::tensors_of(m);
  const auto linears = tensors;
  unsigned seed = 500;
  for (const NamedTensor& t : linears)
    if (testing_support::is_linear(t))
      tensors.push_back(
          testing_support::random_tensor(testing_support::layer_name(t) + ".bias", m.type, {t.shape[0]}, ++seed));
  return tensors;
}

class Llama : public testing::Test {
 protected:
  Llama() {
    tiny_.hidden = 72, tiny_.heads = 6, tiny_.kv_heads = 2, tiny_.type = DType::f32;
    config_ = testing_support::config_of(tiny_);
    config_["attention_bias"] = true;
    config_["mlp_bias"] = true;
    config_["head_dim"] = 12;
  }
  fs::path write(const std::vector<NamedTensor>& tensors) const {
    return testing_support::write_model(folder_ / "model", config_, tensors);
  }
  testing_support::TinyModel tiny_;
  nlohmann::json config_;
  TemporaryFolder folder_;
};

TEST_F(Llama, WithAllBiasesComputesTheSame) {
  const fs::path from = write(biased_tensors(tiny_));
  const RotateReport report = rotate_model(from, folder_ / "out", options(true, true, true));
  EXPECT_EQ(report.r1_order, 72u);
  EXPECT_EQ(report.r2_order, 12u);
  EXPECT_EQ(report.norms, 5u);
  EXPECT_EQ(report.rotated, 2u + 2 * 7);
  EXPECT_FALSE(report.untied);
  EXPECT_LT(difference(logits(folder_ / "out"), logits(from)), 1e-5);
}

TEST_F(Llama, ThreadsChangeNothingAndSeedsDo) {
  const fs::path from = write(biased_tensors(tiny_));
  const auto values = [&](const char* name, RotateOptions o) {
    (void)rotate_model(from, folder_ / name, o);
    const Checkpoint out = Checkpoint::open(folder_ / name);
    std::vector<std::vector<float>> all;
    for (const TensorInfo& t : out.tensors()) all.push_back(out.read_f32(t.name));
    return all;
  };
  RotateOptions serial = options(true, true, true);
  serial.executor = &serial_executor();
  const auto first = values("a", options(true, true, true));
  EXPECT_EQ(first, values("b", serial));
  EXPECT_NE(first, values("c", options(true, true, true, 2)));
}

TEST_F(Llama, OfSizesWithoutAnOrderIsAnErrorOrOfBlocks) {
  tiny_.hidden = 92, tiny_.heads = 2, tiny_.kv_heads = 1;  // 92 = 4·23, and head_dim 46 = 2·23
  config_ = testing_support::config_of(tiny_);
  const fs::path from = write(testing_support::tensors_of(tiny_));
  RotateOptions o = options(true, true, true);
  expect_error(ErrorCode::unsupported, "hidden_size is 92", [&] { (void)rotate_model(from, folder_ / "out", o); });
  o.r1 = false;
  expect_error(ErrorCode::unsupported, "head_dim is 46", [&] { (void)rotate_model(from, folder_ / "out", o); });
  o.r1 = o.block = true;
  const RotateReport report = rotate_model(from, folder_ / "out", o);
  EXPECT_EQ(report.r1_order, 4u);
  EXPECT_EQ(report.r2_order, 2u);
  EXPECT_EQ(report.notes.size(), 2u);
  EXPECT_LT(difference(logits(folder_ / "out"), logits(from)), 1e-5);
}

TEST_F(Llama, TiedHeadsBecomeTheirOwn) {
  tiny_.tied = true;
  config_ = testing_support::config_of(tiny_);
  const fs::path from = write(testing_support::tensors_of(tiny_));
  const RotateReport report = rotate_model(from, folder_ / "out", options(true, true, true));
  EXPECT_TRUE(report.untied);
  EXPECT_EQ(json_of(folder_ / "out" / "config.json")["tie_word_embeddings"], false);
  EXPECT_EQ(json_of(folder_ / "out" / "config.json")["torch_dtype"], "float32");
  EXPECT_LT(difference(logits(folder_ / "out"), logits(from)), 1e-5);
  // R2 alone leaves the two one.
  EXPECT_FALSE(rotate_model(from, folder_ / "r2", options(false, false, true)).untied);
  EXPECT_FALSE(Checkpoint::open(folder_ / "r2").contains("lm_head.weight"));
  EXPECT_EQ(json_of(folder_ / "r2" / "config.json")["tie_word_embeddings"], true);
  EXPECT_LT(difference(logits(folder_ / "r2"), logits(from)), 1e-5);
}

// A head that is stored beside the embedding it is tied to.
TEST_F(Llama, TiedHeadsThatAreStoredBecomeTheirOwn) {
  auto tensors = testing_support::tensors_of(tiny_);
  tiny_.tied = true;
  config_ = testing_support::config_of(tiny_);
  testing_support::tensor_named(tensors, "lm_head.weight").bytes =
      testing_support::tensor_named(tensors, "model.embed_tokens.weight").bytes;
  const fs::path from = write(tensors);
  EXPECT_TRUE(rotate_model(from, folder_ / "out", options(true, true, true)).untied);
  EXPECT_LT(difference(logits(folder_ / "out"), logits(from)), 1e-5);
}

TEST_F(Llama, OtherTypesAreRoundedOnce) {
  const fs::path from = write(biased_tensors(tiny_));
  RotateOptions o = options(true, true, true);
  (void)rotate_model(from, folder_ / "f32", o);
  const Checkpoint exact = Checkpoint::open(folder_ / "f32");
  for (const DType type : {DType::f16, DType::bf16}) {
    o.type = type;
    const fs::path to = folder_ / std::string(name_of(type));
    (void)rotate_model(from, to, o);
    const Checkpoint out = Checkpoint::open(to);
    const double step = type == DType::f16 ? 0x1p-11 : 0x1p-8, least = type == DType::f16 ? 0x1p-25 : 0;
    for (const TensorInfo& t : out.tensors()) {
      EXPECT_EQ(t.type, type);
      const auto a = out.read_f32(t.name), b = exact.read_f32(t.name);
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
        ASSERT_LE(difference, 1.0001 * std::max(step * std::abs(static_cast<double>(b[i])), least)) << t.name << i;
      }
    }
  }
  o.type = DType::i8;
  expect_error(ErrorCode::invalid_argument, "I8", [&] { (void)rotate_model(from, folder_ / "i8", o); });
}

TEST_F(Llama, WhatWouldChangeTheModelIsRefused) {
  const fs::path out = folder_ / "out";
  const auto tensors = biased_tensors(tiny_);
  const fs::path from = write(tensors);
  expect_error(ErrorCode::invalid_argument, "R1 needs the norms folded",
               [&] { (void)rotate_model(from, out, options(false, true, true)); });
  expect_error(ErrorCode::invalid_argument, "nothing is left to do",
               [&] { (void)rotate_model(from, out, options(false, false, false)); });
  auto more = tensors;
  more.push_back(testing_support::random_tensor("model.norm.bias", DType::f32, {72}, 9));
  expect_error(ErrorCode::unsupported, "'model.norm.bias'",
               [&] { (void)rotate_model(write(more), out, options(true, true, true)); });
  more.back().name = "model.layers.0.self_attn.rotary_emb.inv_freq";  // follows from the configuration
  (void)rotate_model(write(more), folder_ / "kept", options(true, true, true));
  auto bad = tensors;
  testing_support::tensor_named(bad, "model.layers.1.self_attn.o_proj.weight").bytes.writable<float>()[75] = NAN;
  expect_error(ErrorCode::non_finite, "'model.layers.1.self_attn.o_proj.weight'",
               [&] { (void)rotate_model(write(bad), out, options(true, true, true)); });
  bad = tensors;
  testing_support::tensor_named(bad, "model.norm.weight").bytes.writable<float>()[7] = NAN;
  expect_error(ErrorCode::non_finite, "column 7",
               [&] { (void)rotate_model(write(bad), out, options(true, false, false)); });
  bad = tensors;
  testing_support::tensor_named(bad, "model.layers.0.input_layernorm.weight").shape = {8, 9};
  expect_error(ErrorCode::shape_mismatch, "'model.layers.0.input_layernorm.weight' is 8 × 9",
               [&] { (void)rotate_model(write(bad), out, options(true, true, true)); });
  config_["model_type"] = "opt";
  expect_error(ErrorCode::unsupported, "model_type 'opt'",
               [&] { (void)rotate_model(write(tensors), out, options(true, true, true)); });
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Llama, QuantizedModelsAreRefused) {
  const fs::path from = write(biased_tensors(tiny_));
  QuantizeModelOptions o;
  o.spec = QuantSpec::parse("int4-g12-sym");
  (void)quantize_model(from, folder_ / "codes", o);
  expect_error(ErrorCode::invalid_argument, "is quantized already",
               [&] { (void)rotate_model(folder_ / "codes", folder_ / "out", options(true, true, true)); });
}

// Gemma 2's norms are stored as 1 + w in GGUF files, and Llama's rows of query and key in another order.
TEST(Rotate, GgufFilesAreModelsLikeOthers) {
  const TemporaryFolder folder;
  for (const std::string name : {"gqa_tied", "gemma2", "phi3"}) {
    const fs::path from = fs::path(NIBBLE_TEST_DATA "/golden") / name, gguf = folder / (name + ".gguf");
    testing_support::copy_with_tokenizer(from, folder / (name + "-in"));
    (void)export_gguf(folder / (name + "-in"), gguf, {.type = BlockType::f32});
    const bool r1 = name != "gemma2";
    const RotateReport report = rotate_model(gguf, folder / name, options(true, r1, true));
    EXPECT_EQ(report.r1_order != 0, r1);
    EXPECT_LT(difference(logits(folder / name), logits(from)), 1e-5) << name;
  }
}

TEST(Rotate, WhatGgufFilesHoldInBlocksIsDecodedAndSaidSo) {
  const TemporaryFolder folder;
  (void)export_gguf(testing_support::kEmbeddedModel, folder / "q8.gguf", {.type = BlockType::q8_0});
  const RotateReport report = rotate_model(folder / "q8.gguf", folder / "out", options(true, true, true));
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("Q8_0"), std::string::npos) << report.notes[0];
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
