// What a model's file holds is held against what its configuration promises, by every command alike.
#include "model/stored_weights.h"

#include <gtest/gtest.h>

#include <functional>

#include "nibble/engine/calibrate.h"
#include "nibble/engine/model.h"
#include "nibble/model/convert.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

QuantizeModelOptions as(const char* spec) {
  QuantizeModelOptions o;
  o.spec = QuantSpec::parse(spec);
  return o;
}

QuantizeModelOptions to(DType type) {
  QuantizeModelOptions o;
  o.convert_to = type;
  return o;
}

ConvertModelOptions into(CheckpointLayout layout) {
  ConvertModelOptions o;
  o.to = layout;
  return o;
}

std::vector<float> logits(const fs::path& model, const engine::LoadOptions& options = {}) {
  const engine::Model m = engine::Model::load(model, options);
  engine::KvCache cache(m.config(), 8);
  const std::vector<std::int32_t> ids{1, 2, 3, 250, 7};
  return m.forward(ids, cache);
}

class StoredWeights : public testing::Test {
 protected:
  /// All that reads a whole model says this of it, and leaves nothing behind.
  void refused_by_all(const fs::path& model, ErrorCode code, const std::string& says) {
    fs::copy_file(NIBBLE_EXAMPLE_DATA "/austen-5m/tokenizer_config.json", model / "tokenizer_config.json",
                  fs::copy_options::overwrite_existing);
    const fs::path out = folder_ / "out";
    CalibrateOptions gptq;
    gptq.method = CalibratedMethod::parse("gptq-4-g32");
    const std::vector<std::int32_t> ids(40, 1);
    const std::vector<std::pair<const char*, std::function<void()>>> readers{
        {"load", [&] { (void)engine::Model::load(model); }},
        {"quantize", [&] { quantize_model(model, out, as("nf4")); }},
        {"to bf16", [&] { quantize_model(model, out, to(DType::bf16)); }},
        {"convert", [&] { convert_model(model, out, into(CheckpointLayout::nibble)); }},
        {"export", [&] { export_gguf(model, out, {}); }},
        {"calibrate", [&] { engine::quantize_calibrated(model, out, ids, gptq); }}};
    for (const auto& [name, read] : readers) {
      SCOPED_TRACE(name);
      expect_error(code, says, read);
      EXPECT_FALSE(fs::exists(out));
    }
  }

  /// The model with each name changed.
  fs::path renamed(const std::function<std::string(std::string)>& rename) {
    auto tensors = tensors_of(model_);
    for (NamedTensor& t : tensors) t.name = rename(t.name);
    return write_model(folder_ / "renamed", config_of(model_), tensors);
  }

  /// The model with the layers of its first block quantized in a layout, the rest as it was.
  fs::path half_quantized(CheckpointLayout layout, const char* text) {
    QuantSpec spec = QuantSpec::parse(text);
    std::vector<NamedTensor> tensors;
    std::vector<QuantizedLayer> layers;
    for (const NamedTensor& t : tensors_of(model_)) {
      if (!is_linear(t) || !t.name.starts_with("model.layers.0.")) {
        tensors.push_back(t);
        continue;
      }
      const auto q = default_backend().quantize({t.bytes.data(), t.type, t.shape[0], t.shape[1], t.shape[1]}, spec,
                                                t.name, default_executor());
      layers.push_back({layer_name(t), LayerDescription::of(q)});
      for (auto& part : encode_quantized(layout, layer_name(t), q, t.type)) tensors.push_back(std::move(part));
    }
    auto config = config_of(model_);
    config["quantization_config"] = nlohmann::json::parse(quantization_config(layout, layers, {"lm_head"}));
    return write_model(folder_ / "half", config, tensors);
  }

  TinyModel model_;
  TemporaryFolder folder_;
};

TEST_F(StoredWeights, APrefixOfAllNamesIsNamed) {
  for (const std::string prefix :
       {"module.model.", "model.language_model.", "language_model.model.", "_orig_mod.model."}) {
    const auto model =
        renamed([&](const std::string& name) { return name.starts_with("model.") ? prefix + name.substr(6) : name; });
    refused_by_all(model, ErrorCode::not_found, "the weights carry the prefix '" + prefix + "'");
  }
  const auto bare = renamed([](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; });
  refused_by_all(bare, ErrorCode::not_found, "carry no prefix where 'model.' is expected ('embed_tokens.weight')");
}

TEST_F(StoredWeights, NamesOfAnotherKindAreListed) {
  const auto model = renamed([](std::string name) {
    const auto at = name.find("_proj.");
    return at == std::string::npos ? name : name.replace(at, 6, "_projection.");
  });
  refused_by_all(model, ErrorCode::not_found,
                 "of the 21 weights that its configuration promises 14 are missing: "
                 "'model.layers.0.self_attn.q_proj.weight', 'model.layers.0.self_attn.k_proj.weight', "
                 "'model.layers.0.self_attn.v_proj.weight' and 11 more; there are tensors that no llama model has: "
                 "'model.layers.0.self_attn.q_projection.weight'");
}

