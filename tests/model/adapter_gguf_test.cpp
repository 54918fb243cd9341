#include "nibble/model/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <numeric>

#include "nibble/format/gguf.h"
#include "tests/support/adapters.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_equal;
using testing_support::expect_error;
using testing_support::filled;
using testing_support::kQuery;
using testing_support::TemporaryFolder;
using testing_support::tiny;

TEST(AdapterGguf, ComesBack) {
  const TemporaryFolder folder;
  const fs::path file = folder / "adapter.gguf";
  for (const bool rslora : {false, true}) {
    Adapter adapter = filled({.rank = 4, .alpha = 6, .dropout = 0, .rslora = rslora});
    adapter.save_gguf(file, tiny(), DType::f32);
    for (AdapterLayer& l : adapter.layers)  // the file has no rsLoRA, but its scale
      if (rslora) l.alpha = 12, l.rslora = false;
    expect_equal(adapter, Adapter::load(file));
    const Config config = tiny();
    expect_equal(adapter, Adapter::load(file, &config));
  }
  Adapter adapter = filled({.rank = 4, .alpha = 6});
  for (const DType type : {DType::f16, DType::bf16}) {
    adapter.save_gguf(file, tiny(), type);
    const Adapter again = Adapter::load(file);
    for (std::size_t i = 0; i < adapter.layers.size(); ++i)
      for (std::size_t j = 0; j < adapter.layers[i].b.size(); ++j)
        ASSERT_NEAR(again.layers[i].b[j], adapter.layers[i].b[j], type == DType::f16 ? 5e-4 : 4e-3);
  }
}

TEST(AdapterGguf, IsWhatLlamaCppReads) {
  const TemporaryFolder folder;
  const Adapter adapter = filled({.rank = 4, .alpha = 6});
  adapter.save_gguf(folder / "a.gguf", tiny(), DType::f32);
  const GgufFile file(folder / "a.gguf");
  EXPECT_EQ(std::get<std::string>(file.metadata().at("general.type")), "adapter");
  EXPECT_EQ(std::get<std::string>(file.metadata().at("general.architecture")), "llama");
  EXPECT_EQ(std::get<std::string>(file.metadata().at("adapter.type")), "lora");
  EXPECT_EQ(std::get<float>(file.metadata().at("adapter.lora.alpha")), 6.0f);
  EXPECT_EQ(file.tensors().size(), 28u);
  EXPECT_EQ(file.info("blk.1.ffn_down.weight.lora_a").shape, (std::vector<std::size_t>{4, 112}));
  EXPECT_EQ(file.info("blk.1.ffn_down.weight.lora_b").shape, (std::vector<std::size_t>{64, 4}));
  // B·A in the file's order of rows is what the weight W + B·A would be there: the rows of each head of query and key
  // are permuted, those of others and A's are not.
  EXPECT_EQ(file.read_f32("blk.0.attn_q.weight.lora_a"), adapter.find(kQuery)->a);
  const auto value = file.read_f32("blk.0.attn_v.weight.lora_b");
  EXPECT_EQ(value, adapter.find("model.layers.0.self_attn.v_proj")->b);
  for (const char* part : {"q", "k"}) {
    const auto& ours = adapter.find("model.layers.0.self_attn." + std::string(part) + "_proj")->b;
    const auto theirs = file.read_f32("blk.0.attn_" + std::string(part) + ".weight.lora_b");
    EXPECT_NE(ours, theirs);
    for (std::size_t r = 0; r < ours.size() / 4; ++r)  // of a head of 16, row 2i + j of theirs is row 8j + i of ours
      for (std::size_t c = 0; c < 4; ++c)
        EXPECT_EQ(theirs[r * 4 + c], ours[(r / 16 * 16 + r % 16 / 2 + r % 2 * 8) * 4 + c]);
  }
}

TEST(AdapterGguf, LayersOfSeveralInOneComeBack) {
  const TemporaryFolder folder;
  for (const char* base : {"phi3", "glm4"}) {
    const Config config = Config::load(std::string(NIBBLE_TEST_DATA "/golden/") + base);
    Adapter adapter = Adapter::make(config, {.rank = 4, .alpha = 6, .dropout = 0});
    for (AdapterLayer& l : adapter.layers) std::iota(l.b.begin(), l.b.end(), 1.0f);
    adapter.save_gguf(folder / "a.gguf", config, DType::f32);
    expect_equal(adapter, Adapter::load(folder / "a.gguf"));
    const GgufFile file(folder / "a.gguf");
    EXPECT_EQ(file.info("blk.1.ffn_up.weight.lora_b").shape, (std::vector<std::size_t>{128, 4})) << base;
    EXPECT_EQ(file.contains("blk.1.attn_qkv.weight.lora_a"), std::string(base) == "phi3");
  }
}

