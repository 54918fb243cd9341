#include "nibble/model/merge.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/memory_checkpoint.h"
#include "tests/support/merging.h"
#include "tests/support/peak_memory.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const fs::path kGolden = NIBBLE_TEST_DATA "/golden";

class Merge : public MergeFixture {};

/// None of the two neighbours is nearer.
template <class T>
void expect_rounded_once(const Buffer& bytes, const std::vector<double>& exact) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const T value = bytes.as<T>()[i];
    const double error = std::abs(static_cast<double>(static_cast<float>(value)) - exact[i]);
    for (const int step : {-1, 1}) {
      const auto other = std::bit_cast<T>(static_cast<Bits>(std::bit_cast<Bits>(value) + static_cast<Bits>(step)));
      const double there = static_cast<double>(static_cast<float>(other));
      if (std::isfinite(there)) ASSERT_LE(error, std::abs(there - exact[i]) * (1 + 1e-12)) << i;
    }
  }
}

TEST_F(Merge, OriginalWeightsKeepTheirTypeAndAreRoundedOnce) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    const fs::path model = wide(type);
    const Adapter adapter = random_adapter(model, 0.02);
    const auto report = merge(model, adapter, into(MergeInto::original));
    ASSERT_EQ(report.layers.size(), 14u);
    const Checkpoint before = Checkpoint::open(model), after = Checkpoint::open(out_);
    for (const TensorInfo& t : before.tensors()) {
      EXPECT_EQ(after.info(t.name).type, t.type);
      const AdapterLayer* l = adapter.find(t.name.substr(0, t.name.rfind('.')));
      if (l == nullptr) {
        EXPECT_TRUE(same_bytes(after.data(t.name), before.data(t.name))) << t.name;
        continue;
      }
      const auto exact = merged(*l, doubles(model, l->name));
      const Buffer bytes = after.aligned_data(t.name);
      if (type == DType::f32) expect_rounded_once<float>(bytes, exact);
      else if (type == DType::f16) expect_rounded_once<f16>(bytes, exact);
      else expect_rounded_once<bf16>(bytes, exact);
    }
    EXPECT_NEAR(report.mean(&MergedLayer::change), 0.02, 1e-4);
    EXPECT_NEAR(report.kept, 1, 0.01);
    EXPECT_FALSE(report.layers.front().untrained);
    EXPECT_EQ(report.file_bytes, fs::file_size(out_ / "model.safetensors"));
    EXPECT_EQ(text_of(out_ / "config.json"), text_of(model / "config.json"));
  }
}

TEST_F(Merge, GoldenModelsInAllWays) {
  for (const char* name : {"gqa_tied", "qwen3", "phi3", "glm4", "mixtral"}) {
    const fs::path model = kGolden / name;
    const Adapter adapter = random_adapter(model, 0.05);
    const auto original = merge(model, adapter, into(MergeInto::original, "nf4"));
    EXPECT_EQ(original.layers.size(), adapter.layers.size());
    EXPECT_GT(original.layers.front().untrained.value(), 0.05);
    const AdapterLayer& l = adapter.layers.front();
    const auto base = decoded(model, l.name, "nf4"), w = doubles(model, l.name);
    EXPECT_NEAR(*original.layers.front().untrained, norm(minus(w, base)) / norm(w), 1e-9);
    const auto plain = merge(model, adapter, into(MergeInto::dequantized, "nf4"));
    EXPECT_LT(plain.mean(&MergedLayer::rounding), 1e-7);
    for (const AdapterLayer& a : adapter.layers) {
      const auto exact = merged(a, decoded(model, a.name, "nf4"));
      EXPECT_LT(norm(minus(doubles(out_, a.name), exact)), 1e-7 * norm(exact)) << a.name;
    }
    merge(model, adapter, into(MergeInto::quantized, "nf4", DType::f32, true));
    EXPECT_EQ(Config::load(out_).layers, Config::load(model).layers);
    EXPECT_TRUE(decode_quantized(Checkpoint::open(out_), l.name));
  }
}

