// GPTQ into a GGUF file: what it gains over an importance matrix, and that nothing is lost on the way.
#include <gtest/gtest.h>

#include <fstream>

#include "nibble/engine/calibrate.h"
#include "nibble/engine/evaluate.h"
#include "nibble/format/gguf.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/embedded_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden_model.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/toy_engine.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using namespace model;

constexpr const char* kModel = kEmbeddedModel;

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

CalibrateOptions few(std::size_t samples = 3, std::size_t tokens = 32) {
  CalibrateOptions o;
  o.samples = samples;
  o.sample_tokens = tokens;
  return o;
}

class CalibratedGguf : public testing::Test {
 protected:
  ExportGgufReport make(const std::string& name, BlockType type, const CalibrateOptions& calibration = few(),
                        const fs::path& from = kModel) {
    ExportGgufOptions o;
    o.type = type;
    o.executor = calibration.executor;
    return export_gguf_calibrated(from, folder_ / name, text_ids("calibration.txt", 65536), o, calibration);
  }
  void refused(ErrorCode code, const std::string& says, BlockType type, const CalibrateOptions& calibration = few(),
               const fs::path& from = kModel) {
    expect_error(code, says, [&] { (void)make("refused.gguf", type, calibration, from); });
    EXPECT_FALSE(fs::exists(folder_ / "refused.gguf") || fs::exists(folder_ / "refused.gguf.partial")) << says;
  }
  /// KL divergence of what the file gives from what the model gives.
  double divergence(const fs::path& model, const fs::path& file, std::span<const std::int32_t> ids) {
    EvaluateOptions o;
    o.save_reference = folder_ / "reference";
    (void)evaluate(Model::load(model), ids, o);
    o.compare_reference = std::exchange(o.save_reference, {});
    return evaluate(Model::load(file), ids, o).kl_mean();
  }
  TemporaryFolder folder_;
};

TEST_F(CalibratedGguf, IsCloserToTheModelThanByImportance) {
  const auto ids = text_ids("evaluation.txt", 4096);
  const ImportanceMatrix m =
      importance(kModel, text_ids("calibration.txt", 65536), {.samples = 16, .sample_tokens = 256});
  for (const BlockType type : {BlockType::q4_0, BlockType::q4_k, BlockType::iq4_xs, BlockType::q2_k}) {
    ExportGgufOptions weighed;
    weighed.type = type;
    weighed.importance = &m;
    export_gguf(kModel, folder_ / "weighed.gguf", weighed);
    const ExportGgufReport report = make("solved.gguf", type, few(16, 256));
    EXPECT_EQ(fs::file_size(folder_ / "solved.gguf"), report.file_bytes);
    ASSERT_EQ(report.layers.size(), 42u);
    for (const LayerReport& r : report.layers) {
      EXPECT_LT(r.loss, r.rounding_loss) << r.layer;
      EXPECT_TRUE(CalibratedMethod::parse(r.method).blocks == type) << r.method;
    }
    const double by_importance = divergence(kModel, folder_ / "weighed.gguf", ids);
    EXPECT_LT(divergence(kModel, folder_ / "solved.gguf", ids), 0.8 * by_importance) << name_of(type);
  }
}

TEST_F(CalibratedGguf, QronosIsCloserStill) {
  const auto ids = text_ids("evaluation.txt", 4096);
  for (const BlockType type : {BlockType::q2_k, BlockType::mxfp4}) {
    CalibrateOptions o = few(16, 256);
    (void)make("plain.gguf", type, o);
    o.method.qronos = true;
    for (const LayerReport& r : make("corrected.gguf", type, o).layers)
      EXPECT_TRUE(CalibratedMethod::parse(r.method).qronos) << r.method;
    const double plain = divergence(kModel, folder_ / "plain.gguf", ids);
    EXPECT_LT(divergence(kModel, folder_ / "corrected.gguf", ids), 0.9 * plain) << name_of(type);
    fs::remove(folder_ / "plain.gguf");
    fs::remove(folder_ / "corrected.gguf");
  }
}

TEST_F(CalibratedGguf, TheBytesDoNotDependOnTheThreads) {
  (void)make("a", BlockType::q4_k);
  auto o = few();
  o.executor = &serial_executor();
  o.cache_bytes = 0;
  (void)make("b", BlockType::q4_k, o);
  EXPECT_EQ(bytes_of(folder_ / "a"), bytes_of(folder_ / "b"));
}

TEST_F(CalibratedGguf, ResumesToTheSameBytesAfterACancelAnywhere) {
  (void)make("whole", BlockType::q3_k);
  for (const double stop : {0.0, 0.55, 0.99}) {
    auto o = few();
    o.progress = [&](double fraction, std::string_view) { return fraction < stop; };
    expect_error(ErrorCode::cancelled, "cancelled", [&] { (void)make("out", BlockType::q3_k, o); });
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    expect_error(ErrorCode::invalid_argument, "--resume", [&] { (void)make("out", BlockType::q3_k); });
    auto resumed = few();
    resumed.resume = true;
    expect_error(ErrorCode::invalid_argument, "another method", [&] { (void)make("out", BlockType::q4_k, resumed); });
    EXPECT_EQ(make("out", BlockType::q3_k, resumed).layers.size(), 42u);
    EXPECT_EQ(bytes_of(folder_ / "out"), bytes_of(folder_ / "whole")) << stop;
    EXPECT_FALSE(fs::exists(folder_ / "out.partial"));
    fs::remove(folder_ / "out");
  }
}

