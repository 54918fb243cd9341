#include "nibble/model/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "nibble/format/safetensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_text(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

/// A folder that loads, for a test to damage.
struct Peft {
  Json config{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}, {"target_modules", {"q_proj"}}};
  struct Tensor {
    std::vector<std::size_t> shape;
    DType type = DType::f32;
    float value = 1;
  };
  std::map<std::string, Tensor> tensors{{"base_model.model.x.q_proj.lora_A.weight", {{2, 3}}},
                                        {"base_model.model.x.q_proj.lora_B.weight", {{5, 2}}}};

  void write(const fs::path& folder) const {
    fs::create_directories(folder);
    write_text(folder / "adapter_config.json", config.dump());
    std::vector<TensorInfo> declared;
    for (const auto& [name, t] : tensors) declared.push_back({name, t.type, t.shape, 0, 0});
    SafetensorsWriter writer(folder / "adapter_model.safetensors", declared, {});
    for (const auto& [name, t] : tensors) {
      std::vector<std::byte> bytes(
          size_of(t.type) * std::accumulate(t.shape.begin(), t.shape.end(), std::size_t{1}, std::multiplies<>()));
      if (t.type == DType::f32)
        for (std::size_t i = 0; i < bytes.size(); i += sizeof(float))
          std::memcpy(bytes.data() + i, &t.value, sizeof(float));
      writer.write(name, bytes);
    }
    writer.finish();
  }
};

TEST(AdapterPeft, DefaultsArePefts) {
  const TemporaryFolder folder;
  Peft peft;
  peft.write(folder / "a");
  const Adapter adapter = Adapter::load(folder / "a");
  EXPECT_EQ(adapter.base_model, "");
  EXPECT_EQ(adapter.layers.at(0).name, "x.q_proj");
  EXPECT_EQ(adapter.layers.at(0).scale(), 2.0f);
  peft.config.erase("lora_alpha");  // 8
  for (const char* key : {"base_model_name_or_path", "rank_pattern", "bias", "lora_dropout", "use_rslora",
                          "modules_to_save", "init_lora_weights", "use_something_new", "kasa_config"})
    peft.config[key] = nullptr;
  peft.config["loftq_config"] = Json::object();
  peft.config["modules_to_save"] = Json::array();
  peft.config["exclude_modules"] = "lm_head";
  peft.write(folder / "b");
  EXPECT_EQ(Adapter::load(folder / "b").layers.at(0).scale(), 4.0f);
}

TEST(AdapterPeft, PatternsMatchAsInPython) {
  const TemporaryFolder folder;
  const auto alpha = [&](const Json& patterns) {
    Peft peft;
    peft.config["alpha_pattern"] = patterns;
    peft.write(folder / "a");
    return Adapter::load(folder / "a").layers.at(0).alpha;  // of x.q_proj
  };
  for (const char* key : {"q_proj", "x.q_proj", "^x.q_proj", "x\\.q_proj", "q_proj|k_proj", "q.proj", ".*",
                          "q_(proj|other)", "[a-q]_proj", "^x.*", "(?!k)q_proj", "\\w+"})
    EXPECT_EQ(alpha({{key, 7}}), 7) << key;
  for (const char* key : {".q_proj", "proj", "_proj", "x", "^q_proj", "q_pro", "xq_proj", "x\\.\\.q_proj", "y.x.q_proj",
                          "x.q_proj.", "q_projj", "x.*k", "\\d+"})
    EXPECT_EQ(alpha({{key, 7}}), 4) << key;
  EXPECT_EQ(alpha({{"k_proj", 1}, {"x.q_proj", 2}, {"q_proj", 3}}), 2);  // the first in the file's order
  EXPECT_EQ(alpha({{"q_proj", 3}, {"x.q_proj", 2}}), 3);
  EXPECT_EQ(alpha({{"q_proj", 0.5}}), 0.5);
}

