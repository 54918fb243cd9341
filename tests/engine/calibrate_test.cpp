#include "nibble/engine/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "nibble/engine/evaluate.h"
#include "nibble/model/architecture.h"
#include "tests/support/embedded_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/peak_memory.h"
#include "tests/support/random_data.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using namespace model;

constexpr const char* kModel = kEmbeddedModel;

constexpr std::size_t kHeldOut = 16384;

const std::vector<std::int32_t>& calibration() {
  static const auto ids = text_ids("calibration.txt", 100000);
  return ids;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

CalibrateOptions options(const std::string& method, std::size_t samples = 4, std::size_t tokens = 64) {
  CalibrateOptions o;
  o.method = CalibratedMethod::parse(method);
  o.samples = samples;
  o.sample_tokens = tokens;
  return o;
}

double perplexity(const fs::path& model, std::size_t tokens = 1024, const LoadOptions& load = {}) {
  return evaluate(Model::load(model, load), text_ids("evaluation.txt", tokens)).perplexity();
}

class Calibrate : public testing::Test {
 protected:
  CalibrateReport make(const std::string& name, const CalibrateOptions& o) {
    return quantize_calibrated(kModel, folder_ / name, calibration(), o);
  }
  double rounded(const char* spec) {
    LoadOptions load;
    load.quantize = QuantSpec::parse(spec);
    return perplexity(kModel, kHeldOut, load);
  }
  TemporaryFolder folder_;
};

TEST(CalibratedMethod, TextThereAndBack) {
  for (const char* text : {"gptq-4-g128", "gptq-4-g128-act", "gptq-3-channel-sym-act-static", "gptq-2-g32-gar-mse",
                           "gptq-4-g128-act-gptaq", "gptq-2-g32-act-refit-qronos", "gptq-3-channel-sym-mse-qronos",
                           "awq-4-g128", "awq-3-g64-sym-noclip-duo", "int4-g128-sym"})
    EXPECT_EQ(CalibratedMethod::parse(text).to_string(), text);
  EXPECT_EQ(CalibratedMethod::parse("gptq-4-g128-asym"), CalibratedMethod::parse("gptq-4-g128"));
  const auto m = CalibratedMethod::parse("gptq-3-channel-sym-act");
  EXPECT_EQ(m.spec.bits, 3);
  EXPECT_EQ(m.spec.granularity, Granularity::channel);
  EXPECT_EQ(m.spec.scheme, SchemeKind::symmetric);
  EXPECT_TRUE(m.act_order);
  for (const char* text : {"gptq", "gptq-", "gptq-9-g128", "gptq-4", "gptq-4-g0", "gptq-4-128", "gptq-4-g128-duo",
                           "awq-4-g128-act", "gptq-4-g128-act-gar", "gptq-4-g128-gptaq-qronos", "awq-4-g128-qronos",
                           "gptq-q4_k-act", "gptq-4-g128-", "awq-4-g99999999999999999999"})
    expect_error(ErrorCode::invalid_argument, text, [&] { (void)CalibratedMethod::parse(text); });
  expect_error(ErrorCode::invalid_argument, "nf4", [] { (void)CalibratedMethod::parse("nf4"); });
}

TEST_F(Calibrate, BeatsRoundingToNearestOnTheHeldOutNovel) {
  std::map<std::string, double> p{{"fp32", perplexity(kModel, kHeldOut)},
                                  {"int4", rounded("int4-g128-asym")},
                                  {"int3", rounded("int3-g128-asym")},
                                  {"int2", rounded("int2-g32-asym")}};
  std::map<std::string, double> loss;
  for (const char* method : {"gptq-4-g128", "gptq-4-g128-act", "awq-4-g128", "gptq-3-g128", "gptq-2-g32"}) {
    const auto report = make(method, options(method, 48, 256));
    EXPECT_EQ(report.layers.size(), 42u);
    for (const LayerReport& r : report.layers) loss[method] += r.loss / r.rounding_loss / 42;
    p[method] = perplexity(folder_ / method, kHeldOut);
  }
  for (const auto& [name, value] : p) std::printf("%-16s %.4f\n", name.c_str(), value);
  EXPECT_LT(p["gptq-4-g128-act"], p["int4"]);
  EXPECT_LT(p["gptq-4-g128"], p["int4"]);
  EXPECT_LT(loss["gptq-4-g128-act"], loss["gptq-4-g128"]);
  EXPECT_LT(p["awq-4-g128"], p["int4"]);
  EXPECT_LT(p["gptq-3-g128"] - p["fp32"], (p["int3"] - p["fp32"]) / 2);
  EXPECT_LT(p["gptq-2-g32"] - p["fp32"], (p["int2"] - p["fp32"]) / 2);
}

TEST_F(Calibrate, LossesAreWithoutTheDamping) {
  auto o = options("gptq-4-g128", 4, 64);
  o.damp_percent = 1;  // its share is larger than all that is gained
  for (const LayerReport& r : make("damped", o).layers) EXPECT_LT(r.loss, r.rounding_loss) << r.layer;
}

TEST_F(Calibrate, TheReportSaysWhatEachLayerGained) {
  std::vector<std::string> seen;
  auto o = options("gptq-3-g128", 16, 128);
  o.on_layer = [&](const LayerReport& r) { seen.push_back(r.layer); };
  const auto report = make("out", o);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < 6; ++i)
    for (const auto& name : find_architecture("llama").linear_names(i)) names.push_back(name);
  EXPECT_EQ(seen, names);
  EXPECT_EQ(report.samples, 16u);
  EXPECT_EQ(report.tokens, 2048u);
  ASSERT_EQ(report.layers.size(), names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const LayerReport& r = report.layers[i];
    EXPECT_EQ(r.layer, names[i]);
    EXPECT_GT(r.loss, 0) << r.layer;
    EXPECT_LT(r.loss, r.rounding_loss) << r.layer;
    EXPECT_EQ(r.damp_percent, 0.01);
    EXPECT_EQ(r.coverage, 1);
    EXPECT_TRUE(r.fallback.empty());
  }
  EXPECT_NEAR(report.bits_per_weight, 3 + (16 + 3) / 128.0, 1e-9);
}

