// The calibration driver over engines that are not the library's. In this program neither the default backend nor the
// default executor can be had, so that whatever asks for one instead of the caller's is an error.
#include "nibble/model/calibrated_block.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "model/awq_fold.h"
#include "nibble/engine/calibrate.h"
#include "nibble/format/checkpoint.h"
#include "tests/support/backends.h"
#include "tests/support/counting_backend.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/toy_engine.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

const NoDefaultBackend kNoDefaultBackend;
const bool kNoDefaultExecutor = ::setenv("NIBBLE_THREADS", "nobody asks for the default", 1) == 0;

constexpr const char* kGolden = NIBBLE_TEST_DATA "/golden/mistral";

/// The caller's own: tasks from the last to the first, as if on many threads.
class OwnExecutor final : public Executor {
 public:
  int concurrency() const noexcept override { return 7; }
  void run(std::size_t count, FunctionRef<void(std::size_t)> task) override {
    ++runs;
    while (count-- > 0) task(count);
  }
  int runs = 0;
};

CalibrateOptions options(const std::string& method) {
  CalibrateOptions o;
  o.method = CalibratedMethod::parse(method);
  o.samples = 5;
  o.sample_tokens = 24;
  o.backend = &find_backend("scalar");
  o.executor = &serial_executor();
  return o;
}

std::vector<std::int32_t> tokens(std::size_t n = 400) {
  std::vector<std::int32_t> out(n);
  for (std::size_t t = 0; t < n; ++t) out[t] = static_cast<std::int32_t>(t * t * 7 % 61);
  return out;
}

std::vector<FinishedBlock> blocks_of(const CalibrateOptions& o, const Toy& toy = {}) {
  ToyModel model(toy);
  MemorySink sink;
  (void)calibrate(model, tokens(), o, sink);
  return std::move(sink.blocks);
}

std::string text_of(const Buffer& b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

void expect_same(const std::vector<FinishedBlock>& a, const std::vector<FinishedBlock>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].vectors, b[i].vectors);
    ASSERT_EQ(a[i].layers.size(), b[i].layers.size());
    for (std::size_t l = 0; l < a[i].layers.size(); ++l) {
      const FinishedBlock::Layer &x = a[i].layers[l], &y = b[i].layers[l];
      EXPECT_EQ(x.report.layer, y.report.layer);
      EXPECT_EQ(x.report.loss, y.report.loss) << x.report.layer;
      EXPECT_EQ(x.matrix.g_idx, y.matrix.g_idx);
      EXPECT_EQ(text_of(x.matrix.codes), text_of(y.matrix.codes)) << x.report.layer;
      EXPECT_EQ(text_of(x.matrix.scales), text_of(y.matrix.scales)) << x.report.layer;
      EXPECT_EQ(text_of(x.matrix.zero_points), text_of(y.matrix.zero_points)) << x.report.layer;
    }
  }
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.is_open()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(CalibratedBlock, NoDefaultIsToBeHadInThisProgram) {
  ASSERT_TRUE(kNoDefaultExecutor);
  expect_error(ErrorCode::not_found, "nobody asks", [] { (void)default_backend(); });
  expect_error(ErrorCode::invalid_argument, "nobody asks", [] { (void)default_executor(); });
}

TEST(CalibratedBlock, AnyEnginesLayersLoseLessThanByRounding) {
  for (const char* method : {"gptq-3-g16", "gptq-3-g16-act", "awq-3-g16", "awq-3-g16-noclip"}) {
    ToyModel model;
    MemorySink sink;
    std::vector<std::string> done;
    auto o = options(method);
    o.on_layer = [&](const LayerReport& r) { done.push_back(r.layer); };
    const CalibrateReport report = calibrate(model, tokens(), o, sink);
    EXPECT_EQ(report.blocks, 3u);
    EXPECT_EQ(report.samples, 5u);
    EXPECT_EQ(report.tokens, 5 * 24u);
    EXPECT_NEAR(report.bits_per_weight, 3 + (16 + 3) / 16.0, 1e-9);
    ASSERT_EQ(report.layers.size(), 3 * 6u);
    EXPECT_EQ(report.layers[7].layer, "blocks.1.first.up");
    double loss = 0, rounded = 0;
    for (std::size_t l = 0; l < report.layers.size(); ++l) {
      EXPECT_EQ(report.layers[l].layer, done.at(l));
      loss += report.layers[l].loss / report.layers[l].rounding_loss;
      rounded += 1;
    }
    EXPECT_LT(loss, 0.9 * rounded) << method;
    const bool folds = std::string(method).starts_with("awq");
    EXPECT_EQ(sink.blocks[2].vectors.size(), folds ? 4u : 0u);
    if (folds) EXPECT_TRUE(sink.blocks[2].vectors.contains("blocks.2.second.norm.bias"));
    EXPECT_EQ(sink.seen.at("model"), "toy");
  }
}

