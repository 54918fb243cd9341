// The types of a file of a size that is named: the best plan, against all plans there are, and on models.
#include "nibble/model/type_plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "nibble/engine/calibrate.h"
#include "nibble/engine/evaluate.h"
#include "nibble/engine/type_choices.h"
#include "nibble/format/gguf.h"
#include "nibble/model/export_gguf.h"
#include "nibble/model/quantize.h"
#include "tests/support/damaged_model.h"
#include "tests/support/embedded_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden_model.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

constexpr const char* kModel = kEmbeddedModel;

/// Of every combination of choices that fits.
double least_loss(const std::vector<TensorChoices>& tensors, std::size_t at, std::size_t bytes) {
  if (at == tensors.size()) return 0;
  double best = std::numeric_limits<double>::infinity();
  for (const TypeChoice& c : tensors[at].choices)
    if (c.bytes <= bytes) best = std::min(best, c.loss + least_loss(tensors, at + 1, bytes - c.bytes));
  return best;
}

std::vector<TensorChoices> random_tensors(std::mt19937& random, std::size_t count) {
  std::vector<TensorChoices> out;
  for (std::size_t i = 0; i < count; ++i) {
    TensorChoices& t = out.emplace_back(TensorChoices{"t" + std::to_string(i), {}});
    const double worth = std::exp(std::normal_distribution<>(0, 2)(random));
    for (const BlockType type : {BlockType::q2_k, BlockType::q4_k, BlockType::q6_k, BlockType::f16})
      t.choices.push_back({type, 10 + random() % 90, worth * std::uniform_real_distribution<>(0.1, 1)(random)});
  }
  return out;
}

// A plan that takes all that it may has no better one; one that has bytes to spare is within a step of the best.
TEST(TypePlan, IsTheBestThereIsToWithinAStep) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const auto tensors = random_tensors(random, 5);
    std::size_t smallest = 0, largest_step = 0;
    double largest_gain = 0;
    for (const TensorChoices& t : tensors) {
      const auto [least, most] = std::ranges::minmax(t.choices, {}, &TypeChoice::bytes);
      smallest += least.bytes;
      largest_step = std::max(largest_step, most.bytes - least.bytes);
      const auto [low, high] = std::ranges::minmax(t.choices, {}, &TypeChoice::loss);
      largest_gain = std::max(largest_gain, high.loss - low.loss);
    }
    const std::size_t allowed = smallest + random() % 200;
    const TypePlan plan = allot(tensors, allowed);
    EXPECT_LE(plan.bytes, allowed);
    double loss = 0;
    std::size_t bytes = 0;
    for (const TensorChoices& t : tensors) {
      const auto chosen = std::ranges::find(t.choices, plan.types.at(t.tensor), &TypeChoice::type);
      loss += chosen->loss;
      bytes += chosen->bytes;
    }
    EXPECT_EQ(bytes, plan.bytes);
    EXPECT_NEAR(loss, plan.loss, 1e-9);
    EXPECT_GE(loss, least_loss(tensors, 0, allowed) - 1e-12);
    EXPECT_LE(loss, least_loss(tensors, 0, allowed) + largest_gain) << trial;
  }
}

TEST(TypePlan, SaysWhatIsWrong) {
  const TensorChoices t{"a", {{BlockType::q4_k, 100, 1}, {BlockType::q8_0, 200, 0.1}}};
  EXPECT_EQ(allot(std::vector{t}, 199).types.at("a"), BlockType::q4_k);
  EXPECT_EQ(allot(std::vector{t}, 200).types.at("a"), BlockType::q8_0);
  expect_error(ErrorCode::invalid_argument, "the smallest types take 100 bytes",
               [&] { (void)allot(std::vector{t}, 99); });
  expect_error(ErrorCode::invalid_argument, "'a' comes twice", [&] { (void)allot(std::vector{t, t}, 999); });
  expect_error(ErrorCode::invalid_argument, "'b' has no type", [&] {
    (void)allot(std::vector{TensorChoices{"b", {}}}, 999);
  });
  expect_error(ErrorCode::non_finite, "'c': its loss as F16", [&] {
    (void)allot(std::vector{TensorChoices{"c", {{BlockType::f16, 1, std::nan("")}}}}, 999);
  });
}

TEST(TypePlan, ComesBackFromAFile) {
  const TemporaryFolder folder;
  TypePlan plan;
  plan.types = {{"blk.0.attn_q.weight", BlockType::q4_k}, {"token_embd.weight", BlockType::iq4_nl}};
  plan.bytes = 1234;
  plan.loss = 0.0625;
  plan.write(folder / "plan.json");
  const TypePlan back = TypePlan::read(folder / "plan.json");
  EXPECT_EQ(back.types, plan.types);
  EXPECT_EQ(back.bytes, plan.bytes);
  EXPECT_EQ(back.loss, plan.loss);
  const auto refused = [&](const std::string& text, const char* says) {
    std::ofstream(folder / "bad.json") << text;
    expect_error(ErrorCode::corrupt_file, says, [&] { (void)TypePlan::read(folder / "bad.json"); });
  };
  const std::string head = R"({"format": "nibble type plan 1", )";
  refused("[]", "\"format\"");
  refused(R"({"format": 3})", "\"format\"");
  refused(head + R"("tensors": []})", "\"tensors\"");
  refused(head + R"("tensors": {"a": "q9_k"}})", "'a' is to be \"q9_k\"");
  refused(head + R"("tensors": {"a": "iq1_s"}})", "'a' is to be \"iq1_s\"");
  refused(head + R"("tensors": {"a": 4}})", "'a' is to be 4");
  refused(head + R"("tensors": {}, "loss": -1})", "\"loss\" is -1");
  refused(head + R"("tensors": {}, "bytes": "x"})", "\"bytes\"");
}