TEST_F(Calibrate, TheBytesDoNotDependOnTheThreadsOrWhereTheStatesLie) {
  for (const std::string method : {"gptq-4-g128-act", "awq-4-g128", "gptq-4-g128-qronos", "gptq-3-g128-gptaq"}) {
    auto o = options(method);
    (void)make(method + "a", o);
    o.executor = &serial_executor();
    o.cache_bytes = 0;  // in a file
    (void)make(method + "b", o);
    EXPECT_EQ(bytes_of(folder_ / (method + "a") / "model.safetensors"),
              bytes_of(folder_ / (method + "b") / "model.safetensors"));
  }
}

TEST_F(Calibrate, ResumesToTheSameBytesAfterACancelAnywhere) {
  for (const std::string method : {"gptq-3-g128", "awq-4-g128", "gptq-3-g128-qronos"}) {
    auto o = options(method, 2, 32);
    o.lm_head = true;
    (void)make(method, o);
    const std::string whole = bytes_of(folder_ / method / "model.safetensors");
    for (const double stop : {0.0, 0.55, 0.99}) {
      auto cancelled = o;
      cancelled.progress = [&](double fraction, std::string_view) { return fraction < stop; };
      const fs::path out = folder_ / (method + "-resumed");
      expect_error(ErrorCode::cancelled, "cancelled", [&] { (void)make(out.filename(), cancelled); });
      EXPECT_FALSE(fs::exists(out));
      expect_error(ErrorCode::invalid_argument, "--resume", [&] { (void)make(out.filename(), o); });
      auto resumed = o;
      resumed.resume = true;
      auto another = resumed;
      another.damp_percent = 0.02;
      expect_error(ErrorCode::invalid_argument, "another damp", [&] { (void)make(out.filename(), another); });
      const auto report = make(out.filename(), resumed);
      EXPECT_EQ(report.resumed, static_cast<std::size_t>(stop * 6.5));
      EXPECT_EQ(report.layers.size(), 43u);
      EXPECT_EQ(bytes_of(out / "model.safetensors"), whole) << method << " " << stop;
      EXPECT_FALSE(fs::exists(out.string() + ".partial"));
      EXPECT_TRUE(make(out.filename(), resumed).complete_before);
      expect_error(ErrorCode::invalid_argument, "exists already", [&] { (void)make(out.filename(), another); });
      fs::remove_all(out);
    }
  }
}

