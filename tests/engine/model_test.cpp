#include "nibble/engine/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/core/error.h"
#include "nibble/engine/evaluate.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

using model::Config;
using model::Role;

class Golden : public testing::TestWithParam<const char*> {
 protected:
  Golden()
      : folder_(std::string(NIBBLE_TEST_DATA "/golden/") + GetParam()),
        golden_(Checkpoint::open(folder_ + "/golden.safetensors")) {
    const Buffer raw = golden_.data("input_ids");
    for (std::size_t i = 0; i < raw.size() / 8; ++i) {
      std::int64_t id;
      std::memcpy(&id, raw.data() + 8 * i, 8);
      ids_.push_back(static_cast<std::int32_t>(id));
    }
    expected_ = golden_.read_f32("logits");
  }
  void expect_logits(const std::vector<float>& logits) const {
    ASSERT_EQ(logits.size(), expected_.size());
    for (std::size_t i = 0; i < logits.size(); ++i)
      ASSERT_NEAR(logits[i], expected_[i], 1e-4f * std::max(1.0f, std::abs(expected_[i]))) << "logit " << i;
  }
  std::string folder_;
  Checkpoint golden_;
  std::vector<std::int32_t> ids_;
  std::vector<float> expected_;
};

TEST_P(Golden, LogitsAgreeWithTransformers) {
  const Model model = Model::load(folder_);
  KvCache cache(model.config(), ids_.size());
  expect_logits(model.forward(ids_, cache));
}

