// Models whose architecture no table describes: their linear layers are found by name and shape.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/linear_layers.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/layouts.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using Json = nlohmann::json;

/// A mixture of experts of a type that nobody has heard of, with a stack of experts as newer models store them.
std::vector<NamedTensor> mixture() {
  unsigned seed = 1;
  std::vector<NamedTensor> out;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape) {
    out.push_back(random_tensor(name, DType::bf16, std::move(shape), seed++));
  };
  add("model.embed_tokens.weight", {96, 64});
  add("model.layers.0.input_layernorm.weight", {64});
  add("model.layers.0.self_attn.qkv_proj.weight", {128, 64});
  add("model.layers.0.self_attn.qkv_proj.bias", {128});
  add("model.layers.0.mlp.gate.weight", {3, 64});
  add("model.layers.0.mlp.experts.gate_up_proj", {3, 80, 64});
  add("model.layers.0.mlp.experts.down_proj", {3, 64, 64});
  add("model.layers.0.mixer.conv1d.weight", {64, 1, 4});
  add("model.norm.weight", {64});
  add("lm_head.weight", {96, 64});
  return out;
}

class AnyModel : public testing::Test {
 protected:
  QuantizeModelReport quantize(const fs::path& from, const char* spec, const std::string& to = "out",
                               QuantizeModelOptions o = {}) {
    o.spec = QuantSpec::parse(spec);
    return quantize_model(from, folder_ / to, o);
  }
  fs::path unknown(std::vector<NamedTensor> tensors, Json config = {{"model_type", "mystery"}}) {
    return write_model(folder_ / "in", config, tensors);
  }
  /// Rows of `tensor` from `first` on, quantized by themselves.
  static QuantizedMatrix rows_of(const NamedTensor& tensor, std::size_t first, std::size_t rows, const char* spec) {
    const std::size_t cols = tensor.shape.back();
    return nibble::quantize(
        FloatMatrix(tensor.bytes.data() + first * cols * size_of(tensor.type), tensor.type, rows, cols, cols),
        QuantSpec::parse(spec));
  }
  TemporaryFolder folder_;
};

TEST_F(AnyModel, LinearLayersAreFoundAndTheRestIsLeft) {
  const auto tensors = mixture();
  const auto report = quantize(unknown(tensors), "int4-g32-asym");
  EXPECT_EQ(report.layers, 1u + 3 + 3);
  ASSERT_EQ(report.notes.size(), 1u);
  for (const char* part : {"'mystery' is not known", "3 tensors", "self_attn.qkv_proj' the first", "1 embedding",
                           "1 head (lm_head)", "1 router (model.layers.0.mlp.gate)", "3 vectors", "1 other tensor"})
    EXPECT_NE(report.notes[0].find(part), std::string::npos) << part << " in " << report.notes[0];
  const auto out = Checkpoint::open(folder_ / "out");
  const auto qkv = decode_quantized(out, "model.layers.0.self_attn.qkv_proj");
  ASSERT_TRUE(qkv);
  expect_same(*qkv, rows_of(tensors[2], 0, 128, "int4-g32-asym"), "qkv");
  for (const NamedTensor& t : tensors)
    if (t.name.find("proj") == std::string::npos || t.name.ends_with("bias")) {
      const auto copy = out.find(t.name);
      ASSERT_TRUE(copy) << t.name;
      EXPECT_EQ(std::memcmp(copy->bytes.data(), t.bytes.data(), t.bytes.size()), 0) << t.name;
    }
}

TEST_F(AnyModel, TheRuleFindsWhatTheTableSays) {
  for (const char* spec : {"nf4-dq", "int8", "int4-g32-sym"}) {
    std::map<std::string, std::string> files;
    for (const char* type : {"llama", "mystery"}) {
      Json config = config_of(TinyModel{});
      config["model_type"] = type;
      write_model(folder_ / (std::string(type) + spec), config, tensors_of(TinyModel{}));
      const std::string out = std::string(type) + spec + "-out";
      quantize(folder_ / (std::string(type) + spec), spec, out);
      std::ifstream in(folder_ / out / "model.safetensors", std::ios::binary);
      files[type].assign(std::istreambuf_iterator<char>(in), {});
    }
    EXPECT_FALSE(files["llama"].empty());
    EXPECT_EQ(files["llama"], files["mystery"]) << spec;
  }
}