TEST_F(StoredWeights, OneMissingWeightIsNamed) {
  for (const char* missing : {"model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight",
                              "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"}) {
    auto tensors = tensors_of(model_);
    std::erase_if(tensors, [&](const NamedTensor& t) { return t.name == missing; });
    refused_by_all(write_model(folder_ / "short", config_of(model_), tensors), ErrorCode::not_found,
                   "1 are missing: '" + std::string(missing) + "'; and there is nothing in their place");
  }
}

TEST_F(StoredWeights, MoreBlocksThanTensorsAreNotLookedFor) {
  auto config = config_of(model_);
  config["num_hidden_layers"] = 1 << 28;
  refused_by_all(write_model(folder_ / "many", config, tensors_of(model_)), ErrorCode::not_found,
                 "\"num_hidden_layers\" is 268435456, and there are 21 tensors");
}

TEST_F(StoredWeights, AnotherShapeIsNamed) {
  auto config = config_of(model_);
  config["intermediate_size"] = 100;
  refused_by_all(write_model(folder_ / "wide", config, tensors_of(model_)), ErrorCode::shape_mismatch,
                 "tensor 'model.layers.0.mlp.gate_proj.weight' is 96 × 64; the configuration needs 100 × 64");
}

TEST_F(StoredWeights, WhatNothingDecodesIsRefusedByAll) {
  struct Case {
    DType type;
    std::string beside;
    std::string says;
  };
  for (const Case& c : {Case{DType::f8_e4m3, "weight_scale_inv", "fp8 with a scale for each block"},
                        Case{DType::i8, "weight_scales", "EETQ"}, Case{DType::f8_e4m3, "", "is F8_E4M3"},
                        Case{DType::bf16, "weight_scale", "with a scale"},
                        Case{DType::bf16, "qzeros_of_tomorrow", "nothing here reads it"}}) {
    auto config = config_of(model_);
    auto tensors = tensors_of(model_);
    NamedTensor& weight = tensor_named(tensors, "model.layers.0.self_attn.q_proj.weight");
    weight.type = c.type;
    weight.bytes = Buffer::allocate(64 * 64 * size_of(c.type));
    if (!c.beside.empty())
      tensors.push_back({"model.layers.0.self_attn.q_proj." + c.beside, DType::f32, {1}, Buffer::allocate(4)});
    refused_by_all(write_model(folder_ / "foreign", config, tensors), ErrorCode::unsupported, c.says);
  }
}

TEST_F(StoredWeights, QuantizedModelsAreNotQuantizedAgain) {
  const auto model = write_model(folder_ / "model", model_);
  quantize_model(model, folder_ / "nf4", as("nf4"));
  convert_model((quantize_model(model, folder_ / "int4", as("int4-g32-asym")), folder_ / "int4"), folder_ / "gptq",
                into(CheckpointLayout::gptq_v2));
  for (const char* name : {"nf4", "int4", "gptq"})
    for (const char* spec : {"nf4", "int8"})
      expect_error(ErrorCode::invalid_argument, "is quantized already, and 13 more are",
                   [&] { quantize_model(folder_ / name, folder_ / "out", as(spec)); });
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(StoredWeights, HalfQuantizedModelsKeepWhatEachLayerIs) {
  for (const auto& [layout, spec] : {std::pair{CheckpointLayout::bitsandbytes, "nf4"},
                                     {CheckpointLayout::bitsandbytes, "int8"},
                                     {CheckpointLayout::compressed_tensors, "int4-g32-asym"}}) {
    const auto half = half_quantized(layout, spec);
    const auto expected = logits(half);
    quantize_model(half, folder_ / "f32", to(DType::f32));
    const auto stored = Checkpoint::open(half), decoded = Checkpoint::open(folder_ / "f32");
    const std::string layer = "model.layers.0.mlp.down_proj";
    const QuantizedMatrix q = *decode_quantized(stored, layer);
    std::vector<float> values(q.rows * q.cols);
    default_backend().dequantize(q, 0, MatrixView<float>(values.data(), q.rows, q.cols), default_executor());
    EXPECT_EQ(decoded.read_f32(layer + ".weight"), values) << spec;
    const auto report = convert_model(half, folder_ / "converted", into(CheckpointLayout::nibble));
    EXPECT_EQ(report.layers, 7u);
    EXPECT_EQ(logits(folder_ / "converted"), expected) << spec;
    const auto check = Checkpoint::open(folder_ / "converted");
    EXPECT_EQ(check.read_f32("model.layers.1.mlp.up_proj.weight"),
              Checkpoint::open(half).read_f32("model.layers.1.mlp.up_proj.weight"));
    expect_error(ErrorCode::invalid_argument, "is quantized already, and 6 more are",
                 [&] { quantize_model(half, folder_ / "out", as("nf4")); });
    engine::LoadOptions load;  // what is float is quantized, what is quantized stays
    load.quantize = QuantSpec::parse("int8");
    EXPECT_NE(logits(half, load), expected);
    fs::remove_all(folder_ / "f32");
    fs::remove_all(folder_ / "converted");
  }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