TEST_F(Calibrate, EveryLayoutHoldsTheSameModel) {
  std::set<double> values;
  for (const auto layout : {CheckpointLayout::gptq, CheckpointLayout::gptq_v2, CheckpointLayout::compressed_tensors,
                            CheckpointLayout::nibble, CheckpointLayout::awq_gemm}) {
    auto o = options("gptq-4-g64-sym");
    o.layout = layout;
    const std::string name(name_of(layout));
    EXPECT_EQ(make(name, o).layout, layout);
    values.insert(perplexity(folder_ / name));
  }
  EXPECT_EQ(values.size(), 1u);
  auto o = options("gptq-3-g128");
  o.layout = CheckpointLayout::awq_gemm;
  expect_error(ErrorCode::unsupported, "awq", [&] { (void)make("x", o); });
  EXPECT_EQ(make("d", options("gptq-4-g128-sym")).layout, CheckpointLayout::gptq);
  EXPECT_EQ(make("e", options("gptq-4-g128")).layout, CheckpointLayout::gptq_v2);
  EXPECT_EQ(make("f", options("awq-4-g128")).layout, CheckpointLayout::awq_gemm);
  EXPECT_EQ(make("g", options("awq-3-g128")).layout, CheckpointLayout::compressed_tensors);
  EXPECT_FALSE(fs::exists(folder_ / "x.partial"));
}

TEST_F(Calibrate, RulesGiveLayersAnotherMethodOrNone) {
  auto o = options("gptq-4-g128");
  o.rules = {{R"(layers\.0\.)", std::nullopt},
             {"down_proj", CalibratedMethod::parse("gptq-8-g64")},
             {"(q|k)_proj", CalibratedMethod::parse("int8")}};
  const auto report = make("out", o);
  EXPECT_EQ(report.layers.size(), 35u);
  const auto in = Checkpoint::open(kModel), out = Checkpoint::open(folder_ / "out");
  const auto bits = [&](const std::string& layer) { return decode_quantized(out, layer)->spec.bits; };
  EXPECT_EQ(in.read_f32("model.layers.0.mlp.down_proj.weight"), out.read_f32("model.layers.0.mlp.down_proj.weight"));
  EXPECT_EQ(bits("model.layers.1.mlp.down_proj"), 8);
  EXPECT_EQ(bits("model.layers.1.self_attn.k_proj"), 8);
  EXPECT_EQ(bits("model.layers.1.self_attn.v_proj"), 4);
  EXPECT_LT(perplexity(folder_ / "out"), 4);
}

TEST_F(Calibrate, WhatAwqSkipsStaysByteForByte) {
  auto o = options("awq-4-g128");
  o.rules = {{"v_proj", std::nullopt}, {"up_proj", std::nullopt}};
  (void)make("out", o);
  const auto in = Checkpoint::open(kModel), out = Checkpoint::open(folder_ / "out");
  for (const char* name : {"model.layers.3.self_attn.v_proj.weight", "model.layers.3.mlp.up_proj.weight",
                           "model.layers.3.input_layernorm.weight", "model.layers.3.post_attention_layernorm.weight"})
    EXPECT_EQ(in.read_f32(name), out.read_f32(name)) << name;
  EXPECT_LT(perplexity(folder_ / "out"), 4);
}