TEST_F(AnyModel, EachMatrixOfAStackIsALayer) {
  const auto tensors = mixture();
  for (const char* spec : {"nf4", "int8", "int4-g32-sym", "fp4"}) {
    quantize(unknown(tensors), spec, spec);
    const auto out = Checkpoint::open(folder_ / spec);
    for (std::size_t e = 0; e < 3; ++e) {
      const auto q = decode_quantized(out, "model.layers.0.mlp.experts.gate_up_proj." + std::to_string(e));
      ASSERT_TRUE(q) << spec << e;
      expect_same(*q, rows_of(tensors[5], e * 80, 80, spec), spec);
    }
    EXPECT_FALSE(out.contains("model.layers.0.mlp.experts.gate_up_proj"));
  }
}

TEST_F(AnyModel, WhatIsQuantizedIsConvertedAndDecoded) {
  quantize(unknown(mixture()), "int4-g32-asym", "ours");
  ConvertModelOptions o;
  o.to = CheckpointLayout::compressed_tensors;
  EXPECT_EQ(convert_model(folder_ / "ours", folder_ / "theirs", o).layers, 7u);
  const std::string layer = "model.layers.0.mlp.experts.down_proj.2";
  expect_same(*decode_quantized(Checkpoint::open(folder_ / "theirs"), layer),
              *decode_quantized(Checkpoint::open(folder_ / "ours"), layer), layer);
  QuantizeModelOptions decode;
  decode.convert_to = DType::f32;
  quantize_model(folder_ / "theirs", folder_ / "floats", decode);
  const auto floats = Checkpoint::open(folder_ / "floats");
  const auto q = *decode_quantized(Checkpoint::open(folder_ / "ours"), layer);
  std::vector<float> values(q.rows * q.cols);
  dequantize(q, {values.data(), q.rows, q.cols});
  EXPECT_EQ(floats.read_f32(layer + ".weight"), values);
  expect_error(ErrorCode::invalid_argument, "is quantized already",
               [&] { quantize(folder_ / "ours", "nf4", "again"); });
}

TEST_F(AnyModel, TheReaderIsToldWhichLinearLayersAreNot) {
  const fs::path in = unknown(mixture());
  QuantizeModelOptions o;
  o.skip = {"down_proj"};
  quantize(in, "nf4", "out", o);
  const auto config = Json::parse(std::ifstream(folder_ / "out" / "config.json"));
  EXPECT_EQ(config["model_type"], "mystery");
  std::vector<std::string> skipped = config["quantization_config"]["llm_int8_skip_modules"];
  std::sort(skipped.begin(), skipped.end());
  EXPECT_EQ(skipped,
            (std::vector<std::string>{"lm_head", "model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.gate"}));
  o.skip.clear();
  o.lm_head = true;
  EXPECT_EQ(quantize(in, "nf4", "head", o).layers, 8u);
  EXPECT_TRUE(decode_quantized(Checkpoint::open(folder_ / "head"), "lm_head"));
}

// Whatever it is called: it is asked for by itself, so that a pattern of other layers need not name it.
TEST_F(AnyModel, TheHeadComesBesideTheOnlyLayers) {
  auto tensors = mixture();
  for (NamedTensor& t : tensors)
    if (t.name == "lm_head.weight") t.name = "embed_out.weight";
  QuantizeModelOptions o;
  o.lm_head = true;
  o.only = {"down_proj"};
  const fs::path in = unknown(tensors);
  const std::size_t with_head = quantize(in, "nf4", "head", o).layers;
  EXPECT_TRUE(decode_quantized(Checkpoint::open(folder_ / "head"), "embed_out"));
  o.lm_head = false;
  EXPECT_EQ(quantize(in, "nf4", "out", o).layers, with_head - 1);
  o.only.clear();
  o.skip = {"embed_out"};  // stays as it is, so that nothing is wrong with naming it
  EXPECT_NO_THROW(quantize(in, "nf4", "skipped", o));
}