// A block that only runs as a whole gives what one gives that begins in the middle, or ends there: a refinement changes
// what it costs, and nothing else.
TEST(CalibratedBlock, RefinementsChangeNoBit) {
  for (const char* method : {"gptq-4-g16-act", "awq-4-g16", "gptq-4-g16-qronos", "gptq-4-g16-gptaq"})
    for (const bool sequential : {true, false}) {
      auto o = options(method);
      o.true_sequential = sequential;
      const auto expected = blocks_of(o, {.stops = false});
      expect_same(blocks_of(o), expected);
      expect_same(blocks_of(o, {.resumes = true}), expected);
      o.cache_bytes = 0;
      expect_same(blocks_of(o, {.resumes = true}), expected);
    }
}

// Before the first layer that is quantized, inputs are those of full precision, and there is nothing to make up for.
TEST(CalibratedBlock, CorrectionsBeginBehindTheFirstQuantizedLayer) {
  for (const char* correction : {"-qronos", "-gptaq"}) {
    auto plain = options("gptq-3-g16"), corrected = options(std::string("gptq-3-g16") + correction);
    const std::vector<FinishedBlock> before = blocks_of(plain), after = blocks_of(corrected);
    const auto codes = [](const std::vector<FinishedBlock>& b, std::size_t block, std::size_t layer) {
      return text_of(b.at(block).layers.at(layer).matrix.codes);
    };
    EXPECT_EQ(codes(after, 0, 0), codes(before, 0, 0));
    EXPECT_EQ(codes(after, 0, 1), codes(before, 0, 1));
    for (std::size_t layer = 2; layer < 6; ++layer) EXPECT_NE(codes(after, 0, layer), codes(before, 0, layer)) << layer;
    EXPECT_NE(codes(after, 2, 0), codes(before, 2, 0));
    plain.only = corrected.only = {"blocks.1.first.gate"};
    expect_same(blocks_of(corrected), blocks_of(plain));
  }
}

TEST(CalibratedBlock, NoLayerIsRunTwiceWhereAPassCanBeginWithinTheBlock) {
  ToyModel model({.resumes = true});
  MemorySink sink;
  (void)calibrate(model, tokens(), options("gptq-4-g16"), sink);
  EXPECT_EQ(model.multiplied.size(), 3 * 6u);
  for (const auto& [layer, sequences] : model.multiplied) EXPECT_EQ(sequences, 5u) << layer;
  // Nothing is gathered for a layer that is rounded, and nothing is run for it.
  ToyModel other({.resumes = true});
  MemorySink rounded;
  auto o = options("gptq-4-g16");
  o.rules = {{"down", CalibratedMethod::parse("int8")}};
  (void)calibrate(other, tokens(), o, rounded);
  for (const auto& [layer, sequences] : other.multiplied) EXPECT_EQ(sequences, 5u) << layer;
  EXPECT_EQ(rounded.blocks[0].layers[2].report.loss, 0);
}

TEST(CalibratedBlock, AwqMeasuresBehindAModuleWhereTheBlockRunsOne) {
  const auto o = options("awq-3-g16");
  const auto alone = blocks_of(o), module = blocks_of(o, {.modules = true});
  EXPECT_NE(alone[0].vectors, module[0].vectors);
  expect_same(module, blocks_of(o, {.resumes = true, .modules = true}));
}

TEST(CalibratedBlock, NeitherThreadsNorBackendsNorTheDiskChangeABit) {
  for (const char* method : {"gptq-4-g16", "awq-4-g16", "gptq-4-g16-qronos", "gptq-4-g16-gptaq"}) {
    auto o = options(method);
    o.lm_head = true;
    const auto expected = blocks_of(o);
    EXPECT_EQ(expected.size(), 4u);
    OwnExecutor own;
    o.executor = &own;
    expect_same(blocks_of(o), expected);
    EXPECT_GT(own.runs, 0);
    o.executor = &serial_executor();
    for (const Backend* backend : available()) {
      o.backend = backend;
      expect_same(blocks_of(o), expected);
    }
    const CountingBackend counting;
    o.backend = &counting;
    o.cache_bytes = 0;
    expect_same(blocks_of(o), expected);
    EXPECT_GE(counting.quantized, 19);  // each layer
    EXPECT_GE(counting.decoded, 19);    // and each loss
  }
}