TEST_F(Calibrate, AwqPutsItsScalesIntoTheNorms) {
  (void)make("out", options("awq-4-g128"));
  const auto in = Checkpoint::open(kModel), out = Checkpoint::open(folder_ / "out");
  const std::string name = "model.layers.2.input_layernorm.weight";
  EXPECT_NE(in.read_f32(name), out.read_f32(name));
  EXPECT_EQ(out.info(name).type, in.info(name).type);
}

TEST_F(Calibrate, TheHeadIsQuantizedWhereAskedFor) {
  auto o = options("gptq-8-g64-sym");
  o.lm_head = true;
  EXPECT_EQ(make("out", o).layers.back().layer, "lm_head");
  EXPECT_TRUE(decode_quantized(Checkpoint::open(folder_ / "out"), "lm_head"));
  EXPECT_NEAR(perplexity(folder_ / "out") / perplexity(kModel), 1, 0.01);
}

TEST_F(Calibrate, SaysWhatIsWrong) {
  const auto refused = [&](const char* says, const std::function<void(CalibrateOptions&)>& spoil,
                           ErrorCode code = ErrorCode::invalid_argument) {
    auto o = options("gptq-4-g128");
    spoil(o);
    expect_error(code, says, [&] { (void)make("out", o); });
    EXPECT_FALSE(fs::exists(folder_ / "out.partial")) << says;
  };
  refused("0 samples", [](auto& o) { o.samples = 0; });
  refused("damp_percent is 2", [](auto& o) { o.damp_percent = 2; });
  refused("damp_percent is -", [](auto& o) { o.damp_percent = -0.5; });
  refused("decides for no linear layer", [](auto& o) { o.rules = {{"gate_up", std::nullopt}}; });
  refused("skip every layer", [](auto& o) { o.rules = {{".", std::nullopt}}; });
  refused("not both", [](auto& o) { o.rules = {{"q_proj", CalibratedMethod::parse("awq-4-g128")}}; });
  refused(
      "the pattern '('",
      [](auto& o) {
        o.rules = {{"(", std::nullopt}};
      },
      ErrorCode::unsupported);
  const auto o = options("gptq-4-g128");
  const std::vector<std::int32_t> none{1}, bad{1, 2, 256, 4};
  expect_error(ErrorCode::invalid_argument, "1 tokens",
               [&] { (void)quantize_calibrated(kModel, folder_ / "out", none, o); });
  expect_error(ErrorCode::invalid_argument, "token 2 is 256",
               [&] { (void)quantize_calibrated(kModel, folder_ / "out", bad, o); });
  (void)make("once", o);
  expect_error(ErrorCode::invalid_argument, "quantized already",
               [&] { (void)quantize_calibrated(folder_ / "once", folder_ / "out", calibration(), o); });
  expect_error(ErrorCode::invalid_argument, "exists already", [&] { (void)make("once", o); });
}

TEST_F(Calibrate, AShortTextIsOneSequence) {
  const auto ids = text_ids("calibration.txt", 40);
  const auto report = quantize_calibrated(kModel, folder_ / "out", ids, options("gptq-4-g128"));
  EXPECT_EQ(report.samples, 1u);
  EXPECT_EQ(report.tokens, 40u);
}