// Experts lie in stacks, and rows of 64 are no super-blocks.
TEST_F(CalibratedGguf, ExpertsAndRowsThatAreNoSuperBlocksAreSolvedToo) {
  const fs::path mixtral = folder_ / "mixtral";
  copy_with_tokenizer(golden("mixtral"), mixtral);
  std::vector<std::int32_t> ids(600);
  for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<std::int32_t>(t * t * 7 % 61);
  ExportGgufOptions o;
  o.type = BlockType::q4_k;
  const ExportGgufReport report = export_gguf_calibrated(mixtral, folder_ / "solved.gguf", ids, o, few(16, 32));
  const auto& c = Config::load(mixtral);
  EXPECT_EQ(report.layers.size(), c.layers * (4 + 3 * c.experts));
  double loss = 0, rounding_loss = 0;
  for (const LayerReport& r : report.layers) {
    EXPECT_EQ(r.method, "gptq-Q5_0") << "as llama.cpp";
    loss += r.loss;
    rounding_loss += r.rounding_loss;
  }
  EXPECT_LT(loss, rounding_loss);
  export_gguf(mixtral, folder_ / "rounded.gguf", o);
  const double rounded = divergence(mixtral, folder_ / "rounded.gguf", ids);
  EXPECT_LT(divergence(mixtral, folder_ / "solved.gguf", ids), rounded) << "the same layers, each in its place";
}

TEST_F(CalibratedGguf, SkippedLayersAreRounded) {
  auto o = few();
  o.skip = {"down_proj"};
  EXPECT_EQ(make("some.gguf", BlockType::q4_0, o).layers.size(), 36u);
  ExportGgufOptions plain;
  plain.type = BlockType::q4_0;
  export_gguf(kModel, folder_ / "plain.gguf", plain);
  const GgufFile some(folder_ / "some.gguf"), rounded(folder_ / "plain.gguf");
  for (const char* same : {"blk.2.ffn_down.weight", "token_embd.weight", "blk.2.ffn_norm.weight"}) {
    const Buffer a = some.data(some.info(same)), b = rounded.data(rounded.info(same));
    EXPECT_TRUE(std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size())) << same;
  }
  const Buffer a = some.data(some.info("blk.2.ffn_up.weight")), b = rounded.data(rounded.info("blk.2.ffn_up.weight"));
  EXPECT_FALSE(std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size()));
}

TEST_F(CalibratedGguf, SaysWhatIsWrong) {
  refused(ErrorCode::invalid_argument, "F16 has none", BlockType::f16);
  refused(ErrorCode::unsupported, "can be read, not written", BlockType::iq2_xxs);
  auto o = few();
  o.rules.push_back({"down_proj", std::nullopt});
  refused(ErrorCode::invalid_argument, "a rule for layers", BlockType::q4_0, o);
  o = few();
  o.lm_head = true;
  refused(ErrorCode::invalid_argument, "lm_head", BlockType::q4_0, o);
  o = few();
  o.skip = {"re:proj"};
  refused(ErrorCode::invalid_argument, "skip every layer", BlockType::q4_0, o);
  QuantizeModelOptions q;
  q.spec = QuantSpec::parse("int4-g32-sym");
  quantize_model(kModel, folder_ / "int4", q);
  refused(ErrorCode::invalid_argument, "quantized already", BlockType::q4_0, few(), folder_ / "int4");
  ToyModel toy;  // its blocks multiply no GGUF blocks
  expect_error(ErrorCode::unsupported, "replace_by_blocks()", [&] {
    CalibrateOptions run = few();
    run.method = CalibratedMethod::parse("gptq-q4_0");
    struct Sink final : CalibrationSink {
      void write(std::size_t, FinishedBlock) override {}
    } sink;
    const std::vector<std::int32_t> ids(100, 3);
    (void)calibrate(toy, ids, run, sink);
  });
}

TEST_F(CalibratedGguf, ADirectoryHoldsNoBlocks) {
  auto o = few();
  o.method = CalibratedMethod::parse("gptq-q4_k");
  EXPECT_EQ(o.method.to_string(), "gptq-Q4_K");
  EXPECT_EQ(CalibratedMethod::parse("gptq-Q4_K"), o.method);
  EXPECT_EQ(CalibratedMethod::parse("gptq-q4_k-qronos").to_string(), "gptq-Q4_K-qronos");
  EXPECT_TRUE(CalibratedMethod::parse("gptq-q4_k-gptaq").gptaq);
  for (const char* text : {"gptq-q8_k", "gptq-f16", "gptq-q4_k-act", "gptq-q4_k-asym", "gptq-q4_k-gptaq-qronos",
                           "gptq-q4_k-", "awq-q4_k", "gptq-iq1_s"})
    expect_error(ErrorCode::invalid_argument, text, [&] { (void)CalibratedMethod::parse(text); });
  expect_error(ErrorCode::unsupported, "nibble export-gguf --gptq",
               [&] { (void)quantize_calibrated(kModel, folder_ / "out", text_ids("calibration.txt", 1000), o); });
  EXPECT_FALSE(fs::exists(folder_ / "out.partial"));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
