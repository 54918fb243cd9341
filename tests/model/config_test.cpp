#include "nibble/model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::model {
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

std::vector<std::size_t> windows(const Config& c) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < c.layers; ++i) out.push_back(c.window_of(i));
  return out;
}

TEST(Config, EachLayerHasItsOwnWindow) {
  Json qwen = llama();
  qwen["model_type"] = "qwen2";
  qwen["num_hidden_layers"] = 3;
  qwen["use_sliding_window"] = true;
  qwen["sliding_window"] = 32;
  qwen["max_window_layers"] = 1;
  using Windows = std::vector<std::size_t>;
  EXPECT_EQ(windows(parse(qwen)), (Windows{0, 32, 32}));
  EXPECT_TRUE(parse(qwen).windows_differ());
  qwen["max_window_layers"] = 0;
  EXPECT_EQ(windows(parse(qwen)), (Windows{32, 32, 32}));
  EXPECT_FALSE(parse(qwen).windows_differ());
  qwen["max_window_layers"] = 7;
  EXPECT_EQ(windows(parse(qwen)), (Windows{0, 0, 0}));
  EXPECT_FALSE(parse(qwen).windows_differ());
  qwen["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(windows(parse(qwen)), (Windows{32, 0, 32}));
  Json mistral = qwen;
  mistral["model_type"] = "mistral";
  EXPECT_EQ(windows(parse(mistral)), (Windows{32, 0, 32}));
  mistral.erase("layer_types");
  EXPECT_EQ(windows(parse(mistral)), (Windows{32, 32, 32}));
  mistral.erase("sliding_window");
  EXPECT_EQ(windows(parse(mistral)), (Windows{4096, 4096, 4096}));  // what Mistral 7B had
  Json plain = llama();
  plain["num_hidden_layers"] = 3;
  plain["sliding_window"] = 32;
  EXPECT_EQ(windows(parse(plain)), (Windows{0, 0, 0}));
  ASSERT_EQ(parse(plain).notes.size(), 1u);
  EXPECT_NE(parse(plain).notes[0].find("\"sliding_window\" is 32"), std::string::npos);
}

TEST(Config, SaysThatActivationsAreNotRounded) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    Json j = llama();
    j[key] = {{"quant_method", "compressed-tensors"},
              {"config_groups", {{"group_0", {{"weights", {{"num_bits", 8}}}, {"input_activations", nullptr}}}}}};
    EXPECT_TRUE(parse(j).notes.empty());
    j[key]["config_groups"]["group_0"]["input_activations"] = {{"num_bits", 8}, {"dynamic", true}};
    ASSERT_EQ(parse(j).notes.size(), 1u);
    EXPECT_NE(parse(j).notes[0].find("\"input_activations\""), std::string::npos);
    for (const Json& strange :
         {Json(7), Json::array(), Json{{"config_groups", 7}}, Json{{"config_groups", {{"g", 7}}}}}) {
      j[key] = strange;
      EXPECT_TRUE(parse(j).notes.empty()) << "refused, if at all, where it is read";
    }
  }
}

TEST(Config, RefusesWindowsThatContradict) {
  Json qwen = llama();
  qwen["model_type"] = "qwen2";
  qwen["num_hidden_layers"] = 2;
  qwen["layer_types"] = {"full_attention", "sliding_attention"};
  expect_error(ErrorCode::corrupt_file, "\"layer_types\" has windows", [&] { (void)parse(qwen); });
  qwen["layer_types"] = {"full_attention"};
  expect_error(ErrorCode::corrupt_file, "must be a list of 2", [&] { (void)parse(qwen); });
  qwen["layer_types"] = {"full_attention", "chunked_attention"};
  expect_error(ErrorCode::unsupported, "chunked_attention", [&] { (void)parse(qwen); });
  qwen["model_type"] = "llama";
  qwen["layer_types"] = {"full_attention", "sliding_attention"};
  expect_error(ErrorCode::unsupported, "\"layer_types\" has windows", [&] { (void)parse(qwen); });
  qwen["model_type"] = "mistral";
  qwen.erase("layer_types");
  qwen["sliding_window"] = 32;
  qwen["use_sliding_window"] = false;
  expect_error(ErrorCode::corrupt_file, "\"use_sliding_window\" is false", [&] { (void)parse(qwen); });
}