TEST(CalibratedBlock, CancelledAnywhereItGoesOnToTheSameFiles) {
  const TemporaryFolder folder;
  const auto ids = tokens();
  for (const char* method : {"gptq-3-g16", "awq-3-g16", "gptq-3-g16-qronos"}) {
    auto o = options(method);
    o.lm_head = true;
    double last = 0;
    o.progress = [&](double fraction, std::string_view) {
      EXPECT_GE(fraction, last);
      last = fraction;
      return fraction <= 1;
    };
    ToyModel model;
    const fs::path whole = folder / (std::string(method) + "-whole");
    const auto expected = calibrate(model, ids, o, *folder_sink(whole, false));
    EXPECT_EQ(last, 1);
    for (const double stop : {0.0, 0.4, 0.8, 0.99}) {
      const fs::path part = folder / (std::string(method) + "-part");
      const auto sink = [&](bool resume) { return folder_sink(part, resume); };
      auto cancelled = o;
      cancelled.progress = [&](double fraction, std::string_view) { return fraction < stop; };
      expect_error(ErrorCode::cancelled, "cancelled", [&] { (void)calibrate(model, ids, cancelled, *sink(false)); });
      expect_error(ErrorCode::invalid_argument, "earlier run", [&] { (void)calibrate(model, ids, o, *sink(false)); });
      auto another = o;
      another.damp_percent = 0.02;
      expect_error(ErrorCode::invalid_argument, "another damp",
                   [&] { (void)calibrate(model, ids, another, *sink(true)); });
      std::size_t done_now = 0;
      auto resumed = o;
      resumed.progress = {};
      resumed.on_layer = [&](const LayerReport&) { ++done_now; };
      const auto report = calibrate(model, ids, resumed, *sink(true));
      EXPECT_EQ(report.resumed, static_cast<std::size_t>(stop * 3.5)) << stop;
      EXPECT_EQ(done_now, stop < 0.99 ? 19 - 6 * report.resumed : 0) << stop;  // the last cancel comes after the head
      EXPECT_EQ(report.layers.size(), 19u);
      EXPECT_EQ(report.bits_per_weight, expected.bits_per_weight);
      for (const char* file :
           {"block-00000.safetensors", "block-00001.safetensors", "block-00002.safetensors", "block-00003.safetensors"})
        EXPECT_EQ(bytes_of(part / file), bytes_of(whole / file)) << method << " " << stop << " " << file;
      fs::remove_all(part);
    }
    const auto kept = folder_sink(whole, true);  // all that was to be done: the blocks, whole
    EXPECT_EQ(calibrate(model, ids, o, *kept).resumed, 3u);
    o.progress = {};
    const auto memory = blocks_of(o);
    for (std::size_t i = 0; i < memory.size(); ++i) expect_same({kept->read(i)}, {memory[i]});
  }
}

TEST(CalibratedBlock, AnErrorNamesTheBlockAndLeavesThoseBeforeIt) {
  auto o = options("gptq-4-g16");
  const auto expected = blocks_of(o);
  ToyModel broken({.failing_block = 1});
  MemorySink sink;
  expect_error(ErrorCode::io, "block 1: the toy is broken", [&] { (void)calibrate(broken, tokens(), o, sink); });
  EXPECT_EQ(sink.blocks.size(), 1u);
  ToyModel mended;
  EXPECT_EQ(calibrate(mended, tokens(), o, sink).resumed, 1u);
  expect_same(sink.blocks, expected);
}

TEST(CalibratedBlock, RulesGiveLayersAnotherMethodOrNone) {
  auto o = options("gptq-4-g16");
  o.skip = {"second"};
  o.rules = {{R"(blocks\.0\.)", std::nullopt}, {"down", CalibratedMethod::parse("int8")}};
  ToyModel model;
  MemorySink sink;
  const auto report = calibrate(model, tokens(), o, sink);
  std::vector<std::string> methods;
  for (const LayerReport& r : report.layers) methods.push_back(r.layer + " " + r.method);
  EXPECT_EQ(methods,
            (std::vector<std::string>{"blocks.1.first.gate gptq-4-g16", "blocks.1.first.up gptq-4-g16",
                                      "blocks.1.first.down int8-channel-sym", "blocks.2.first.gate gptq-4-g16",
                                      "blocks.2.first.up gptq-4-g16", "blocks.2.first.down int8-channel-sym"}));
  EXPECT_EQ(sink.blocks.size(), 3u);  // one of them of no layers
  // Scales fold into nothing that stays as it is, and none are looked for where a layer that sees them does.
  auto awq = options("awq-4-g16");
  awq.rules = {{"up", std::nullopt}};
  EXPECT_TRUE(blocks_of(awq)[0].vectors.empty());
}