TEST_P(Golden, TokenByTokenGivesTheSameLogits) {
  const Model model = Model::load(folder_);
  KvCache cache(model.config(), ids_.size());
  std::vector<float> logits;
  for (std::int32_t id : ids_) {
    const auto row = model.forward(std::span(&id, 1), cache);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  expect_logits(logits);
}

TEST_P(Golden, LogitsDependNeitherOnTheThreadsNorOnTheTokensBehind) {
  LoadOptions serial;
  serial.executor = &serial_executor();
  const Model one = Model::load(folder_, serial), many = Model::load(folder_);
  KvCache a(one.config(), ids_.size()), b(many.config(), ids_.size());
  const auto all = many.forward(ids_, b);
  EXPECT_EQ(one.forward(ids_, a), all);
  for (const std::size_t first : {1u, 5u, 17u}) {  // the experts' products are of other numbers of tokens then
    KvCache c(many.config(), ids_.size());
    const auto some = many.forward(std::span(ids_).first(first), c);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << first;
  }
}

TEST_P(Golden, TheHookSeesEveryLinearLayer) {
  Model model = Model::load(folder_);
  std::size_t calls = 0;
  model.set_linear_hook([&](std::string_view name, MatrixView<const float> input) {
    ++calls;
    EXPECT_EQ(input.rows, ids_.size());
    if (name.ends_with("down_proj")) {
      const Config& c = model.config();
      EXPECT_EQ(input.cols, c.elements(c.architecture().module(Role::down).in));
    }
  });
  KvCache cache(model.config(), ids_.size());
  (void)model.forward(ids_, cache);
  const Config& c = model.config();
  const std::size_t block = c.architecture().linear_names(0, c.experts).size() + (c.experts > 0 ? 1 : 0);  // the router
  EXPECT_EQ(calls, c.layers * block + 1);
}

INSTANTIATE_TEST_SUITE_P(Transformers, Golden,
                         testing::Values("gqa_tied", "bias", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "glm4",
                                         "mixtral", "qwen3_moe"),
                         [](const auto& p) { return std::string(p.param); });

/// golden/variants.json: the golden models with one key of their configuration changed, by transformers.
TEST(GoldenVariants, EveryKeyMeansWhatItMeansToTransformers) {
  using Json = nlohmann::json;
  const std::string golden = NIBBLE_TEST_DATA "/golden/";
  const Json cases = Json::parse(std::ifstream(golden + "variants.json"));
  ASSERT_GE(cases.size(), 57u);
  for (const auto& [name, c] : cases.items()) {
    const testing_support::TemporaryFolder folder;
    const std::string base = golden + c["base"].get<std::string>();
    Json config = Json::parse(std::ifstream(base + "/config.json"));
    config.update(c["change"]);
    for (const Json& key : c["without"]) config.erase(key.get<std::string>());
    std::ofstream(folder / "config.json") << config;
    std::filesystem::copy_file(base + "/model.safetensors", folder / "model.safetensors");
    const Buffer raw = Checkpoint::open(base + "/golden.safetensors").data("input_ids");
    const auto* begin = raw.as<std::int64_t>();
    const std::vector<std::int32_t> ids(begin, begin + raw.size() / 8);
    const Model model = Model::load(folder.path());
    KvCache cache(model.config(), ids.size());
    const auto logits = model.forward(ids, cache, true);
    const auto expected = c["logits"].get<std::vector<float>>();
    ASSERT_EQ(logits.size(), expected.size()) << name;
    for (std::size_t i = 0; i < logits.size(); ++i)
      ASSERT_NEAR(logits[i], expected[i], 1e-4f * std::max(1.0f, std::abs(expected[i]))) << name << ": logit " << i;
  }
}

std::vector<std::int32_t> evaluation_ids(std::size_t count) {
  std::ifstream in(NIBBLE_EXAMPLE_DATA "/evaluation.txt", std::ios::binary);
  std::vector<std::int32_t> ids;
  for (char c; ids.size() < count && in.get(c);) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

TEST(EmbeddedModel, PredictsTheHeldOutNovel) {
  const Model model = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m");
  const auto ids = evaluation_ids(8192);
  const Evaluation e = evaluate(model, ids);
  EXPECT_EQ(e.predicted, 8192u - 16u);  // sixteen windows, the first token of each without a prediction
  EXPECT_LT(std::log2(e.perplexity()), 2.1);
}

TEST(EmbeddedModel, LogitsDoNotDependOnTheThreads) {
  const auto ids = evaluation_ids(200);
  LoadOptions serial;
  serial.executor = &serial_executor();
  const Model one = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m", serial),
              many = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m");
  KvCache a(one.config(), 200), b(many.config(), 200);
  EXPECT_EQ(one.forward(ids, a), many.forward(ids, b));
}

TEST(Model, HoldsATiedEmbeddingOnce) {
  const std::string folder = NIBBLE_TEST_DATA "/golden/gqa_tied";
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const std::size_t embedding = checkpoint.info("model.embed_tokens.weight").bytes;
  const Model model = Model::load(folder);
  ASSERT_TRUE(model.config().tied_embeddings);
  std::size_t all = 0;
  for (const TensorInfo& t : checkpoint.tensors()) all += t.bytes;
  EXPECT_LT(model.weight_bytes(), all + embedding);  // panels of 32 rows are padded, by less than that

  // Quantized with the head: the vectors of the tokens are rows of the same matrix, decoded.
  LoadOptions load;
  load.quantize = QuantSpec::parse("int8");
  load.quantize_head = true;
  const Model quantized = Model::load(folder, load);
  EXPECT_LT(quantized.weight_bytes(), model.weight_bytes() / 2);
  const std::int32_t ids[] = {3, 1, 4, 1, 5};
  KvCache a(model.config(), 5), b(model.config(), 5);
  const auto exact = model.forward(ids, a), rounded = quantized.forward(ids, b);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(exact[i] - rounded[i], 2);
    size += std::pow(exact[i], 2);
  }
  EXPECT_GT(error, 0);
  EXPECT_LT(error, 1e-2 * size);  // rows of another token would make it about 2
}

TEST(Model, RefusesWhatItCannotServe) {
  const Model model = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m");
  KvCache cache(model.config(), 4);
  const std::int32_t bad[] = {1, 256}, many[] = {1, 2, 3, 4, 5};
  EXPECT_THROW((void)model.forward(bad, cache), Error);
  EXPECT_THROW((void)model.forward(many, cache), Error);
  EXPECT_THROW((void)model.forward({}, cache), Error);
  EXPECT_THROW(KvCache(model.config(), ~std::size_t{0} / 8), Error);
  EXPECT_EQ(cache.size(), 0u);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
