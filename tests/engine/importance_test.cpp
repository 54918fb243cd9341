// What a model's layers are given, counted; and what encoding by it gives.
#include "nibble/model/importance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "nibble/engine/calibrate.h"
#include "nibble/engine/evaluate.h"
#include "nibble/format/gguf.h"
#include "nibble/model/architecture.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/embedded_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/toy_engine.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;
using namespace model;

constexpr const char* kModel = kEmbeddedModel;
const fs::path kGolden = NIBBLE_TEST_DATA "/golden";

ImportanceOptions few() {
  ImportanceOptions o;
  o.samples = 3;
  o.sample_tokens = 32;
  return o;
}

std::vector<std::int32_t> counting(std::size_t n, std::int32_t vocabulary) {
  std::vector<std::int32_t> out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<std::int32_t>(i * 7 + i / 5) % vocabulary;
  return out;
}

// The same sums as a pass that is watched by hand.
TEST(Importance, OfAnyEnginesModelIsWhatItsBlocksShow) {
  ToyModel toy;
  const auto ids = counting(96, 64);
  ImportanceOptions o = few();
  o.head = true;
  const ImportanceMatrix found = importance(toy, ids, o);
  EXPECT_EQ(found.chunk_size, 32u);
  EXPECT_EQ(found.chunk_count, 3u);

  ImportanceMatrix expected;
  const auto watch = [&](CalibratedBlock& block, MatrixView<float> x) {
    block.run(x, [&](std::size_t g, MatrixView<const float> input) {
      for (const CalibratedLayer& l : block.groups()[g].layers) expected.add(l.name + ".weight", input);
      return true;
    });
  };
  for (std::size_t s = 0; s < 3; ++s) {
    std::vector<float> states(32 * toy.width());
    const MatrixView<float> x(states.data(), 32, toy.width());
    toy.embed(std::span(ids).subspan(s * 32, 32), x);
    for (std::size_t b = 0; b < toy.blocks(); ++b) watch(*toy.block(b), x);
    watch(*toy.head(), x);
  }
  ASSERT_EQ(found.entries().size(), expected.entries().size());
  for (const auto& [name, e] : expected.entries()) {
    EXPECT_EQ(found.mean_squares(name, e.columns), expected.mean_squares(name, e.columns)) << name;
    EXPECT_EQ(found.find(name)->counts, e.counts) << name;
  }
}

TEST(Importance, RefusesTextsThatSayNothing) {
  ToyModel toy;
  expect_error(ErrorCode::invalid_argument, "1 tokens says nothing",
               [&] { (void)importance(toy, counting(1, 64), few()); });
  expect_error(ErrorCode::invalid_argument, "the vocabulary has ids 0 to 63", [&] {
    (void)importance(toy, std::vector<std::int32_t>{1, 64}, few());
  });
  ImportanceOptions none = few();
  none.samples = 0;
  expect_error(ErrorCode::invalid_argument, "0 samples", [&] { (void)importance(toy, counting(64, 64), none); });
  ImportanceOptions stops = few();
  stops.progress = [](double, std::string_view) { return false; };
  expect_error(ErrorCode::cancelled, "", [&] { (void)importance(toy, counting(64, 64), stops); });
  ToyModel fails({.failing_block = 1});
  expect_error(ErrorCode::io, "block 1", [&] { (void)importance(fails, counting(64, 64), few()); });
}

TEST(Importance, OfThisEnginesModelHasGgufsNames) {
  const ImportanceMatrix m = importance(kModel, text_ids("calibration.txt", 4096), few());
  const Config c = Config::load(kModel);
  std::size_t linears = 0;
  for (std::size_t i = 0; i < c.layers; ++i)
    for (const std::string& name : c.architecture().linear_names(i)) {
      const std::string weight = c.architecture().gguf_name(name + ".weight");
      ASSERT_NE(m.find(weight), nullptr) << weight;
      EXPECT_EQ(m.find(weight)->counts, std::vector<double>{96}) << weight;
      ++linears;
    }
  EXPECT_EQ(m.entries().size(), linears + (c.tied_embeddings ? 0 : 1));
  // q, k and v have one input.
  EXPECT_EQ(m.find("blk.0.attn_q.weight")->sums, m.find("blk.0.attn_k.weight")->sums);
}

TEST(Importance, OfExpertsIsThatOfTheTokensThatGoThere) {
  const fs::path path = kGolden / "mixtral";
  const Config c = Config::load(path);
  const ImportanceMatrix m = importance(path, counting(96, static_cast<std::int32_t>(c.vocab)), few());
  const ImportanceMatrix::Entry* up = m.find("blk.0.ffn_up_exps.weight");
  ASSERT_NE(up, nullptr);
  ASSERT_EQ(up->experts(), c.experts);
  double tokens = 0;
  for (const double n : up->counts) tokens += n;
  EXPECT_EQ(tokens, static_cast<double>(96 * c.experts_per_token));
}

