// Weights that nothing here decodes are refused wherever they are asked for, by a message that names the tensor, the
// way they are quantized and what the configuration calls it.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "nibble/format/checkpoint.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr const char* kConfigOfFp8 = R"({"quant_method": "fp8", "weight_block_size": [32, 32]})";

NamedTensor tensor(const std::string& name, DType type, const std::vector<std::size_t>& shape) {
  std::size_t bytes = size_of(type);
  for (const std::size_t d : shape) bytes *= d;
  return {name, type, shape, Buffer::allocate(bytes)};
}

/// A way to store a weight, and what is said of it.
struct Foreign {
  const char* name;
  std::vector<NamedTensor> tensors;
  std::string config;  ///< Of a config.json; empty for none.
  std::vector<std::string> says;
};

std::vector<Foreign> foreign_weights() {
  const auto weight = [](DType type, std::size_t cols = 32) { return tensor("L.weight", type, {32, cols}); };
  const auto fp8 = weight(DType::f8_e4m3);
  const auto ct = [](const char* format) {
    return R"({"quantization_config": {"quant_method": "compressed-tensors", "format": ")" + std::string(format) +
           "\"}}";
  };
  return {{"fp8 in blocks that no configuration speaks of",
           {fp8, tensor("L.weight_scale_inv", DType::f32, {1, 1})},
           "",
           {"'L.weight' is F8_E4M3", "'L.weight_scale_inv'", "in fp8"}},
          {"fp8 of a method that has none",
           {fp8, tensor("L.weight_scale", DType::bf16, {32, 1})},
           R"({"quant_method": "gptq", "bits": 4})",
           {"'L.weight' is F8_E4M3", "'L.weight_scale'", "quant_method 'gptq'"}},
          {"fp8 and nothing else", {fp8}, "", {"'L.weight' is F8_E4M3, the codes of a quantized weight"}},
          {"fp8 of the other kind", {weight(DType::f8_e5m2)}, "", {"'L.weight' is F8_E5M2"}},
          {"scaled fp8", {fp8, tensor("L.scale_weight", DType::f32, {})}, "", {"'L.scale_weight'"}},
          {"NVFP4 with factors for its inputs",
           {weight(DType::u8, 16), tensor("L.weight_scale", DType::f8_e4m3, {32, 2}),
            tensor("L.weight_scale_2", DType::f32, {}), tensor("L.pre_quant_scale", DType::bf16, {32})},
           R"({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"})",
           {"'L.pre_quant_scale'", "ModelOpt", "quant_method 'modelopt'"}},
          {"NVFP4 of ModelOpt",
           {weight(DType::u8, 16), tensor("L.weight_scale", DType::f8_e4m3, {32, 2}),
            tensor("L.weight_scale_2", DType::f32, {})},
           "",
           {"'L.weight' is U8", "'L.weight_scale_2'", "NVFP4"}},
          {"MLX",
           {weight(DType::u32, 4), tensor("L.scales", DType::f16, {32, 1}), tensor("L.biases", DType::f16, {32, 1})},
           R"({"quantization": {"group_size": 32, "bits": 4}, "quantization_config": {"group_size": 32, "bits": 4}})",
           {"'L.weight' is U32", "'L.biases'", "by MLX", "quant_method 'mlx'"}},
          {"HQQ", {tensor("L.W_q", DType::u8, {16, 32})}, R"({"quant_method": "hqq"})", {"'L.W_q'", "HQQ", "'hqq'"}},
          {"EETQ", {weight(DType::i8), tensor("L.weight_scales", DType::f16, {32})}, "", {"'L.weight' is I8", "EETQ"}},
          {"bitsandbytes without its state",
           {weight(DType::u8, 16), tensor("L.weight.absmax", DType::f32, {16})},
           R"({"quant_method": "bitsandbytes"})",
           {"'L.weight' is U8", "'L.weight.absmax'", "bitsandbytes"}},
          {"floats that are to be rounded with a scale",
           {weight(DType::bf16), tensor("L.weight_scale", DType::bf16, {32, 1})},
           ct("dense"),
           {"'L.weight' is BF16", "'L.weight_scale'"}},
          {"floats of a method that changes them",
           {weight(DType::bf16)},
           R"({"quant_method": "bitnet"})",
           {"'L.weight'", "quant_method 'bitnet'"}},
          {"int8 without a word", {weight(DType::i8)}, "", {"'L.weight' is I8"}}};
}

void expect_unsupported(const Foreign& f, const char* where, const std::function<void()>& action) {
  for (const std::string& says : f.says) {
    SCOPED_TRACE(std::string(f.name) + ": " + where);
    expect_error(ErrorCode::unsupported, says, action);
  }
}