TEST(AdapterPeft, HostileConfigs) {
  const TemporaryFolder folder;
  const struct {
    const char* key;
    Json value;
    ErrorCode code;
    const char* says;
  } cases[] = {
      {"peft_type", nullptr, ErrorCode::corrupt_file, "no \"peft_type\""},
      {"peft_type", "LOHA", ErrorCode::unsupported, "LOHA"},
      {"peft_type", {{"a", 1}}, ErrorCode::unsupported, "an object"},
      {"bias", "all", ErrorCode::unsupported, "\"all\""},
      {"bias", 3, ErrorCode::unsupported, "3"},
      {"lora_bias", true, ErrorCode::unsupported, "lora_bias"},
      {"modules_to_save", {"lm_head"}, ErrorCode::unsupported, "modules_to_save"},
      {"target_parameters", {"experts"}, ErrorCode::unsupported, "target_parameters"},
      {"layer_replication", {{0, 1}}, ErrorCode::unsupported, "layer_replication"},
      {"trainable_token_indices", {1}, ErrorCode::unsupported, "trainable_token_indices"},
      {"alora_invocation_tokens", {1}, ErrorCode::unsupported, "alora"},
      {"kasa_config", {{"beta", 1}}, ErrorCode::unsupported, "KaSA"},
      {"arrow_config", {{"k", 1}}, ErrorCode::unsupported, "arrow_config"},
      {"use_qalora", true, ErrorCode::unsupported, "use_qalora"},
      {"use_bdlora", {{"nblocks", 2}}, ErrorCode::unsupported, "use_bdlora"},
      {"use_of_the_future", 1, ErrorCode::unsupported, "use_of_the_future"},
      {"init_lora_weights", "pissa", ErrorCode::unsupported, "pissa"},
      {"init_lora_weights", "pissa_niter_4", ErrorCode::unsupported, "pissa_niter_4"},
      {"init_lora_weights", "olora", ErrorCode::unsupported, "olora"},
      {"init_lora_weights", "corda", ErrorCode::unsupported, "corda"},
      {"init_lora_weights", "loftq", ErrorCode::unsupported, "loftq"},
      {"init_lora_weights", "lora_ga", ErrorCode::unsupported, "lora_ga"},
      {"init_lora_weights", Json::array(), ErrorCode::unsupported, "an array"},
      {"use_dora", "yes", ErrorCode::corrupt_file, "use_dora"},
      {"use_dora", true, ErrorCode::corrupt_file, "no lora_magnitude_vector"},
      {"use_rslora", 1, ErrorCode::corrupt_file, "use_rslora"},
      {"r", 0, ErrorCode::corrupt_file, "\"r\" is 0"},
      {"r", -1, ErrorCode::corrupt_file, "-1"},
      {"r", 2.5, ErrorCode::corrupt_file, "2.5"},
      {"r", "2", ErrorCode::corrupt_file, "\"2\""},
      {"r", 18446744073709551615u, ErrorCode::corrupt_file, "18446744073709551615"},
      {"r", 3, ErrorCode::corrupt_file, "is 3, and its matrices have 2"},
      {"r", Json::array(), ErrorCode::corrupt_file, "an array"},
      {"lora_alpha", "x", ErrorCode::corrupt_file, "lora_alpha"},
      {"lora_alpha", true, ErrorCode::corrupt_file, "lora_alpha"},
      {"lora_alpha", 1e300, ErrorCode::corrupt_file, "lora_alpha"},
      {"lora_dropout", 1, ErrorCode::corrupt_file, "lora_dropout"},
      {"lora_dropout", -0.5, ErrorCode::corrupt_file, "lora_dropout"},
      {"lora_dropout", "0", ErrorCode::corrupt_file, "lora_dropout"},
      {"base_model_name_or_path", 7, ErrorCode::corrupt_file, "base_model_name_or_path"},
      {"rank_pattern", 7, ErrorCode::corrupt_file, "rank_pattern"},
      {"rank_pattern", {{"q_proj", 0}}, ErrorCode::corrupt_file, "q_proj\" is 0"},
      {"rank_pattern", {{"q_proj", nullptr}}, ErrorCode::corrupt_file, "q_proj"},
      {"rank_pattern", {{"q_proj", {{"a", 1}}}}, ErrorCode::corrupt_file, "q_proj"},
      {"rank_pattern", {{"q_proj", 4}}, ErrorCode::corrupt_file, "is 4, and its matrices have 2"},
      {"alpha_pattern", {{"q_proj", "1"}}, ErrorCode::corrupt_file, "q_proj"},
      {"alpha_pattern", {{"(", 1}}, ErrorCode::unsupported, "alpha_pattern"},
      {"alpha_pattern", {{"a)", 1}}, ErrorCode::unsupported, "alpha_pattern"},
      {"alpha_pattern", {{"(?<=x)q", 1}}, ErrorCode::unsupported, "alpha_pattern"},
      {"alpha_pattern", {{"(((a{1000}){1000}){1000})", 1}}, ErrorCode::unsupported, "too long"},
      {"alpha_pattern", {{"\x1b[2J", 1}}, ErrorCode::unsupported, "\\x1b"},
  };
  for (const auto& c : cases) {
    Peft peft;
    peft.config[c.key] = c.value;
    peft.write(folder / "a");
    expect_error(c.code, c.says, [&] { (void)Adapter::load(folder / "a"); });
    expect_error(c.code, "adapter_config.json", [&] { (void)Adapter::load(folder / "a"); });
  }
  std::string deep(100000, '[');
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{"), std::string("{\"r\": 1e999}"),
                                  std::string("{\"r\": 1, \"r\": 2}"), "{\"peft_type\": " + deep, std::string("\xff"),
                                  std::string("null"), std::string("{\"peft_type\": \"\xff\"}")}) {
    write_text(folder / "a/adapter_config.json", text);
    expect_error(ErrorCode::corrupt_file, "adapter_config.json", [&] { (void)Adapter::load(folder / "a"); });
  }
}