TEST(AdapterGguf, RefusesWhatTheFileCannotSay) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.gguf";
  const auto save = [&](const Adapter& a) { return [&] { a.save_gguf(file, tiny()); }; };
  expect_error(ErrorCode::unsupported, "DoRA", save(filled({.rank = 2, .dora = true})));
  Adapter other = filled({.rank = 2, .alpha = 4});
  other.layers[1].alpha = 5;
  expect_error(ErrorCode::unsupported, "one alpha", save(other));
  for (AdapterLayer& l : other.layers) l.alpha = 0;
  expect_error(ErrorCode::unsupported, "alpha is 0", save(other));
  other.layers[1].name = "lm_head";
  expect_error(ErrorCode::not_found, "lm_head", save(other));
  Adapter large = filled({.rank = 2, .alpha = 4});
  large.layers[0].b[0] = 1e6f;
  expect_error(ErrorCode::non_finite, "lora_b", save(large));
  EXPECT_TRUE(fs::is_empty(folder.path()));
  // α = r in all, whatever the ranks are, is what the file says by 0.
  Adapter ranks = filled({.rank = 2, .alpha = 2});
  AdapterLayer& l = ranks.layers[3];
  l.rank = 1, l.alpha = 1;
  l.a.resize(l.in), l.b.resize(l.out);
  ranks.save_gguf(file, tiny(), DType::f32);
  EXPECT_EQ(std::get<float>(GgufFile(file).metadata().at("adapter.lora.alpha")), 0.0f);
  ranks.dropout = 0;
  expect_equal(ranks, Adapter::load(file));
}

struct Gguf {
  GgufMetadata metadata{{"general.architecture", std::string("llama")},
                        {"general.type", std::string("adapter")},
                        {"adapter.type", std::string("lora")},
                        {"adapter.lora.alpha", 8.0f}};
  std::map<std::string, std::vector<std::size_t>> tensors{{"blk.0.attn_q.weight.lora_a", {2, 64}},
                                                          {"blk.0.attn_q.weight.lora_b", {64, 2}}};
  float value = 1;

  void write(const fs::path& path) const {
    std::vector<GgufTensor> declared;
    for (const auto& [name, shape] : tensors) declared.push_back({name, BlockType::f32, shape, 0, 0});
    GgufWriter writer(path, metadata, declared);
    for (const auto& [name, shape] : tensors) {
      const std::vector<float> values(std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>()),
                                      value);
      writer.write(name, std::as_bytes(std::span(values)));
    }
    writer.finish();
  }
};

TEST(AdapterGguf, HostileFiles) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a.gguf";
  const Config config = tiny();
  const auto refused = [&](ErrorCode code, const std::string& says, auto&& change, const Config* model) {
    Gguf gguf;
    change(gguf);
    gguf.write(file);
    expect_error(code, says, [&] { (void)Adapter::load(file, model); });
  };
  Gguf().write(file);
  EXPECT_EQ(Adapter::load(file, &config).layers.at(0).scale(), 4.0f);
  const auto nothing = [](Gguf&) {};
  refused(ErrorCode::invalid_argument, "llama.attention.key_length' is missing", nothing, nullptr);
  for (const std::uint32_t size : {3u, 0u, 1u << 30, 48u})
    refused(
        ErrorCode::corrupt_file, "key_length' is " + std::to_string(size),
        [&](Gguf& g) { g.metadata["llama.attention.key_length"] = size; }, nullptr);
  refused(
      ErrorCode::shape_mismatch, "heads have 16",
      [](Gguf& g) { g.metadata["llama.attention.key_length"] = std::uint32_t{32}; }, &config);
  const auto set = [](const char* key, GgufValue value) { return [key, value](Gguf& g) { g.metadata[key] = value; }; };
  refused(ErrorCode::unsupported, "'model'", set("general.type", std::string("model")), &config);
  refused(ErrorCode::corrupt_file, "general.type", set("general.type", 1.0f), &config);
  refused(ErrorCode::unsupported, "'x'", set("adapter.type", std::string("x")), &config);
  refused(ErrorCode::unsupported, "\\x1b", set("general.architecture", std::string("\x1b[2J")), nullptr);
  refused(ErrorCode::invalid_argument, "'qwen2'", set("general.architecture", std::string("qwen2")), &config);
  refused(ErrorCode::corrupt_file, "alpha", set("adapter.lora.alpha", std::nanf("")), &config);
  refused(ErrorCode::corrupt_file, "alpha", set("adapter.lora.alpha", std::string("8")), &config);
  refused(ErrorCode::unsupported, "tokens", set("adapter.alora.invocation_tokens", GgufArray{}), &config);
  const auto add = [](const char* name, std::vector<std::size_t> shape) {
    return [name, shape](Gguf& g) { g.tensors[name] = shape; };
  };
  refused(ErrorCode::unsupported, "attn_norm", add("blk.0.attn_norm.weight", {64}), &config);
  refused(ErrorCode::unsupported, "token_embd", add("token_embd.weight.lora_a", {2, 64}), &config);
  for (const char* name : {"blk.0.attn_x.weight.lora_a", "blk..attn_q.weight.lora_a", "blk.0.weight.lora_b",
                           "blk.-1.attn_q.weight.lora_a", ".lora_a", "blk.0.attn_q.lora_a"})
    refused(ErrorCode::unsupported, name, add(name, {2, 64}), &config);
  refused(ErrorCode::corrupt_file, "no B", add("blk.1.attn_q.weight.lora_a", {2, 64}), &config);
  refused(ErrorCode::corrupt_file, "rank", add("blk.0.attn_q.weight.lora_a", {4, 64}), &config);
  refused(ErrorCode::corrupt_file, "[2, 8, 8]", add("blk.0.attn_q.weight.lora_a", {2, 8, 8}), &config);
  refused(
      ErrorCode::corrupt_file, "finite", [](Gguf& g) { g.value = HUGE_VALF; }, &config);
  refused(
      ErrorCode::corrupt_file, "no pair", [](Gguf& g) { g.tensors.clear(); }, &config);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
