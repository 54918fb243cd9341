#include "nibble/model/convert.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "nibble/engine/evaluate.h"
#include "nibble/engine/model.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/architecture.h"
#include "nibble/model/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/peak_memory.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

constexpr const char* kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

class ConvertModel : public testing::Test {
 protected:
  fs::path quantized(const char* spec) {
    QuantizeModelOptions o;
    o.spec = QuantSpec::parse(spec);
    quantize_model(kModel, folder_ / spec, o);
    return folder_ / spec;
  }
  ConvertModelReport convert(const fs::path& from, const fs::path& to, CheckpointLayout layout,
                             bool allow_loss = false) {
    ConvertModelOptions o;
    o.to = layout;
    o.allow_loss = allow_loss;
    return convert_model(from, to, o);
  }
  static std::string text_of(const fs::path& path) {
    std::stringstream out;
    out << std::ifstream(path, std::ios::binary).rdbuf();
    return out.str();
  }
  static double perplexity(const fs::path& model) {
    std::ifstream in(NIBBLE_EXAMPLE_DATA "/evaluation.txt", std::ios::binary);
    std::vector<std::int32_t> ids;
    for (char c; ids.size() < 384 && in.get(c);) ids.push_back(static_cast<unsigned char>(c));
    return evaluate(engine::Model::load(model), ids).perplexity();
  }
  TemporaryFolder folder_;
};

TEST_F(ConvertModel, EveryLayoutRunsInTheEngineAndComesBackByteForByte) {
  const auto model = quantized("int4-g64-asym");
  const double exact = perplexity(model);
  const std::string bytes = text_of(model / "model.safetensors");
  for (const auto layout : {CheckpointLayout::gptq_v2, CheckpointLayout::awq_gemm, CheckpointLayout::awq_gemv,
                            CheckpointLayout::compressed_tensors, CheckpointLayout::nibble}) {
    const fs::path out = folder_ / std::string(name_of(layout)),
                   back = folder_ / (std::string(name_of(layout)) + "-back");
    const auto report = convert(model, out, layout);
    EXPECT_EQ(report.layers, 42u);
    EXPECT_TRUE(report.losses.empty());
    EXPECT_EQ(report.file_bytes, fs::file_size(out / "model.safetensors"));
    EXPECT_EQ(perplexity(out), exact) << out;
    EXPECT_TRUE(fs::exists(out / "tokenizer_config.json"));
    EXPECT_EQ(fs::exists(out / "quantize_config.json"), layout == CheckpointLayout::gptq_v2);
    convert(out, back, CheckpointLayout::nibble);
    EXPECT_EQ(text_of(back / "model.safetensors"), bytes) << out;
  }
}

TEST_F(ConvertModel, BitsandbytesIsReadAndWritten) {
  for (const char* spec : {"nf4-dq", "int8"}) {
    const auto model = quantized(spec);
    const fs::path ours = folder_ / (std::string(spec) + "-ours"), back = folder_ / (std::string(spec) + "-back");
    convert(model, ours, CheckpointLayout::nibble);
    EXPECT_EQ(perplexity(ours), perplexity(model)) << spec;
    convert(ours, back, CheckpointLayout::bitsandbytes);
    EXPECT_EQ(text_of(back / "model.safetensors"), text_of(model / "model.safetensors")) << spec;
  }
}