// The two ways to say what was trained over give the same file, and layers without an adapter are decoded, too.
TEST_F(Merge, DequantizedIsTheBaseAndTheChange) {
  const fs::path model = wide(DType::bf16);
  Adapter adapter = random_adapter(model, 0.02);
  adapter.layers.erase(adapter.layers.begin() + 1, adapter.layers.end());
  const std::string other = "model.layers.1.mlp.down_proj";
  for (const char* spec : {"nf4-dq", "int4-g32-asym", "llm-int8"}) {
    const auto report = merge(model, adapter, into(MergeInto::dequantized, spec));
    EXPECT_EQ(report.layers.size(), 1u);
    EXPECT_EQ(report.rounded, 13u);
    EXPECT_EQ(doubles(out_, other), decoded(model, other, spec)) << spec;
    const std::string by_base = text_of(out_ / "model.safetensors");
    const auto again = merge(quantized(model, spec), adapter, into(MergeInto::dequantized));
    EXPECT_EQ(again.rounded, 13u);
    EXPECT_EQ(again.layers.front().kept, report.layers.front().kept);
    EXPECT_EQ(text_of(out_ / "model.safetensors"), by_base) << spec;
    const auto config = nlohmann::json::parse(std::ifstream(out_ / "config.json"));
    EXPECT_FALSE(config.contains("quantization_config"));
    EXPECT_EQ(config.value("torch_dtype", ""), "float32");
    EXPECT_EQ(Checkpoint::open(out_).info("model.norm.weight").type, DType::bf16);
  }
}

TEST_F(Merge, SixteenBitsCostWhatTheReportSays) {
  const fs::path model = wide();
  const Adapter adapter = random_adapter(model, 0.02);
  const auto half = merge(model, adapter, into(MergeInto::dequantized, "nf4", DType::f16));
  const auto& l = half.layers.front();
  const auto exact = merged(*adapter.find(l.layer), decoded(model, l.layer, "nf4"));
  EXPECT_NEAR(l.rounding, norm(minus(doubles(out_, l.layer), exact)) / l.weight, 1e-9);
  const auto brain = merge(model, adapter, into(MergeInto::dequantized, "nf4", DType::bf16));
  EXPECT_NEAR(brain.layers.front().rounding / l.rounding, 8, 1);
  EXPECT_LT(brain.layers.front().rounding, 0.004);
}

TEST_F(Merge, CodesSwallowASmallChangeAndKeepALargeOne) {
  const fs::path model = wide();
  for (const char* spec : {"nf4", "nf4-dq"}) {
    const auto small = merge(model, random_adapter(model, 0.01), into(MergeInto::quantized, spec, DType::f32, true));
    EXPECT_GT(small.kept, 0) << spec;
    EXPECT_LT(small.kept, 0.2) << spec;
    EXPECT_LE(small.least_kept().kept, small.kept);
    const auto large = merge(model, random_adapter(model, 0.3), into(MergeInto::quantized, spec, DType::f32, true));
    EXPECT_GT(large.kept, 0.9) << spec;
    std::printf("%s: of 1 %% survives %.1f %%, of 30 %% %.1f %%\n", spec, 100 * small.kept, 100 * large.kept);
  }
}

TEST_F(Merge, TheShareIsTheProjectionOfWhatWasStored) {
  const fs::path model = wide(), base = quantized(model, "nf4-dq");
  const Adapter adapter = random_adapter(model, 0.1);
  const auto report = merge(base, adapter, into(MergeInto::quantized, nullptr, DType::f32, true));
  const MergedLayer& l = report.layers[3];
  const auto before = decoded(base, l.layer), exact = merged(*adapter.find(l.layer), before);
  const auto delta = minus(exact, before), achieved = minus(decoded(out_, l.layer), before);
  double dot = 0;
  for (std::size_t i = 0; i < delta.size(); ++i) dot += delta[i] * achieved[i];
  EXPECT_NEAR(l.kept, dot / (norm(delta) * norm(delta)), 1e-5);
  EXPECT_NEAR(l.change, norm(delta) / norm(before), 1e-6);
  EXPECT_NEAR(l.rounding, norm(minus(achieved, delta)) / norm(before), 1e-6);
}