TEST(Undecoded, EveryReaderRefusesEveryKindByName) {
  for (const Foreign& f : foreign_weights()) {
    const TemporaryFolder folder;
    write_in_order(folder / "model.safetensors", f.tensors);
    if (!f.config.empty()) {
      const bool is_whole = f.config.find("quantization") != std::string::npos;
      std::ofstream(folder / (is_whole ? "config.json" : "quantize_config.json")) << f.config;
    }
    const auto file = Checkpoint::open(folder.path());
    expect_unsupported(f, "layout_of", [&] { (void)layout_of(file, "L"); });
    expect_unsupported(f, "decode_quantized", [&] { (void)decode_quantized(file, "L"); });
    if (!file.contains("L.weight")) continue;
    expect_unsupported(f, "matrix", [&] { (void)file.matrix("L.weight"); });
    expect_unsupported(f, "read_f32", [&] { (void)file.read_f32("L.weight"); });
  }
}

TEST(Undecoded, ASourceThatCannotListItsTensorsIsAskedForTheKnownOnes) {
  for (const Foreign& f : foreign_weights()) {
    MemoryCheckpoint file;
    for (const NamedTensor& t : f.tensors) file.tensors[t.name] = t;
    if (!f.config.empty()) file.configure(f.config);
    expect_unsupported(f, "decode_quantized", [&] { (void)decode_quantized(file, "L"); });
  }
}

TEST(Undecoded, WhatIsPlainIsRead) {
  const TemporaryFolder folder;
  std::ofstream(folder / "quantize_config.json") << kConfigOfFp8;
  write_in_order(
      folder / "model.safetensors",
      {tensor("lm_head.weight", DType::bf16, {4, 4}), tensor("model.embed_tokens.weight", DType::f16, {4, 4}),
       tensor("model.norm.weight", DType::f32, {4}), tensor("model.norm.bias", DType::f64, {4})});
  const auto file = Checkpoint::open(folder.path());
  EXPECT_EQ(file.matrix("lm_head.weight").rows, 4u);
  for (const TensorInfo& t : file.tensors()) EXPECT_EQ(file.read_f32(t.name).size(), t.bytes / size_of(t.type));
  EXPECT_FALSE(layout_of(file, "model.norm"));
}

/// bitsandbytes may pack its codes into elements of BF16: numbers that look like weights.
TEST(Undecoded, CodesOfALayerThatIsReadAreNoMatrixEither) {
  const TemporaryFolder folder;
  const auto q = random_quantized(QuantSpec::parse("nf4"), 8, 64, 1);
  std::vector<NamedTensor> tensors = encode_quantized(CheckpointLayout::bitsandbytes, "L", q, DType::bf16);
  tensors[0].type = DType::bf16;
  tensors[0].shape = {128, 1};
  write_in_order(folder / "model.safetensors", tensors);
  const auto file = Checkpoint::open(folder.path());
  EXPECT_TRUE(decode_quantized(file, "L"));
  const std::string says = "'L.weight' is the codes of a layer quantized in the layout bitsandbytes";
  expect_error(ErrorCode::unsupported, says, [&] { (void)file.matrix("L.weight"); });
  expect_error(ErrorCode::unsupported, says, [&] { (void)file.read_f32("L.weight"); });
}

TEST(Undecoded, TypesThatOnlyQuantizedModelsHaveAreNoDamage) {
  const TemporaryFolder folder;
  for (const char* type : {"F6_E2M3", "F4"}) {
    const std::string header =
        R"({"L.scale": {"dtype": ")" + std::string(type) + R"(", "shape": [2], "data_offsets": [0, 2]}})";
    const std::uint64_t length = header.size();
    std::ofstream out(folder / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header << "ab";
    out.close();
    expect_error(ErrorCode::unsupported, "tensor 'L.scale' is " + std::string(type),
                 [&] { (void)Checkpoint::open(folder.path()); });
  }
}

TEST(Undecoded, PartsThatNobodyReadsAreListed) {
  const TemporaryFolder folder;
  write_in_order(folder / "model.safetensors",
                 {tensor("L.weight", DType::bf16, {8, 8}), tensor("L.bias", DType::bf16, {8}),
                  tensor("L.input_scale", DType::f32, {1}), tensor("L.lora_A.weight", DType::bf16, {2, 8})});
  EXPECT_EQ(unread_tensors(Checkpoint::open(folder.path()), "L"), std::vector<std::string>{"L.lora_A.weight"});
}

}  // namespace
}  // namespace nibble