TEST(Config, RopeScalingHoldsBesideRopeParameters) {
  Json j = llama();
  j["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_EQ(parse(j).rope_scaling->factor, 4);
  j["rope_parameters"]["rope_theta"] = 10000.0;
  expect_error(ErrorCode::corrupt_file, "disagree about \"rope_theta\"", [&] { (void)parse(j); });
}

TEST(Config, Llama3ScalingIsGuessedNowhere) {
  Json j = llama();
  j["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  EXPECT_EQ(parse(j).rope_scaling->original_context, 131072);  // the context, as it was not stretched
  j["original_max_position_embeddings"] = 4096;
  EXPECT_EQ(parse(j).rope_scaling->original_context, 4096);
  for (const char* key : {"factor", "low_freq_factor", "high_freq_factor"}) {
    Json without = j;
    without["rope_scaling"].erase(key);
    expect_error(ErrorCode::corrupt_file, std::string("\"") + key + "\" is missing", [&] { (void)parse(without); });
  }
  j["rope_scaling"] = {{"rope_type", "linear"}};
  expect_error(ErrorCode::corrupt_file, "\"factor\" is missing", [&] { (void)parse(j); });
}

// Keys of other models: with the value that changes nothing they may stay, with another they are refused.
TEST(Config, RefusesKeysThatItDoesNotHonour) {
  const auto with = [](const std::string& key, const Json& value) {
    Json j = llama();
    j[key] = value;
    return j;
  };
  const std::vector<std::pair<std::string, Json>> neutral{{"partial_rotary_factor", 1.0},
                                                          {"clip_qkv", nullptr},
                                                          {"embedding_multiplier", 1},
                                                          {"logits_scaling", 1.0},
                                                          {"attn_logit_softcapping", 0},
                                                          {"num_local_experts", 0},
                                                          {"is_causal", true},
                                                          {"qk_layernorm", false},
                                                          {"hidden_activation", "silu"},
                                                          {"no_rope_layers", Json::array()},
                                                          {"pretraining_tp", 4},
                                                          {"my_own_key", 7}};
  for (const auto& [key, value] : neutral) EXPECT_NO_THROW((void)parse(with(key, value))) << key;
  const std::vector<std::pair<std::string, Json>> others{{"partial_rotary_factor", 0.5},
                                                         {"clip_qkv", 8.0},
                                                         {"embedding_multiplier", 12.0},
                                                         {"logits_scaling", 8},
                                                         {"attn_logit_softcapping", 50},
                                                         {"num_local_experts", 8},
                                                         {"is_causal", false},
                                                         {"qk_layernorm", true},
                                                         {"hidden_activation", "gelu"},
                                                         {"no_rope_layers", {1, 0}},
                                                         {"residual_multiplier", 0.2},
                                                         {"scale_emb", 12},
                                                         {"final_logit_softcapping", 30.0},
                                                         {"alibi", true},
                                                         {"attention_multiplier", 0.01},
                                                         {"rotary_pct", 0.25}};
  for (const auto& [key, value] : others)
    expect_error(ErrorCode::unsupported, "\"" + key + "\" is ",
                 [&, key = key, value = value] { (void)parse(with(key, value)); });
  for (const char* key : {"partial_rotary_factor", "attention_factor", "mrope_section", "full_attention"})
    expect_error(ErrorCode::unsupported, std::string("\"") + key + "\"", [&] {
      (void)parse(with("rope_parameters", {{"rope_type", "default"}, {key, {{"x", 2}}}}));
    });
}

TEST(Config, KnowsWhoHasBiases) {
  Json j = llama();
  EXPECT_EQ(parse(j).bias_of(Role::query), Bias::none);
  j["attention_bias"] = true;
  for (const Role role : {Role::query, Role::key, Role::value, Role::attention_output})
    EXPECT_EQ(parse(j).bias_of(role), Bias::needed);
  for (const Role role : {Role::gate, Role::up, Role::down}) EXPECT_EQ(parse(j).bias_of(role), Bias::none);
  j["model_type"] = "mistral";
  expect_error(ErrorCode::unsupported, "\"attention_bias\" is true", [&] { (void)parse(j); });
  j["model_type"] = "qwen2";
  EXPECT_EQ(parse(j).bias_of(Role::value), Bias::as_stored);
  EXPECT_EQ(parse(j).bias_of(Role::attention_output), Bias::none);
}

// As Qwen3-8B states it, but for what transformers fills in.
TEST(Config, ReadsQwen3) {
  Json j = llama();
  j["model_type"] = "qwen3";
  j["num_hidden_layers"] = 3;
  j["use_sliding_window"] = false;
  j["sliding_window"] = nullptr;
  j["max_window_layers"] = 36;
  for (const char* field : {"num_key_value_heads", "max_position_embeddings"}) j.erase(field);
  j["hidden_size"] = 2560;  // 32 heads of 128 all the same
  const Config c = parse(j);
  EXPECT_EQ(c.head_dim, 128u);
  EXPECT_EQ(c.kv_heads, 32u);
  EXPECT_EQ(c.context, 32768u);
  EXPECT_EQ(windows(c), (std::vector<std::size_t>{0, 0, 0}));
  EXPECT_EQ(c.architecture().model_type, "qwen3");
  j["head_dim"] = 64;
  EXPECT_EQ(parse(j).head_dim, 64u);
  j["use_sliding_window"] = true;
  j["sliding_window"] = 16;
  j["max_window_layers"] = 2;
  EXPECT_EQ(windows(parse(j)), (std::vector<std::size_t>{0, 0, 16}));
  j["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
  EXPECT_EQ(windows(parse(j)), (std::vector<std::size_t>{16, 0, 0}));
  EXPECT_EQ(parse(j).bias_of(Role::query), Bias::none);
  j["attention_bias"] = true;
  EXPECT_EQ(parse(j).bias_of(Role::query), Bias::needed);
  EXPECT_EQ(parse(j).bias_of(Role::attention_output), Bias::needed);
  j["mlp_bias"] = true;
  expect_error(ErrorCode::unsupported, "\"mlp_bias\" is true, and a qwen3 model", [&] { (void)parse(j); });
}

Json gemma(const char* type) {
  Json j = llama();
  j["model_type"] = type;
  j["num_hidden_layers"] = 7;
  for (const char* field : {"hidden_act", "num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings"})
    j.erase(field);
  return j;
}

// What transformers fills in.
TEST(Config, ReadsGemma2) {
  const Config c = parse(gemma("gemma2"));
  EXPECT_EQ(c.head_dim, 256u);
  EXPECT_EQ(c.kv_heads, 4u);
  EXPECT_EQ(c.query_pre_attn_scalar, 256);
  EXPECT_EQ(c.attention_cap, 50);
  EXPECT_EQ(c.logit_cap, 30);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_EQ(windows(c), (std::vector<std::size_t>{4096, 0, 4096, 0, 4096, 0, 4096}));
  EXPECT_EQ(c.inverse_frequencies(true), c.inverse_frequencies(false));
  Json j = gemma("gemma2");
  j["attn_logit_softcapping"] = nullptr;
  j["query_pre_attn_scalar"] = 144;
  EXPECT_EQ(parse(j).attention_cap, 0);
  EXPECT_EQ(parse(j).attention_scale(), 1 / 12.0f);
  j["final_logit_softcapping"] = 0.0;
  expect_error(ErrorCode::corrupt_file, "\"final_logit_softcapping\" is 0.0", [&] { (void)parse(j); });
  j = gemma("gemma2");
  j["hidden_activation"] = "silu";
  expect_error(ErrorCode::unsupported, "hidden_activation 'silu'", [&] { (void)parse(j); });
  j = gemma("gemma2");
  j["sliding_window"] = nullptr;
  expect_error(ErrorCode::unsupported, "\"sliding_window\" says none", [&] { (void)parse(j); });
  j = gemma("gemma2");
  j["use_bidirectional_attention"] = true;
  expect_error(ErrorCode::unsupported, "lets tokens see those after them", [&] { (void)parse(j); });
}

TEST(Config, ReadsGemma3) {
  Json j = gemma("gemma3_text");
  const Config c = parse(j);
  EXPECT_EQ(windows(c), (std::vector<std::size_t>{4096, 4096, 4096, 4096, 4096, 0, 4096}));
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(c.window_rope_theta, 1e4);
  EXPECT_EQ(c.attention_cap, 0);
  EXPECT_EQ(c.logit_cap, 0);
  // Scaling is for the layers that see everything.
  j["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  EXPECT_EQ(parse(j).inverse_frequencies(true), c.inverse_frequencies(true));
  EXPECT_EQ(parse(j).inverse_frequencies(false)[1], c.inverse_frequencies(false)[1] / 8);
  j["attn_logit_softcapping"] = 50.0;
  expect_error(ErrorCode::unsupported, "this engine does not in a gemma3_text model", [&] { (void)parse(j); });
  j = gemma("gemma3_text");
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  expect_error(ErrorCode::unsupported, "has neither full_attention nor sliding_attention", [&] { (void)parse(j); });
  j["rope_parameters"] = {{"sliding_attention", {{"rope_type", "linear"}, {"factor", 2.0}}}};
  expect_error(ErrorCode::unsupported, "has the rope_type 'linear'", [&] { (void)parse(j); });
}

TEST(Config, ReadsPhi3) {
  Json j = llama();
  j["model_type"] = "phi3";
  for (const char* field : {"max_position_embeddings", "rms_norm_eps"}) j.erase(field);
  EXPECT_EQ(parse(j).turned_dim(), 128u);
  EXPECT_EQ(parse(j).context, 4096u);
  EXPECT_EQ(parse(j).rms_eps, 1e-5);
  EXPECT_EQ(parse(j).sliding_window, 0u);
  EXPECT_EQ(parse(j).elements(Size::queries_keys_values), 6144u);
  EXPECT_EQ(parse(j).elements(Size::gates_ups), 28672u);
  j["sliding_window"] = 2047;
  j["partial_rotary_factor"] = 0.75;
  const Config c = parse(j);
  EXPECT_EQ(c.sliding_window, 2047u);
  EXPECT_EQ(c.turned_dim(), 96u);
  ASSERT_EQ(c.inverse_frequencies().size(), 48u);
  EXPECT_NEAR(c.inverse_frequencies()[1], std::pow(500000.0, -2.0 / 96), 1e-12);
  for (const char* kind : {"longrope", "su"}) {
    j["rope_scaling"] = {{"type", kind}, {"short_factor", Json::array({1.0})}, {"long_factor", Json::array({1.0})}};
    expect_error(ErrorCode::unsupported, std::string("rope_type '") + kind + "'", [&] { (void)parse(j); });
  }
}

TEST(Config, ReadsGlm4) {
  Json j = llama();
  j["model_type"] = "glm4";
  for (const char* field : {"num_key_value_heads", "rms_norm_eps"}) j.erase(field);
  const Config c = parse(j);
  EXPECT_EQ(c.kv_heads, 2u);
  EXPECT_EQ(c.turned_dim(), 64u);
  EXPECT_EQ(c.rms_eps, 1.5625e-7);
  EXPECT_EQ(c.bias_of(Role::key), Bias::needed);
  EXPECT_EQ(c.bias_of(Role::attention_output), Bias::none);
  j["attention_bias"] = false;
  EXPECT_EQ(parse(j).bias_of(Role::key), Bias::none);
}

TEST(Config, ReadsMixturesOfExperts) {
  Json j = llama();
  j["model_type"] = "mixtral";
  Config c = parse(j);
  EXPECT_EQ(c.experts, 8u);
  EXPECT_EQ(c.experts_per_token, 2u);
  EXPECT_EQ(c.expert_intermediate, 0u);
  EXPECT_TRUE(c.normalizes_experts);
  EXPECT_EQ(c.sliding_window, 0u);

  j["model_type"] = "qwen3_moe";
  c = parse(j);
  EXPECT_EQ(c.experts, 128u);
  EXPECT_EQ(c.experts_per_token, 8u);
  EXPECT_EQ(c.expert_intermediate, 768u);
  EXPECT_FALSE(c.normalizes_experts);
  j.update({{"num_experts", 16}, {"num_experts_per_tok", 4}, {"moe_intermediate_size", 96}, {"norm_topk_prob", true}});
  j.update({{"decoder_sparse_step", 1}, {"mlp_only_layers", Json::array()}});
  c = parse(j);
  EXPECT_EQ(c.experts, 16u);
  EXPECT_EQ(c.experts_per_token, 4u);
  EXPECT_EQ(c.elements(c.architecture().module(Role::down).in), 96u);
  EXPECT_TRUE(c.normalizes_experts);
}

TEST(Config, RefusesBlocksWithoutExpertsBesideOthers) {
  Json j = llama();
  j["model_type"] = "qwen3_moe";
  j["decoder_sparse_step"] = 2;
  expect_error(ErrorCode::unsupported, "\"decoder_sparse_step\" is 2, which leaves blocks without experts",
               [&] { (void)parse(j); });
  j.erase("decoder_sparse_step");
  j["mlp_only_layers"] = {1};
  expect_error(ErrorCode::unsupported, "\"mlp_only_layers\" is", [&] { (void)parse(j); });
  j.erase("mlp_only_layers");
  j["n_routed_experts"] = 4;
  expect_error(ErrorCode::unsupported, "\"n_routed_experts\" is 4", [&] { (void)parse(j); });
  j = llama();
  j["num_experts"] = 4;
  expect_error(
      ErrorCode::unsupported,
      "\"num_experts\" is 4, which says that this is a mixture of experts; this engine does not in a llama model",
      [&] { (void)parse(j); });
}

// The factor beside rope_theta counts before the one at the top, as in transformers.
TEST(Config, AHeadMayBeTurnedInPart) {
  Json j = llama();
  j["model_type"] = "glm4";
  const auto refuse = [&](const Json& factor, const std::string& says) {
    j["partial_rotary_factor"] = factor;
    expect_error(ErrorCode::corrupt_file, "\"partial_rotary_factor\" is " + says, [&] { (void)parse(j); });
  };
  refuse(1.5, "1.5; a head has no more values than all");
  refuse(0.06, "0.06, so that 7 of the 128 values of a head are turned; rotary embeddings turn pairs");
  refuse(0.001, "0.001, so that 0 of the 128");
  refuse(0, "0; a positive number is needed");
  refuse("half", "\"half\"; a positive number is needed");
  j["partial_rotary_factor"] = 0.25;
  EXPECT_EQ(parse(j).turned_dim(), 32u);
  j["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  EXPECT_EQ(parse(j).turned_dim(), 32u);
  j["rope_parameters"]["partial_rotary_factor"] = 1;
  EXPECT_EQ(parse(j).turned_dim(), 128u);
  j["rope_parameters"]["partial_rotary_factor"] = 2;
  expect_error(ErrorCode::corrupt_file, "\"partial_rotary_factor\" is 2.0; a head", [&] { (void)parse(j); });
  j = llama();
  j["partial_rotary_factor"] = 0.5;
  expect_error(ErrorCode::unsupported, "turns a part of each head only; this engine does not in a llama model",
               [&] { (void)parse(j); });
}

TEST(Config, OnlyTheirOwnArchitecturesHonourSuchKeys) {
  for (const char* key :
       {"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "rope_local_base_freq"}) {
    Json j = llama();
    j[key] = 20;
    expect_error(ErrorCode::unsupported, std::string("\"") + key + "\" is 20", [&] { (void)parse(j); });
  }
}

TEST(Config, MinusOneIsNoToken) {
  Json j = llama();
  j["bos_token_id"] = -1;
  j["eos_token_id"] = -1;
  EXPECT_FALSE(parse(j).bos);
  EXPECT_TRUE(parse(j).eos.empty());
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
  refuse("head_dim", 1 << 28, corrupt, "\"head_dim\" is 268435456, which no matrix has for each of 32 heads");
  refuse("rms_norm_eps", -1, corrupt, "\"rms_norm_eps\" is -1");
  refuse("eos_token_id", {1, -2}, corrupt, "\"eos_token_id\"");
  refuse("tie_word_embeddings", "no", corrupt, "\"tie_word_embeddings\"");
  refuse("rope_scaling", 3, corrupt, "\"rope_scaling\" is not an object");
  refuse("rope_scaling", Json{{"type", "yarn"}}, unsupported, "rope_type 'yarn'");
  refuse("model_type", "gpt2", unsupported, "model_type 'gpt2'");
  refuse("hidden_act", "gelu", unsupported, "hidden_act 'gelu'");
  expect_error(corrupt, "is not a JSON object", [] { (void)Config::parse("[1]", "config.json"); });
  expect_error(corrupt, "is not JSON: at byte 6", [] { (void)Config::parse("{\"a\":", "config.json"); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
