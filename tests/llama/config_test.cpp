#include "nibble/llama/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"

namespace nibble::llama {
namespace {

using Json = nlohmann::json;
using testing_support::expect_error;

Json llama() {
  return {{"model_type", "llama"},
          {"hidden_size", 4096},
          {"intermediate_size", 14336},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 8},
          {"vocab_size", 128256},
          {"max_position_embeddings", 131072},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"tie_word_embeddings", false},
          {"bos_token_id", 128000},
          {"eos_token_id", {128001, 128008, 128009}}};
}
Config parse(const Json& j) { return Config::parse(j.dump(), "config.json"); }

TEST(Config, ReadsLlama3) {
  Json j = llama();
  j["rope_scaling"] = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const Config c = parse(j);
  EXPECT_EQ(c.head_dim, 128u);
  EXPECT_EQ(c.kv_heads, 8u);
  EXPECT_EQ(c.context, 131072u);
  EXPECT_EQ(c.rope_theta, 500000);
  ASSERT_TRUE(c.rope_scaling);
  EXPECT_EQ(c.rope_scaling->kind, RopeScaling::Kind::llama3);
  EXPECT_EQ(c.rope_scaling->factor, 8);
  EXPECT_EQ(c.bos, 128000);
  EXPECT_EQ(c.eos, (std::vector<std::int32_t>{128001, 128008, 128009}));
}

TEST(Config, FillsInWhatOlderFilesLeaveOut) {
  Json j = llama();
  for (const char* field : {"num_key_value_heads", "rope_theta", "rms_norm_eps", "tie_word_embeddings", "bos_token_id"})
    j.erase(field);
  j["eos_token_id"] = 2;
  const Config c = parse(j);
  EXPECT_EQ(c.kv_heads, 32u);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rms_eps, 1e-6);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_FALSE(c.bos);
  EXPECT_EQ(c.eos, (std::vector<std::int32_t>{2}));
}

TEST(Config, ReadsTheNewerFormOfRope) {
  Json j = llama();
  j.erase("rope_theta");
  j["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 1e6}};
  const Config c = parse(j);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(c.rope_scaling->kind, RopeScaling::Kind::linear);
}

TEST(Config, AWindowCountsOnlyWhereTheModelUsesIt) {
  Json mistral = llama();
  mistral["model_type"] = "mistral";
  mistral["sliding_window"] = 4096;
  EXPECT_EQ(parse(mistral).sliding_window, 4096u);
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(parse(mistral).sliding_window, 0u);
  Json qwen = llama();
  qwen["model_type"] = "qwen2";
  qwen["sliding_window"] = 4096;
  EXPECT_EQ(parse(qwen).sliding_window, 0u);
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(parse(qwen).sliding_window, 4096u);
}

TEST(Config, RefusesWithTheFieldAndTheValue) {
  const auto refuse = [](const char* field, const Json& value, ErrorCode code, const std::string& says) {
    Json j = llama();
    j[field] = value;
    expect_error(code, says, [&] { (void)parse(j); });
  };
  const auto corrupt = ErrorCode::corrupt_file, unsupported = ErrorCode::unsupported;
  for (const Json& bad : {Json(0), Json(-1), Json(1.5), Json("4096"), Json(std::uint64_t{1} << 40), Json::array()})
    refuse("hidden_size", bad, corrupt, "\"hidden_size\" is " + bad.dump());
  refuse("hidden_size", nullptr, corrupt, "\"hidden_size\" is missing");
  refuse("num_key_value_heads", 7, corrupt, "\"num_key_value_heads\" must divide");
  refuse("num_attention_heads", 24, corrupt, "\"num_attention_heads\" must divide hidden_size");
  refuse("head_dim", 65, corrupt, "\"head_dim\" must be even");
  refuse("rms_norm_eps", -1, corrupt, "\"rms_norm_eps\" is -1");
  refuse("eos_token_id", {1, -2}, corrupt, "\"eos_token_id\"");
  refuse("tie_word_embeddings", "no", corrupt, "\"tie_word_embeddings\"");
  refuse("rope_scaling", 3, corrupt, "\"rope_scaling\" is not an object");
  refuse("rope_scaling", Json{{"type", "yarn"}}, unsupported, "rope_type 'yarn'");
  refuse("model_type", "gpt2", unsupported, "model_type 'gpt2'");
  refuse("hidden_act", "gelu", unsupported, "hidden_act 'gelu'");
  expect_error(corrupt, "is not a JSON object", [] { (void)Config::parse("[1]", "config.json"); });
  expect_error(corrupt, "is not JSON: at byte 5", [] { (void)Config::parse("{\"a\":", "config.json"); });
}

}  // namespace
}  // namespace nibble::llama