TEST(Importance, OfFewerThreadsAndOfAFileOnDiskIsTheSame) {
  const auto ids = text_ids("calibration.txt", 4096);
  const ImportanceMatrix a = importance(kModel, ids, few());
  ImportanceOptions small = few();
  small.cache_bytes = 0;
  const ImportanceMatrix b = importance(kModel, ids, small, nullptr, &serial_executor());
  for (const auto& [name, e] : a.entries()) EXPECT_EQ(e.sums, b.find(name)->sums) << name;
}

/// KL of the embedded model as GGUF of a type, with an importance or without.
class WeighedExport : public testing::Test {
 protected:
  double divergence(BlockType type, const ImportanceMatrix* importance) {
    EvaluateOptions o;
    o.save_reference = folder_ / "reference";
    const auto ids = text_ids("evaluation.txt", 4096);
    if (!fs::exists(o.save_reference)) (void)evaluate(Model::load(kModel), ids, o);
    o.compare_reference = std::exchange(o.save_reference, {});
    ExportGgufOptions e;
    e.type = type;
    e.importance = importance;
    e.importance_name = "austen.imatrix";
    export_gguf(kModel, folder_ / "model.gguf", e);
    return evaluate(Model::load(folder_ / "model.gguf"), ids, o).kl_mean();
  }
  TemporaryFolder folder_;
};

TEST_F(WeighedExport, IsCloserToTheModel) {
  const ImportanceMatrix m =
      importance(kModel, text_ids("calibration.txt", 65536), {.samples = 16, .sample_tokens = 256});
  for (const BlockType type : {BlockType::q4_0, BlockType::q3_k, BlockType::q2_k}) {
    const double plain = divergence(type, nullptr), weighed = divergence(type, &m);
    EXPECT_LT(weighed, plain) << name_of(type);
  }
  const GgufFile file(folder_ / "model.gguf");
  EXPECT_EQ(file.metadata().at("quantize.imatrix.file"), GgufValue(std::string("austen.imatrix")));
  EXPECT_EQ(file.metadata().at("quantize.imatrix.entries_count"),
            GgufValue(static_cast<std::int32_t>(m.entries().size())));
}

// A directory of the model rounded by a method, with an importance or without.
TEST_F(WeighedExport, SoAreTheOtherSchemes) {
  const auto ids = text_ids("evaluation.txt", 4096);
  const ImportanceMatrix m =
      importance(kModel, text_ids("calibration.txt", 65536), {.samples = 16, .sample_tokens = 256});
  EvaluateOptions o;
  o.save_reference = folder_ / "reference";
  (void)evaluate(Model::load(kModel), ids, o);
  o.compare_reference = std::exchange(o.save_reference, {});
  const auto divergence_of = [&](const char* spec, const ImportanceMatrix* by) {
    fs::remove_all(folder_ / "out");
    QuantizeModelOptions q;
    q.spec = QuantSpec::parse(spec);
    q.importance = by;
    quantize_model(kModel, folder_ / "out", q);
    return evaluate(Model::load(folder_ / "out"), ids, o).kl_mean();
  };
  for (const char* spec : {"int3-g128-asym", "int2-g32-asym"})
    EXPECT_LT(divergence_of(spec, &m), divergence_of(spec, nullptr)) << spec;
  ImportanceMatrix other;
  const std::vector<float> x(8, 1.0f);
  other.add("blk.0.something.weight", MatrixView<const float>(x.data(), 1, 8));
  expect_error(ErrorCode::invalid_argument, "it is another model's", [&] { divergence_of("nf4", &other); });
}

TEST_F(WeighedExport, RefusesAnotherModelsImportance) {
  ImportanceMatrix other;
  const std::vector<float> x(8, 1.0f);
  other.add("blk.0.something.weight", MatrixView<const float>(x.data(), 1, 8));
  expect_error(ErrorCode::invalid_argument, "it is another model's", [&] { divergence(BlockType::q4_0, &other); });
  other.add("blk.0.attn_q.weight", MatrixView<const float>(x.data(), 1, 8));
  expect_error(ErrorCode::shape_mismatch, "'blk.0.attn_q.weight' is of 8 columns",
               [&] { divergence(BlockType::q4_0, &other); });
  EXPECT_FALSE(fs::exists(folder_ / "model.gguf"));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