TEST_F(ConvertModel, LossIsAnErrorUnlessAllowed) {
  const auto model = quantized("nf4-b64");
  expect_error(ErrorCode::unsupported, "layer 'model.layers.0.mlp.down_proj' (nf4-b64) would lose something in gptq-v2",
               [&] { convert(model, folder_ / "out", CheckpointLayout::gptq_v2); });
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  const auto report = convert(model, folder_ / "out", CheckpointLayout::gptq_v2, true);
  ASSERT_EQ(report.losses.size(), 42u);
  EXPECT_EQ(report.losses[0].layer, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(report.losses[0].from.to_string(), "nf4-b64");
  EXPECT_EQ(report.losses[0].to.to_string(), "int4-g64-asym");
  EXPECT_NEAR(perplexity(folder_ / "out") / perplexity(model), 1, 0.02);
}

TEST_F(ConvertModel, WiderScalesAreRoundedAndNothingElse) {
  const auto model = quantized("int4-g64-sym-f32");
  const auto report = convert(model, folder_ / "out", CheckpointLayout::gptq, true);
  ASSERT_EQ(report.losses.size(), 42u);
  EXPECT_NE(report.losses[0].why.find("is not exact in F16"), std::string::npos) << report.losses[0].why;
  const auto before = Checkpoint::open(model), after = Checkpoint::open(folder_ / "out");
  const std::string layer = find_architecture("llama").linear_names(3)[1];
  const auto a = *decode_quantized(before, layer), b = *decode_quantized(after, layer);
  for (std::size_t r = 0; r < a.rows; ++r)
    for (std::size_t c = 0; c < a.cols; ++c) ASSERT_EQ(a.code(r, c), b.code(r, c));
  for (std::size_t g = 0; g < a.group_count(); ++g) EXPECT_EQ(b.scale(g), static_cast<float>(f16(a.scale(g))));
}

TEST_F(ConvertModel, RefusesAModelWithNothingQuantized) {
  expect_error(ErrorCode::invalid_argument, "holds no quantized layer",
               [&] { convert(kModel, folder_ / "out", CheckpointLayout::gptq); });
  const auto model = quantized("nf4");
  expect_error(ErrorCode::invalid_argument, "is the input", [&] { convert(model, model, CheckpointLayout::nibble); });
  ConvertModelOptions cancelled;
  int calls = 0;
  cancelled.progress = [&](double, std::string_view) { return ++calls < 10; };
  expect_error(ErrorCode::cancelled, "cancelled", [&] { convert_model(model, folder_ / "out", cancelled); });
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1);  // the model alone
}

TEST_F(ConvertModel, MemoryStaysUnderAFewLayers) {
  // Two blocks of three 2048 × 4096 layers each: 4 MiB each as int4, 32 MiB as fp32, which a lossless conversion
  // never makes.
  write_model(folder_ / "big",
              TinyModel{.layers = 2, .hidden = 2048, .intermediate = 4096, .heads = 32, .kv_heads = 1});
  QuantizeModelOptions o;
  o.spec = QuantSpec::parse("int4-g128-asym");
  quantize_model(folder_ / "big", folder_ / "int4", o);
  const std::size_t before = held_bytes();
  reset_peak();
  convert(folder_ / "int4", folder_ / "gptq", CheckpointLayout::gptq_v2);
  const double layers = static_cast<double>(peak_bytes() - std::min(before, peak_bytes())) / (4 << 20);
  std::printf("peak: %.2f of a layer's codes\n", layers);
  if (memory_is_measurable) EXPECT_LT(layers, 5);
}

/// A quantized head, as a few GPTQ models have it.
TEST_F(ConvertModel, TheHeadMayBeQuantized) {
  const auto model = quantized("int4-g64-asym");
  convert(model, folder_ / "gptq", CheckpointLayout::gptq_v2);
  const auto in = Checkpoint::open(folder_ / "gptq");
  const FloatMatrix head = in.matrix("lm_head.weight");
  const auto q = default_backend().quantize(head, QuantSpec::parse("int8-g64-asym"), "lm_head", default_executor());
  std::vector<NamedTensor> tensors = encode_quantized(CheckpointLayout::gptq_v2, "lm_head", q, head.type);
  for (const TensorInfo& t : in.tensors())
    if (t.name != "lm_head.weight") tensors.push_back({t.name, t.type, t.shape, in.data(t.name)});
  fs::create_directories(folder_ / "head");
  fs::copy_file(folder_ / "gptq/config.json", folder_ / "head/config.json");
  std::ofstream(folder_ / "head/quantize_config.json")
      << R"({"bits": 4, "group_size": 64, "sym": false, "lm_head": true, "checkpoint_format": "gptq_v2",
             "dynamic": {"lm_head": {"bits": 8}}})";
  {
    std::vector<TensorInfo> infos;
    for (const auto& t : tensors) infos.push_back({t.name, t.type, t.shape, 0, 0});
    SafetensorsWriter writer(folder_ / "head/model.safetensors", infos, {});
    for (const auto& t : tensors) writer.write(t.name, {t.bytes.data(), t.bytes.size()});
    writer.finish();
  }
  EXPECT_NEAR(perplexity(folder_ / "head") / perplexity(model), 1, 0.005);
  EXPECT_NE(perplexity(folder_ / "head"), perplexity(model));
  convert(folder_ / "head", folder_ / "back", CheckpointLayout::compressed_tensors);
  EXPECT_EQ(perplexity(folder_ / "back"), perplexity(folder_ / "head"));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