TEST(TypePlan, BeatsAMixOfTheSameSize) {
  const TemporaryFolder folder;
  const auto calibration = text_ids("calibration.txt", 65536), evaluation = text_ids("evaluation.txt", 4096);
  const ImportanceMatrix m = engine::importance(kModel, calibration, {.samples = 16, .sample_tokens = 256});
  engine::TypeChoicesOptions o;
  o.importance = &m;
  const auto choices = engine::type_choices(kModel, calibration, o);
  ASSERT_EQ(choices.size(), 44u);
  EXPECT_EQ(choices.front().tensor, "token_embd.weight");
  EXPECT_EQ(choices.back().tensor, "output.weight");
  for (const TensorChoices& t : choices) {
    const auto loss = [&](BlockType type) { return std::ranges::find(t.choices, type, &TypeChoice::type)->loss; };
    EXPECT_GT(loss(BlockType::q2_k), loss(BlockType::q4_k)) << t.tensor;
    EXPECT_GT(loss(BlockType::q4_k), loss(BlockType::q6_k)) << t.tensor;
    EXPECT_GT(loss(BlockType::q6_k), loss(BlockType::f16)) << t.tensor;
  }
  engine::EvaluateOptions e;
  e.save_reference = folder / "reference";
  (void)engine::evaluate(engine::Model::load(kModel), evaluation, e);
  e.compare_reference = std::exchange(e.save_reference, {});
  const auto divergence = [&](const ExportGgufOptions& as) {
    export_gguf(kModel, folder / "model.gguf", as);
    return engine::evaluate(engine::Model::load(folder / "model.gguf"), evaluation, e).kl_mean();
  };
  for (const char* name : {"Q2_K", "Q4_K_M"}) {
    ExportGgufOptions mix, planned;
    mix.mix = find_gguf_mix(name);
    mix.importance = planned.importance = &m;
    const double of_mix = divergence(mix);
    std::size_t bytes = 0;
    const GgufFile file(folder / "model.gguf");
    for (const GgufTensor& t : file.tensors())
      if (t.type != BlockType::f32) bytes += t.bytes;
    const TypePlan plan = allot(choices, bytes);
    planned.plan = &plan;
    EXPECT_LT(divergence(planned), 0.9 * of_mix) << name;
    EXPECT_LE(fs::file_size(folder / "model.gguf"), gguf_file_bytes(kModel, mix)) << name;
    EXPECT_EQ(fs::file_size(folder / "model.gguf"), gguf_file_bytes(kModel, planned)) << name;
  }
}

// A divergence of logits that are no numbers is no loss of 0.
TEST(TypePlan, IsNotMadeOfAModelThatGivesNoNumbers) {
  const TemporaryFolder folder;
  const fs::path damaged = damaged_model(kModel, folder / "damaged", "model.layers.3.mlp.down_proj.weight", 0, 3e38f);
  expect_error(ErrorCode::non_finite, "are NaN or infinite",
               [&] { (void)engine::type_choices(damaged, text_ids("calibration.txt", 4096)); });
}

TEST(TypePlan, KnowsExpertsAndTiedEmbeddings) {
  std::vector<std::int32_t> ids(300);
  for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<std::int32_t>(t * t * 7 % 61);
  const TemporaryFolder folder;
  for (const char* name : {"mixtral", "gqa_tied", "phi3"}) {
    copy_with_tokenizer(golden(name), folder / name);
    const auto choices = engine::type_choices(folder / name, ids);
    std::size_t smallest = 0;
    for (const TensorChoices& t : choices)
      smallest += std::ranges::min_element(t.choices, {}, &TypeChoice::bytes)->bytes;
    const TypePlan plan = allot(choices, smallest * 3 / 2);
    ExportGgufOptions o;
    o.plan = &plan;
    export_gguf(folder / name, folder / "model.gguf", o);
    const GgufFile file(folder / "model.gguf");
    for (const auto& [tensor, type] : plan.types) EXPECT_EQ(file.info(tensor).type, type) << name << " " << tensor;
    for (const GgufTensor& t : file.tensors())
      EXPECT_TRUE(t.type == BlockType::f32 || plan.types.contains(t.name)) << name << " " << t.name;
    (void)engine::evaluate(engine::Model::load(folder / "model.gguf"), ids);
  }
  TypePlan another;
  another.types = {{"blk.77.attn_q.weight", BlockType::q4_0}};
  ExportGgufOptions o;
  o.plan = &another;
  expect_error(ErrorCode::invalid_argument, "gives 'blk.77.attn_q.weight' a type",
               [&] { export_gguf(kModel, folder / "none.gguf", o); });
  another.types = {{"output_norm.weight", BlockType::q4_0}};
  expect_error(ErrorCode::invalid_argument, "gives 'output_norm.weight' a type",
               [&] { export_gguf(kModel, folder / "none.gguf", o); });
  QuantizeModelOptions q;
  q.spec = QuantSpec::parse("int4-g32-sym");
  quantize_model(kModel, folder / "int4", q);
  expect_error(ErrorCode::invalid_argument, "quantized already",
               [&] { (void)engine::type_choices(folder / "int4", ids); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
