// What an adapter can be merged into, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/model/convert.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/merge.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/merging.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

class MergeInputs : public MergeFixture {};

TEST_F(MergeInputs, EveryLayoutIsReadAndWrittenAgain) {
  const fs::path model = wide(DType::bf16);
  const Adapter adapter = random_adapter(model, 0.3);
  for (const char* spec : {"int4-g64-asym", "int4-g32-sym", "llm-int8", "int8", "fp4"}) {
    const fs::path base = quantized(model, spec);
    const auto report = merge(base, adapter, into(MergeInto::quantized, nullptr, DType::f32, true));
    EXPECT_GT(report.kept, 0.9) << spec;
    EXPECT_EQ(decode_quantized(Checkpoint::open(out_), kQuery)->spec, QuantSpec::parse(spec));
    EXPECT_EQ(layout_of(Checkpoint::open(out_), kQuery), layout_of(Checkpoint::open(base), kQuery));
    const std::string by_layout = text_of(out_ / "model.safetensors");
    merge(model, adapter, into(MergeInto::quantized, spec, DType::f32, true));
    EXPECT_EQ(text_of(out_ / "model.safetensors"), by_layout) << spec;
  }
}

TEST_F(MergeInputs, OtherLayoutsKeepTheirs) {
  const fs::path model = wide(DType::bf16), ours = quantized(model, "int4-g64-asym");
  const Adapter adapter = random_adapter(model, 0.3);
  merge(ours, adapter, into(MergeInto::quantized, nullptr, DType::f32, true));
  const auto expected = decoded(out_, kQuery);
  for (const auto layout : {CheckpointLayout::gptq, CheckpointLayout::awq_gemm, CheckpointLayout::compressed_tensors}) {
    const fs::path base = folder_ / std::string(nibble::name_of(layout));
    ConvertModelOptions o;
    o.to = layout;
    convert_model(ours, base, o);
    merge(base, adapter, into(MergeInto::quantized, nullptr, DType::f32, true));
    EXPECT_EQ(decoded(out_, kQuery), expected);
    EXPECT_EQ(layout_of(Checkpoint::open(out_), kQuery), layout);
    for (const char* file : {"config.json", "quantize_config.json"})
      EXPECT_EQ(text_of(out_ / file), text_of(base / file)) << base << file;
  }
}

// What is not the adapter's keeps its bytes; a layer that was left in floats is merged in floats.
TEST_F(MergeInputs, LayersInFloatsStayInFloats) {
  const fs::path model = wide(DType::bf16), base = folder_ / "base";
  QuantizeModelOptions o;
  o.spec = QuantSpec::parse("nf4-dq");
  o.skip = {"q_proj"};
  quantize_model(model, base, o);
  Adapter adapter = random_adapter(model, 0.3);
  std::erase_if(adapter.layers,
                [](const AdapterLayer& l) { return l.name != kQuery && !l.name.ends_with("0.self_attn.k_proj"); });
  const auto report = merge(base, adapter, into(MergeInto::quantized, nullptr, DType::f32, true));
  EXPECT_EQ(report.layers.size(), 2u);
  const Checkpoint before = Checkpoint::open(base), after = Checkpoint::open(out_);
  EXPECT_EQ(text_of(out_ / "config.json"), text_of(base / "config.json"));
  EXPECT_EQ(after.info(kQuery + ".weight").type, DType::bf16);
  const auto& query = report.layers[report.layers.front().layer == kQuery ? 0 : 1];
  EXPECT_LT(query.rounding, 0.004);
  for (const TensorInfo& t : before.tensors()) {
    const bool adapted = std::any_of(adapter.layers.begin(), adapter.layers.end(),
                                     [&](const AdapterLayer& l) { return t.name.starts_with(l.name); });
    if (!adapted) EXPECT_TRUE(same_bytes(after.data(t.name), before.data(t.name))) << t.name;
  }
  std::erase_if(adapter.layers, [](const AdapterLayer& l) { return l.name != kQuery; });
  // Nothing of it is quantized, and nothing is lost.
  EXPECT_NEAR(merge(base, adapter, into(MergeInto::quantized)).kept, 1, 0.01);
}

TEST_F(MergeInputs, AGgufFileIsTheBaseThatItHolds) {
  const fs::path model = wide(), file = folder_ / "model.gguf";
  std::ofstream(model / "tokenizer_config.json") << R"({"tokenizer_class": "ByteTokenizer"})";
  ExportGgufOptions o;
  o.type = BlockType::q8_0;
  export_gguf(model, file, o);
  const Adapter adapter = random_adapter(model, 0.02);
  QuantizeModelOptions decode;
  decode.convert_to = DType::f32;
  quantize_model(file, folder_ / "decoded", decode);
  const auto report = merge(file, adapter, into(MergeInto::dequantized));
  EXPECT_EQ(report.layers.size(), 14u);
  for (const AdapterLayer& l : adapter.layers) {
    const auto exact = merged(l, doubles(folder_ / "decoded", l.name));
    EXPECT_LT(norm(minus(doubles(out_, l.name), exact)), 1e-7 * norm(exact)) << l.name;
  }
  merge(file, adapter, into(MergeInto::dequantized, nullptr, DType::f16));
  const Checkpoint halves = Checkpoint::open(out_);
  for (const TensorInfo& t : halves.tensors())
    EXPECT_EQ(t.type, t.shape.size() == 2 ? DType::f16 : DType::f32) << t.name;
  expect_error(ErrorCode::invalid_argument, "no original", [&] { merge(file, adapter, into(MergeInto::original)); });
  expect_error(ErrorCode::unsupported, "GGUF",
               [&] { merge(file, adapter, into(MergeInto::quantized, nullptr, DType::f32, true)); });
  // One of floats is a model like another.
  o.type = BlockType::f32;
  export_gguf(model, folder_ / "floats.gguf", o);
  merge(folder_ / "floats.gguf", adapter, into(MergeInto::original));
  const auto by_gguf = doubles(out_, kQuery);
  merge(model, adapter, into(MergeInto::original));
  EXPECT_EQ(by_gguf, doubles(out_, kQuery));
}