TEST(CalibratedBlock, SaysWhatABlockDoesWrong) {
  const auto refused = [](const char* says, const Toy& toy, ErrorCode code = ErrorCode::invalid_argument) {
    for (const char* method : {"gptq-4-g16", "awq-4-g16"})
      expect_error(code, says, [&] { (void)blocks_of(options(method), toy); });
  };
  refused("block 0: the block ran without showing the inputs of blocks.0.second.down", {.silent_group = 3});
  refused("block 0: the inputs of blocks.0.first.down: their scales fold into layer 0 of group 2",
          {.spoil = [](auto& groups) {
            groups[1].source.linear = {2, 0};
          }});
  refused("fold into what another group's fold into",
          {.spoil = [](auto& groups) { groups[3].source.linear = groups[1].source.linear; }});
  refused("'blocks.0.first.up' multiplies 31 channels, not 32",
          {.spoil = [](auto& groups) { groups[0].layers[1].cols = 31; }}, ErrorCode::shape_mismatch);
  refused("the weights of 'blocks.0.first.gate' are 48 × 32 of F32, not 47 × 32 of F32",
          {.spoil = [](auto& groups) { groups[0].layers[0].rows = 47; }}, ErrorCode::shape_mismatch);
  refused("the norm before them has 31 values",
          {.spoil = [](auto& groups) { groups[0].source.norm.values.pop_back(); }}, ErrorCode::shape_mismatch);
  refused("it has no layers", {.spoil = [](auto& groups) { groups[2].layers.clear(); }});
  refused("two layers of the model have the name",
          {.spoil = [](auto& groups) { groups[0].layers[1].name = groups[0].layers[0].name; }});
  expect_error(ErrorCode::invalid_argument, "decides for no linear layer", [] {
    auto o = options("gptq-4-g16");
    o.rules = {{"q_proj", std::nullopt}};
    (void)blocks_of(o);
  });
  expect_error(ErrorCode::invalid_argument, "token 3 is 64; the vocabulary has ids 0 to 63", [] {
    ToyModel model;
    MemorySink sink;
    (void)calibrate(model, std::vector<std::int32_t>{1, 2, 3, 64, 5}, options("gptq-4-g16"), sink);
  });
}

// The norm takes the scales with its bias, and a linear layer its rows: the first half computes what it did.
TEST(CalibratedBlock, FoldingTakesANormsBiasAlong) {
  ToyModel model;
  const auto block = model.block(0);
  DenseBlock dense = DenseBlock::load(*block);
  const DenseBlock before = dense;
  BlockScales scales(4);
  scales[0].scales.assign(32, 4.0f);
  scales[1].scales.assign(48, 0.5f);
  fold(dense, scales);
  for (std::size_t c = 0; c < 32; ++c) {
    EXPECT_EQ(dense.groups[0].source.norm.values[c], before.groups[0].source.norm.values[c] / 4);
    EXPECT_EQ(dense.groups[0].source.norm_bias.values[c], before.groups[0].source.norm_bias.values[c] / 4);
    EXPECT_EQ(dense.linears[0][0].weights[c], before.linears[0][0].weights[c] * 4);  // gate
    EXPECT_EQ(dense.linears[0][1].weights[c], before.linears[0][1].weights[c] * 8);  // up, whose rows are divided, too
    EXPECT_EQ(dense.linears[1][0].weights[c], before.linears[1][0].weights[c] / 2);  // down
    EXPECT_EQ(dense.linears[2][0].weights[c], before.linears[2][0].weights[c]);
  }
}

// As the reference, which goes by these names.
TEST(CalibratedBlock, QueriesAndKeysAreNotClippedInAnyArchitecture) {
  for (const char* name : {"mistral", "qwen3", "gqa_tied", "bias"}) {
    const auto model = engine::calibrated_model(fs::path(NIBBLE_TEST_DATA "/golden") / name, &find_backend("scalar"),
                                                &serial_executor());
    std::size_t layers = 0;
    for (const auto block = model->block(0); const LayerGroup& group : block->groups())
      for (const CalibratedLayer& l : group.layers) {
        EXPECT_EQ(l.clips, !l.name.ends_with("q_proj") && !l.name.ends_with("k_proj")) << l.name;
        ++layers;
      }
    EXPECT_EQ(layers, 7u);
  }
}

