#include "nibble/model/quantize.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "nibble/core/error.h"
#include "nibble/engine/evaluate.h"
#include "tests/support/peak_memory.h"
#include "tests/support/tiny_model.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

constexpr const char* kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

class QuantizeModel : public testing::Test {
 protected:
  QuantizeModel() : folder_(fs::temp_directory_path() / ("nibble-quantize-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~QuantizeModel() override { fs::remove_all(folder_); }
  static QuantizeModelOptions as(const char* spec) {
    QuantizeModelOptions o;
    o.spec = QuantSpec::parse(spec);
    return o;
  }
  static double perplexity(const fs::path& model, const engine::LoadOptions& load = {}) {
    std::ifstream in(NIBBLE_EXAMPLE_DATA "/evaluation.txt", std::ios::binary);
    std::vector<std::int32_t> ids;
    for (char c; ids.size() < 4096 && in.get(c);) ids.push_back(static_cast<unsigned char>(c));
    return evaluate(engine::Model::load(model, load), ids).perplexity();
  }
  fs::path folder_;
};

TEST_F(QuantizeModel, TheFileIsWhatQuantizingWhileLoadingGives) {
  for (const char* spec : {"nf4-b64-dq", "int4-g32-asym", "llm-int8", "int8"}) {
    const auto report = quantize_model(kModel, folder_ / spec, as(spec));
    EXPECT_EQ(report.layers, 42u);
    engine::LoadOptions load;
    load.quantize = QuantSpec::parse(spec);
    EXPECT_EQ(perplexity(folder_ / spec), perplexity(kModel, load)) << spec;
    EXPECT_TRUE(fs::exists(folder_ / spec / "tokenizer_config.json"));
  }
}

TEST_F(QuantizeModel, AnErrorOrACancelLeavesNothing) {
  auto cancelled = as("nf4");
  int calls = 0;
  cancelled.progress = [&](double, std::string_view) { return ++calls < 10; };
  EXPECT_THROW(quantize_model(kModel, folder_ / "out", cancelled), Error);
  EXPECT_THROW(quantize_model(folder_ / "nothing", folder_ / "out", as("nf4")), Error);
  EXPECT_TRUE(fs::is_empty(folder_));
  fs::create_directory(folder_ / "there");
  EXPECT_THROW(quantize_model(kModel, folder_ / "there", as("nf4")), Error);
  EXPECT_TRUE(fs::is_empty(folder_ / "there"));
}

TEST_F(QuantizeModel, MemoryStaysUnderThreeTensors) {
  // Two blocks of three 1024 × 4096 fp32 tensors each: 16 MiB, of which at most three may be held at any time.
  const TinyModel big{
      .layers = 2, .hidden = 1024, .intermediate = 4096, .heads = 16, .kv_heads = 1, .type = DType::f32};
  write_model(folder_ / "big", big);
  const std::size_t before = held_bytes();
  reset_peak();
  quantize_model(folder_ / "big", folder_ / "small", as("nf4-dq"));
  const double tensors = static_cast<double>(peak_bytes() - std::min(before, peak_bytes())) / (16 << 20);
  std::printf("peak: %.2f of the largest tensor\n", tensors);
  if (memory_is_measurable) EXPECT_LT(tensors, 3);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