TEST_F(MergeInputs, RefusesWhatItShould) {
  const fs::path model = wide(), base = quantized(model, "nf4");
  const Adapter adapter = random_adapter(model, 0.02);
  const auto refuses = [&](ErrorCode code, const std::string& says, const fs::path& from, const Adapter& a,
                           const MergeOptions& o) {
    expect_error(code, says, [&] { merge(from, a, o); });
    EXPECT_FALSE(fs::exists(out_)) << says;
  };
  using enum ErrorCode;
  refuses(invalid_argument, "% of what the adapter changes would survive", base, adapter, into(MergeInto::quantized));
  refuses(invalid_argument, "gptq-4-g128", model, adapter, into(MergeInto::quantized, "nf4"));
  refuses(invalid_argument, "no original weights", base, adapter, into(MergeInto::original));
  refuses(invalid_argument, "--base", model, adapter, into(MergeInto::dequantized));
  refuses(invalid_argument, "it is the base", base, adapter, into(MergeInto::dequantized, "nf4"));
  refuses(invalid_argument, "F64", model, adapter, into(MergeInto::dequantized, "nf4", DType::f64));
  refuses(invalid_argument, "no layers", model, Adapter{}, into(MergeInto::original));
  Adapter other = adapter;
  other.layers[0].name = "model.layers.9.self_attn.q_proj";
  refuses(not_found, "layers.9", model, other, into(MergeInto::original));
  other = adapter;
  other.layers[0].in /= 2;
  other.layers[0].a.resize(other.layers[0].a.size() / 2);
  refuses(shape_mismatch, "another", model, other, into(MergeInto::original));
  other = adapter;
  for (float& b : other.layers[2].b) b *= 1e9f;
  refuses(non_finite, other.layers[2].name, model, other, into(MergeInto::dequantized, "nf4", DType::f16));
  int calls = 0;
  MergeOptions cancelled_ = into(MergeInto::original);
  cancelled_.progress = [&](double, std::string_view) { return ++calls < 5; };
  refuses(cancelled, "cancelled", model, adapter, cancelled_);
}

// Of a stack of experts each matrix is quantized for itself, as quantize_model does.
TEST_F(MergeInputs, StacksAreDecodedMatrixByMatrix) {
  TinyModel tiny;
  tiny.type = DType::f32;
  const std::string stack = "model.layers.0.mlp.experts.down_proj";
  auto tensors = tensors_of(tiny);
  tensors.push_back(random_tensor(stack, DType::f32, {3, 64, 96}, 99));
  auto config = config_of(tiny);
  const Adapter adapter = random_adapter(write_model(folder_ / "plain", tiny), 0.02);
  config["model_type"] = "somebodys_own";
  const fs::path model = write_model(folder_ / "stacked", config, tensors);
  merge(model, adapter, into(MergeInto::dequantized, "nf4"));
  const auto values = Checkpoint::open(out_).read_f32(stack);
  const fs::path base = quantized(model, "nf4");
  for (std::size_t i = 0; i < 3; ++i) {
    const auto expected = decoded(base, stack + "." + std::to_string(i));
    for (std::size_t k = 0; k < expected.size(); ++k)
      ASSERT_EQ(static_cast<double>(values[i * expected.size() + k]), expected[k]) << i << ", " << k;
  }
  const auto codes = merge(model, adapter, into(MergeInto::quantized, "nf4", DType::f32, true));
  EXPECT_EQ(codes.rounded, 3u);
  EXPECT_TRUE(decode_quantized(Checkpoint::open(out_), stack + ".2"));
}

// Of an architecture that no table describes, layers are found by the names and shapes of tensors.
TEST_F(MergeInputs, UnknownArchitecturesByTheirTensors) {
  const fs::path model = wide(), unknown = folder_ / "unknown";
  const Adapter adapter = random_adapter(model, 0.02);
  fs::copy(model, unknown);
  auto config = nlohmann::json::parse(std::ifstream(model / "config.json"));
  config["model_type"] = "somebodys_own";
  std::ofstream(unknown / "config.json") << config.dump();
  merge(model, adapter, into(MergeInto::dequantized, "nf4"));
  const std::string known = text_of(out_ / "model.safetensors");
  const auto report = merge(unknown, adapter, into(MergeInto::dequantized, "nf4"));
  EXPECT_EQ(text_of(out_ / "model.safetensors"), known);
  EXPECT_EQ(report.notes.size(), 1u);
  Adapter other = adapter;
  other.layers[0].name = "model.layers.9.self_attn.q_proj";
  expect_error(ErrorCode::not_found, "layers.9", [&] { merge(unknown, other, into(MergeInto::original)); });
  other = adapter;
  std::swap(other.layers[0].name, other.layers.back().name);
  expect_error(ErrorCode::shape_mismatch, "256", [&] { merge(unknown, other, into(MergeInto::original)); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