/// Another's engine: of the library's it uses the forward pass alone, as one that can only run a whole block.
class Plain final : public CalibratedModel {
 public:
  explicit Plain(const fs::path& path)
      : real_(engine::calibrated_model(path, &find_backend("scalar"), &serial_executor())) {}
  std::size_t blocks() const override { return real_->blocks(); }
  std::size_t width() const override { return real_->width(); }
  void embed(std::span<const std::int32_t> ids, MatrixView<float> states) override { real_->embed(ids, states); }
  std::unique_ptr<CalibratedBlock> block(std::size_t index) override {
    return std::make_unique<PlainBlock>(real_->block(index));
  }
  std::unique_ptr<CalibratedBlock> head() override { return std::make_unique<PlainBlock>(real_->head()); }

 private:
  class PlainBlock final : public CalibratedBlock {
   public:
    explicit PlainBlock(std::unique_ptr<CalibratedBlock> real) : real_(std::move(real)) {}
    std::span<const LayerGroup> groups() const override { return real_->groups(); }
    FloatMatrix weights(LayerId id) override { return real_->weights(id); }
    void replace(LayerId id, QuantizedMatrix weights) override { real_->replace(id, std::move(weights)); }
    void run(MatrixView<float> states, Listener listen) override {
      real_->run(states, [&](std::size_t group, MatrixView<const float> input) {
        listen(group, input);
        return true;
      });
    }
    void run_module(std::size_t group, std::span<const FloatMatrix> weights,
                    std::span<const MatrixView<const float>> inputs, Outputs outputs) override {
      real_->run_module(group, weights, inputs, outputs);
    }

   private:
    std::unique_ptr<CalibratedBlock> real_;
  };
  std::unique_ptr<CalibratedModel> real_;
};

TEST(CalibratedBlock, AnotherEngineWritesTheDirectoryThatOursDoes) {
  const TemporaryFolder folder;
  const auto ids = tokens(300);
  for (const char* method : {"gptq-4-g16", "awq-4-g16"})
    for (const bool sequential : {true, false}) {
      auto o = options(method);
      o.true_sequential = sequential;
      o.sample_tokens = 16;
      o.lm_head = true;
      const std::string name = std::string(method) + (sequential ? "" : "-at-once");
      const auto ours = engine::quantize_calibrated(kGolden, folder / name, ids, o);
      Plain plain(kGolden);
      const auto theirs = quantize_calibrated(kGolden, folder / (name + "-plain"), plain, ids, o);
      EXPECT_EQ(ours.layout, theirs.layout);
      EXPECT_EQ(ours.layers.size(), theirs.layers.size());
      for (const char* file : {"model.safetensors", "config.json"})
        EXPECT_EQ(bytes_of(folder / name / file), bytes_of(folder / (name + "-plain") / file)) << name << " " << file;
    }
}

TEST(CalibratedBlock, AModelTypeThatNoTableKnowsIsWrittenToo) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "unknown");
  auto config = nlohmann::json::parse(bytes_of(fs::path(kGolden) / "config.json"));
  config["model_type"] = "somebodys";
  std::ofstream(folder / "unknown" / "config.json") << config;
  fs::copy_file(fs::path(kGolden) / "model.safetensors", folder / "unknown" / "model.safetensors");
  Plain plain(kGolden);
  auto o = options("gptq-4-g16-sym");
  o.sample_tokens = 16;
  o.skip = {"v_proj"};
  const auto report = quantize_calibrated(folder / "unknown", folder / "out", plain, tokens(300), o);
  EXPECT_EQ(report.layout, CheckpointLayout::gptq);
  const auto known = engine::quantize_calibrated(kGolden, folder / "known", tokens(300), o);
  const Checkpoint out = Checkpoint::open(folder / "out"), expected = Checkpoint::open(folder / "known");
  ASSERT_EQ(report.layers.size(), known.layers.size());
  for (const LayerReport& r : report.layers)
    EXPECT_EQ(text_of(decode_quantized(out, r.layer)->codes), text_of(decode_quantized(expected, r.layer)->codes));
  expect_error(ErrorCode::invalid_argument, "exists already",
               [&] { (void)quantize_calibrated(folder / "unknown", folder / "out", plain, tokens(300), o); });
  const std::string written = bytes_of(folder / "out" / "config.json");
  EXPECT_NE(written.find("somebodys"), std::string::npos);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