TEST(AdapterPeft, PatternsThatTakeTooLongAreRefused) {
  const TemporaryFolder folder;
  Peft peft;
  peft.tensors.clear();
  for (int i = 0; i < 2000; ++i)
    for (const auto& [half, shape] : {std::pair{"A", std::vector<std::size_t>{2, 1}}, {"B", {1, 2}}})
      peft.tensors["base_model.model.layers." + std::to_string(i) + ".self_attn.q_proj.lora_" + half + ".weight"] = {
          shape, DType::f32, 1};
  // A rank for each of the layers by its name, as EVA writes them, is fine.
  for (int i = 0; i < 2000; ++i) peft.config["rank_pattern"]["layers." + std::to_string(i) + ".self_attn.q_proj"] = 2;
  peft.write(folder / "a");
  EXPECT_EQ(Adapter::load(folder / "a").layers.size(), 2000u);
  for (int i = 0; i < 2000; ++i) peft.config["alpha_pattern"]["(a*)*b" + std::to_string(i) + std::string(40, 'x')] = 2;
  peft.write(folder / "a");
  expect_error(ErrorCode::unsupported, "too much to match", [&] { (void)Adapter::load(folder / "a"); });
}

TEST(AdapterPeft, HostileTensors) {
  const TemporaryFolder folder;
  const std::string a = "base_model.model.x.q_proj.lora_A.weight", b = "base_model.model.x.q_proj.lora_B.weight",
                    m = "base_model.model.x.q_proj.lora_magnitude_vector";
  const auto refused = [&](ErrorCode code, const std::string& says, auto&& change) {
    Peft peft;
    change(peft);
    peft.write(folder / "a");
    expect_error(code, says, [&] { (void)Adapter::load(folder / "a"); });
  };
  refused(ErrorCode::corrupt_file, "no A", [&](Peft& p) { p.tensors.erase(a); });
  refused(ErrorCode::corrupt_file, "no B", [&](Peft& p) { p.tensors.erase(b); });
  refused(ErrorCode::corrupt_file, "no pair", [&](Peft& p) { p.tensors.clear(); });
  refused(ErrorCode::corrupt_file, "rank", [&](Peft& p) { p.tensors[a].shape = {3, 3}; });
  refused(ErrorCode::corrupt_file, "[6]", [&](Peft& p) { p.tensors[a].shape = {6}; });
  refused(ErrorCode::corrupt_file, "[0, 3]", [&](Peft& p) { p.tensors[a].shape = {0, 3}; });
  refused(ErrorCode::corrupt_file, "[2, 0]", [&](Peft& p) { p.tensors[a].shape = {2, 0}; });
  refused(ErrorCode::corrupt_file, "[1, 2, 3]", [&](Peft& p) { p.tensors[a].shape = {1, 2, 3}; });
  for (const float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
    refused(ErrorCode::corrupt_file, "finite", [&](Peft& p) { p.tensors[b].value = value; });
  for (const DType type : {DType::f64, DType::i32, DType::u8, DType::f8_e4m3})
    refused(ErrorCode::unsupported, std::string(name_of(type)), [&](Peft& p) { p.tensors[b].type = type; });
  refused(ErrorCode::corrupt_file, "has a lora_magnitude_vector", [&](Peft& p) { p.tensors[m] = {{5}}; });
  const auto dora = [&](std::vector<std::size_t> shape, float value = 1) {
    return [&, shape, value](Peft& p) {
      p.config["use_dora"] = true;
      p.tensors[m] = {shape, DType::f32, value};
    };
  };
  for (const auto& shape : {std::vector<std::size_t>{4}, {5, 1}, {}})
    refused(ErrorCode::corrupt_file, "magnitude", dora(shape));
  refused(ErrorCode::corrupt_file, "finite", dora({5}, std::nanf("")));
  for (const char* name : {"base_model.model.x.lora_embedding_A", "base_model.model.lm_head.weight", "x.lora_A.weight",
                           "base_model.model.x.lora_B.bias", "base_model.model.x.lora_A.default.weight",
                           "base_model.model..lora_A.weight2", "base_model.model.x.lora_magnitude_vector.weight",
                           "base_model.model.lora_A.weight", "base_model.model..lora_A.weight", ""})
    refused(ErrorCode::unsupported, "no part of a LoRA pair", [&](Peft& p) { p.tensors[name] = {{2, 3}}; });
  refused(ErrorCode::unsupported, "\\x1b[31m\\u202e", [&](Peft& p) {
    p.tensors["\x1b[31m\xe2\x80\xae.lora_A.weight"] = {{2, 3}};
  });
  refused(ErrorCode::corrupt_file, "bytes", [&](Peft& p) {
    p.tensors["base_model.model." + std::string(5000, 'x') + ".lora_A.weight"] = {{2, 3}};
  });
}

/// A header by hand, for what no writer writes.
TEST(AdapterPeft, HostileHeaders) {
  const TemporaryFolder folder;
  Peft().write(folder / "a");
  const auto refused = [&](const std::string& header, const std::string& data) {
    std::string text(8, '\0');
    const std::uint64_t size = header.size();
    std::memcpy(text.data(), &size, 8);
    write_text(folder / "a/adapter_model.safetensors", text + header + data);
    expect_error(ErrorCode::corrupt_file, "adapter_model.safetensors", [&] { (void)Adapter::load(folder / "a"); });
  };
  const std::string name = R"({"base_model.model.x.lora_A.weight": {"dtype": "F32", "shape": )";
  refused(name + R"([4294967296, 4294967296], "data_offsets": [0, 0]}})", "");
  refused(name + R"([18446744073709551615, 3], "data_offsets": [0, 4]}})", "1234");
  refused(name + R"([4611686018427387904, 4], "data_offsets": [0, 0]}})", "");
  refused(name + R"([-1, 3], "data_offsets": [0, 4]}})", "1234");
  refused(name + R"([1, 1], "data_offsets": [0, 400]}})", "1234");
  refused(name + std::string(100000, '['), "");
  refused("", "");
  write_text(folder / "a/adapter_model.safetensors", "short");
  expect_error(ErrorCode::corrupt_file, "adapter_model.safetensors", [&] { (void)Adapter::load(folder / "a"); });
}

TEST(AdapterPeft, EveryCutFileIsRefused) {
  const TemporaryFolder folder;
  Peft().write(folder / "a");
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const std::string whole = text_of(folder / "a" / name);
    for (std::size_t n = 0; n < whole.size(); n += 3) {
      write_text(folder / "a" / name, whole.substr(0, n));
      EXPECT_THROW((void)Adapter::load(folder / "a"), Error) << name << " " << n;
    }
    write_text(folder / "a" / name, whole);
  }
  EXPECT_NO_THROW((void)Adapter::load(folder / "a"));
}

TEST(AdapterPeft, WhatIsMissingIsNamed) {
  const TemporaryFolder folder;
  const auto load = [&](const char* name) { return [&, name] { (void)Adapter::load(folder / name); }; };
  expect_error(ErrorCode::not_found, "no adapter", load("nothing"));
  fs::create_directory(folder / "a");
  expect_error(ErrorCode::not_found, "adapter_config.json", load("a"));
  Peft().write(folder / "a");
  fs::rename(folder / "a/adapter_model.safetensors", folder / "a/adapter_model.bin");
  expect_error(ErrorCode::unsupported, "pickle", load("a"));
  fs::remove(folder / "a/adapter_model.bin");
  expect_error(ErrorCode::not_found, "adapter_model.safetensors", load("a"));
  expect_error(ErrorCode::unsupported, "neither a folder nor a GGUF", load("a/adapter_config.json"));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