TEST_F(AnyModel, ATiedHeadStays) {
  QuantizeModelOptions o;
  o.lm_head = true;
  for (const Json& config : {Json{{"model_type", "mystery"}, {"tie_word_embeddings", true}},
                             Json{{"text_config", {{"tie_word_embeddings", true}}}}})
    expect_error(ErrorCode::invalid_argument, "tied", [&] { quantize(unknown(mixture(), config), "nf4", "out", o); });
}

TEST_F(AnyModel, Conv1DStaysBecauseItLiesTurned) {
  std::vector<NamedTensor> tensors;
  tensors.push_back(random_tensor("wte.weight", DType::f32, {32, 32}, 1));
  tensors.push_back(random_tensor("h.0.attn.c_attn.weight", DType::f32, {32, 96}, 2));
  expect_error(ErrorCode::invalid_argument, "no tensor has the name and shape of a linear layer", [&] {
    quantize(unknown(tensors, {{"model_type", "gpt2"}}), "nf4");
  });
  EXPECT_EQ(quantize(unknown(tensors, {{"model_type", "gpt_bigcode"}}), "nf4").layers, 1u);
}

TEST_F(AnyModel, WhatNothingReadsIsRefused) {
  auto tensors = mixture();
  tensors.push_back(random_tensor("model.layers.0.self_attn.qkv_proj.weight_scale_inv", DType::f32, {1, 1}, 9));
  const fs::path in = unknown(tensors);
  QuantizeModelOptions decode;
  decode.convert_to = DType::bf16;
  expect_error(ErrorCode::unsupported, "qkv_proj", [&] { quantize(in, "nf4"); });
  expect_error(ErrorCode::unsupported, "qkv_proj", [&] { quantize_model(in, folder_ / "out", decode); });
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

struct Named {
  const char* tensor;
  std::vector<std::size_t> shape;
  std::optional<LeftAs> as;
};

TEST(LeftAs, GoesByNameAndShape) {
  using enum LeftAs;
  for (const Named& n : std::vector<Named>{
           {"model.layers.0.mlp.gate_proj.weight", {8, 8}, std::nullopt},
           {"gpt_neox.layers.0.attention.query_key_value.weight", {24, 8}, std::nullopt},
           {"encoder.block.0.layer.0.SelfAttention.q.weight", {8, 8}, std::nullopt},
           {"model.layers.0.block_sparse_moe.experts.7.w1.weight", {8, 8}, std::nullopt},
           {"model.layers.0.feed_forward.experts.down_proj", {2, 8, 8}, std::nullopt},
           {"model.layers.0.block_sparse_moe.gate.weight", {2, 8}, router},
           {"model.layers.0.mlp.router.weight", {2, 8}, router},
           {"model.layers.0.mlp.shared_expert_gate.weight", {1, 8}, router},
           {"gpt_neox.embed_in.weight", {32, 8}, embedding},
           {"transformer.wpe.weight", {32, 8}, embedding},
           {"embed_out.weight", {32, 8}, head},
           {"output.weight", {32, 8}, head},
           {"encoder.layer.0.attention.output.dense.weight", {8, 8}, std::nullopt},
           {"model.layers.0.input_layernorm.weight", {8}, vector},
           {"model.layers.0.q_norm.weight", {4, 8}, norm},
           {"model.layers.0.self_attn.q_proj.lora_A.weight", {4, 8}, adapter},
           {"vision.patch_conv.weight", {8, 3, 14, 14}, other},
           {"backbone.layers.0.mixer.conv1d.weight", {8, 1, 4}, other},
           {"position_ids", {1, 8}, other},
           {"model.layers.0.mlp.experts.down_proj", {std::size_t{1} << 40, 0, 8}, other},
           {"model.layers.0.mlp.experts.up_proj", {0, 8, 8}, other},
       })
    EXPECT_EQ(left_as({n.tensor, DType::bf16, n.shape, 0, 0}, "mystery"), n.as) << n.tensor;
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
