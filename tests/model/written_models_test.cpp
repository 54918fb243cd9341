// Every model that we write is read back by ourselves: each method, layout and odd number of blocks and shards, from
// files that other writers aligned to nothing.
#include <gtest/gtest.h>

#include "nibble/engine/model.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/convert.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

std::vector<float> logits(const fs::path& model, const char* quantize = nullptr) {
  engine::LoadOptions o;
  if (quantize != nullptr) o.quantize = QuantSpec::parse(quantize);
  const engine::Model m = engine::Model::load(model, o);
  engine::KvCache cache(m.config(), 8);
  const std::vector<std::int32_t> ids{1, 2, 3, 250, 7};
  return m.forward(ids, cache);
}

void expect_aligned(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::uint64_t header = 0;
  in.read(reinterpret_cast<char*>(&header), 8);
  EXPECT_EQ(header % 8, 0u) << file;
  const SafetensorsFile read(file);
  for (const TensorInfo& t : read.tensors()) EXPECT_EQ(t.offset % size_of(t.type), 0u) << file << ": " << t.name;
}

class WrittenModels : public testing::Test {
 protected:
  fs::path next() { return folder_ / std::to_string(++count_); }
  fs::path quantize(const fs::path& from, const char* spec) {
    QuantizeModelOptions o;
    o.spec = QuantSpec::parse(spec);
    const fs::path out = next();
    quantize_model(from, out, o);
    return out;
  }
  TemporaryFolder folder_;
  int count_ = 0;
};

TEST_F(WrittenModels, EveryMethodComesBackWhateverTheNumberOfBlocksAndShards) {
  for (const std::size_t layers : {1u, 3u})
    for (const std::size_t shards : {1u, 2u, 5u}) {
      const auto model = write_model(next(), TinyModel{.layers = layers}, {.shards = shards});
      for (const char* spec : {"nf4", "nf4-dq", "fp4", "int8", "llm-int8", "int4-g32-sym", "int3-g32-asym"}) {
        const fs::path out = quantize(model, spec);
        expect_aligned(out / "model.safetensors");
        EXPECT_EQ(logits(out), logits(model, spec)) << spec << ", " << layers << " blocks, " << shards << " shards";
      }
    }
}

TEST_F(WrittenModels, OddShapesComeBack) {
  const TinyModel odd{.layers = 3, .hidden = 10, .intermediate = 35, .heads = 1, .kv_heads = 1, .vocab = 251};
  for (const bool tied : {false, true}) {
    TinyModel m = odd;
    m.tied = tied;
    const auto model = write_model(next(), m, {.shards = 3});
    for (const char* spec : {"nf4", "fp4-dq", "int8", "llm-int8", "int5-g7-asym", "int2-channel-sym", "fp8", "e4m3-t32",
                             "e4m3-tensor", "mxfp6", "e2m1-g7-e8m0", "nvfp4"}) {
      const fs::path out = quantize(model, spec);
      expect_aligned(out / "model.safetensors");
      EXPECT_EQ(logits(out), logits(model, spec)) << spec;
    }
  }
}

TEST_F(WrittenModels, EveryTypeOfWeightsComesBack) {
  const auto model = write_model(next(), TinyModel{.layers = 3, .type = DType::f16}, {.shards = 2});
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    QuantizeModelOptions o;
    o.convert_to = type;
    const fs::path out = next();
    quantize_model(model, out, o);
    expect_aligned(out / "model.safetensors");
    if (type != DType::bf16) EXPECT_EQ(logits(out), logits(model)) << name_of(type);
    else EXPECT_EQ(logits(out).size(), logits(model).size());
  }
}

TEST_F(WrittenModels, EveryLayoutComesBack) {
  for (const std::size_t layers : {1u, 3u}) {
    const auto model =
        write_model(next(), TinyModel{.layers = layers, .intermediate = 128, .kv_heads = 2}, {.shards = 3});
    for (const char* spec : {"int4-g32-asym", "int8", "nvfp4", "e4m3-tensor"}) {
      const fs::path quantized = quantize(model, spec);
      const auto expected = logits(quantized);
      for (const CheckpointLayout layout : checkpoint_layouts()) {
        if (layout == CheckpointLayout::awq_gemv_fast) continue;  // only read
        if (std::string_view(spec) == "nvfp4" && name_of(layout).starts_with("awq"))
          continue;  // its nearest groups are of two sizes here, for which an AWQ configuration has no words
        ConvertModelOptions o;
        o.to = layout;
        o.allow_loss = true;
        const fs::path out = next();
        const auto report = convert_model(quantized, out, o);
        expect_aligned(out / "model.safetensors");
        if (report.losses.empty()) EXPECT_EQ(logits(out), expected) << spec << " in " << name_of(layout);
        else EXPECT_EQ(logits(out).size(), expected.size());
      }
    }
  }
}

/// Headers of any length, and bytes before the wide elements: every tensor lies across its elements' boundaries.
TEST_F(WrittenModels, FilesThatAlignNothingAreReadTheSame) {
  for (const DType type : {DType::bf16, DType::f32}) {
    const TinyModel m{.layers = 2, .type = type};
    const auto aligned = write_model(next(), m);
    auto tensors = tensors_of(m);
    tensors.insert(tensors.begin() + 3, NamedTensor{"a.flag", DType::u8, {1}, buffer_of<std::uint8_t>({1})});
    for (const std::size_t spaces : {1u, 2u, 7u}) {
      const auto model = write_model(next(), config_of(m), tensors, {.shards = 2, .spaces = spaces});
      EXPECT_EQ(logits(model), logits(aligned));
      for (const char* spec : {"nf4", "int8", "int4-g32-sym"}) {
        EXPECT_EQ(logits(quantize(model, spec)), logits(aligned, spec)) << spec << ", " << spaces;
        if (spaces > 1) break;
      }
      for (const fs::path& from : {aligned, model})
        fs::copy_file(NIBBLE_EXAMPLE_DATA "/austen-5m/tokenizer_config.json", from / "tokenizer_config.json",
                      fs::copy_options::overwrite_existing);
      ExportGgufOptions q8;
      q8.type = BlockType::q8_0;
      export_gguf(model, folder_ / "a.gguf", q8);
      export_gguf(aligned, folder_ / "b.gguf", q8);
      EXPECT_EQ(logits(folder_ / "a.gguf"), logits(folder_ / "b.gguf"));
    }
  }
}

TEST_F(WrittenModels, QuantizedLayersThatAlignNothingAreReadTheSame) {
  const auto model = write_model(next(), TinyModel{.layers = 1, .kv_heads = 2});
  for (const CheckpointLayout layout : {CheckpointLayout::gptq, CheckpointLayout::awq_gemv,
                                        CheckpointLayout::compressed_tensors, CheckpointLayout::nibble}) {
    ConvertModelOptions o;
    o.to = layout;
    o.allow_loss = true;
    const fs::path aligned = next(), shifted = next();
    convert_model(quantize(model, "int4-g32-asym"), aligned, o);
    const auto in = Checkpoint::open(aligned);
    std::vector<NamedTensor> tensors{{"a.flag", DType::u8, {1}, buffer_of<std::uint8_t>({1})}};
    for (const TensorInfo& t : in.tensors()) tensors.push_back(*in.find(t.name));
    fs::create_directories(shifted);
    fs::copy_file(aligned / "config.json", shifted / "config.json");
    write_in_order(shifted / "model.safetensors", tensors, 0,
                   SafetensorsFile(aligned / "model.safetensors").metadata());
    EXPECT_EQ(logits(shifted), logits(aligned)) << name_of(layout);
  }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