TEST_F(Merge, NoChangeChangesNoCode) {
  const fs::path model = wide();
  Adapter untouched = random_adapter(model, 0.1);
  for (AdapterLayer& l : untouched.layers) std::fill(l.b.begin(), l.b.end(), 0.0f);
  for (const char* spec : {"nf4", "nf4-dq", "int4-g32-asym", "llm-int8"}) {
    const fs::path base = quantized(model, spec);
    const auto report = merge(base, untouched, into(MergeInto::quantized, nullptr, DType::f32, true));
    EXPECT_EQ(text_of(out_ / "model.safetensors"), text_of(base / "model.safetensors")) << spec;
    EXPECT_EQ(report.kept, 1);
    EXPECT_EQ(report.mean(&MergedLayer::change), 0);
    EXPECT_GT(report.layers.front().weight, 0);
    merge(model, untouched, into(MergeInto::quantized, spec, DType::f32, true));
    EXPECT_EQ(text_of(out_ / "model.safetensors"), text_of(base / "model.safetensors")) << spec;
    EXPECT_EQ(text_of(out_ / "config.json"), text_of(base / "config.json")) << spec;
  }
}

// Quantizing what codes decode to gives the codes: a change far below a step is rounded away whole.
TEST_F(Merge, AChangeFarBelowAStepChangesNoCode) {
  const fs::path model = wide(), base = quantized(model, "nf4");
  const auto report = merge(base, random_adapter(model, 1e-7), into(MergeInto::quantized, nullptr, DType::f32, true));
  EXPECT_NEAR(report.kept, 0, 0.05);
  EXPECT_TRUE(
      same_bytes(Checkpoint::open(out_).data(kQuery + ".weight"), Checkpoint::open(base).data(kQuery + ".weight")));
}

TEST_F(Merge, DoraScalesTheRows) {
  const fs::path model = wide();
  const Adapter adapter = random_adapter(model, 0.05, true);
  for (const MergeInto way : {MergeInto::original, MergeInto::dequantized}) {
    const char* base = way == MergeInto::original ? nullptr : "nf4";
    merge(model, adapter, into(way, base));
    for (const AdapterLayer& l : adapter.layers) {
      const auto got = doubles(out_, l.name);
      const auto exact = merged(l, base == nullptr ? doubles(model, l.name) : decoded(model, l.name, base));
      EXPECT_LT(norm(minus(got, exact)), 1e-7 * norm(exact)) << l.name;
      const auto end = got.begin() + static_cast<std::ptrdiff_t>(l.in);
      EXPECT_NEAR(norm({got.begin(), end}), static_cast<double>(l.magnitude[0]), 1e-6) << l.name;
    }
  }
}

TEST_F(Merge, ThreadsChangeNoBit) {
  const fs::path model = wide();
  const Adapter adapter = random_adapter(model, 0.1, true);
  for (const MergeInto way : {MergeInto::original, MergeInto::dequantized, MergeInto::quantized}) {
    MergeOptions o = into(way, "nf4", DType::f32, true);
    const auto parallel = merge(model, adapter, o);
    const std::string bytes = text_of(out_ / "model.safetensors");
    o.executor = &serial_executor();
    const auto serial = merge(model, adapter, o);
    EXPECT_EQ(text_of(out_ / "model.safetensors"), bytes);
    EXPECT_EQ(serial.kept, parallel.kept);
    EXPECT_EQ(serial.layers[5].change, parallel.layers[5].change);
  }
}

TEST_F(Merge, MemoryStaysUnderThreeTensors) {
  const TinyModel big{
      .layers = 2, .hidden = 1024, .intermediate = 4096, .heads = 16, .kv_heads = 1, .type = DType::f32};
  const fs::path model = write_model(folder_ / "big", big);
  AdapterOptions o;
  o.rank = 2;
  Adapter adapter = Adapter::make(Config::load(model), o);
  for (AdapterLayer& l : adapter.layers) l.b = normal(l.b.size(), 3, 0.01f);
  for (const MergeInto way : {MergeInto::original, MergeInto::dequantized, MergeInto::quantized}) {
    const std::size_t before = held_bytes();
    reset_peak();
    merge(model, adapter, into(way, "nf4", DType::f32, true));
    const double tensors = static_cast<double>(peak_bytes() - std::min(before, peak_bytes())) / (16 << 20);
    std::printf("into %s: peak %.2f of the largest tensor\n", std::string(name_of(way)).c_str(), tensors);
    if (memory_is_measurable) EXPECT_LT(tensors, 3);
  }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