/// A model of ten blocks whose weights are far more than one block's statistics.
void make_big_model(const fs::path& folder) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json")
      << R"({"model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12,
             "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 256, "rms_norm_eps": 1e-5,
             "max_position_embeddings": 512})";
  std::vector<TensorInfo> tensors;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape) {
    tensors.push_back({name + ".weight", DType::f32, std::move(shape), 0, 0});
  };
  add("model.embed_tokens", {256, 512});
  add("model.norm", {512});
  add("lm_head", {256, 512});
  const std::vector<std::vector<std::size_t>> shapes{{512, 512},  {256, 512},  {256, 512}, {512, 512},
                                                     {1024, 512}, {1024, 512}, {512, 1024}};
  for (std::size_t i = 0; i < 12; ++i) {
    const auto names = find_architecture("llama").linear_names(i);
    for (std::size_t l = 0; l < names.size(); ++l) add(names[l], shapes[l]);
    const std::string prefix = "model.layers." + std::to_string(i);
    add(prefix + ".input_layernorm", {512});
    add(prefix + ".post_attention_layernorm", {512});
  }
  SafetensorsWriter writer(folder / "model.safetensors", tensors, {});
  for (const auto& t : tensors) {
    std::size_t count = 1;
    for (const std::size_t n : t.shape) count *= n;
    auto values = normal(count, 1, 0.04f);
    if (t.shape.size() == 1) values.assign(count, 1.0f);
    writer.write(t.name, std::as_bytes(std::span(values)));
  }
  writer.finish();
}

TEST_F(Calibrate, MemoryIsThatOfABlockAndTheStates) {
  make_big_model(folder_ / "big");
  // A block in fp32, and the statistics: the largest Hessian in fp64, and four more such matrices in fp32 to solve.
  const double block = 4 * (2 * 512 * 512 + 2 * 256 * 512 + 3 * 1024 * 512);
  const double statistics = 4 * 8 * 1024 * 1024 / 2 + 4 * 4 * 1024 * 1024;
  const auto ids = text_ids("calibration.txt", 4096);
  for (const std::string method : {"gptq-4-g128", "awq-4-g128"}) {
    auto o = options(method, 8, 64);
    const std::size_t before = held_bytes();
    reset_peak();
    (void)quantize_calibrated(folder_ / "big", folder_ / method, ids, o);
    const auto grown = static_cast<double>(peak_bytes() - std::min(before, peak_bytes()));
    std::printf("%s: %.1f MB more at the peak; a block has %.1f MB, the model %.1f MB\n", method.c_str(), grown / 1e6,
                block / 1e6, 12 * block / 1e6);
    if (memory_is_measurable) EXPECT_LT(grown, 4 * block + statistics);
  }
}

// Rows of 64 and 112 columns: one group of 128, whose g_idx says nothing and so is not written.
TEST_F(Calibrate, ActOrderOfOneGroupIsWritten) {
  std::vector<std::int32_t> ids(256);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * i % 96);
  const fs::path tiny = NIBBLE_TEST_DATA "/golden/mistral";
  int run = 0;
  for (const char* method : {"gptq-4-g128-act", "gptq-4-g32-sym-act", "gptq-4-channel-act", "gptq-4-g64-act-static"})
    for (const auto layout : {CheckpointLayout::nibble, CheckpointLayout::gptq, CheckpointLayout::compressed_tensors}) {
      auto o = options(method);
      o.layout = layout;
      o.damp_percent = 0.05;
      o.true_sequential = false;
      const fs::path to = folder_ / std::to_string(run++);
      try {
        (void)quantize_calibrated(tiny, to, ids, o);
      } catch (const Error& e) {
        ASSERT_EQ(e.code(), ErrorCode::unsupported) << method << ": " << e.what();  // a g_idx, or rows of 112, say
        ASSERT_EQ(std::string(e.what()).find("never written"), std::string::npos);
        continue;
      }
      EXPECT_NO_THROW((void)Model::load(to)) << method << " in " << name_of(layout);
      if (layout != CheckpointLayout::gptq) continue;
      const auto config = nlohmann::json::parse(bytes_of(to / "quantize_config.json"));
      EXPECT_EQ(config["damp_percent"], 0.05);
      EXPECT_EQ(config["true_sequential"], false);
      EXPECT_EQ(config["static_groups"], std::string(method).ends_with("-static"));
      EXPECT_EQ(config["desc_act"], true);
      EXPECT_FALSE(config.contains("dynamic")) << config.dump();
    }
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
