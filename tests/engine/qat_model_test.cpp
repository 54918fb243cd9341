// Quantization-aware training over the reference engine: gradients against differences of the loss, the saved model
// against the trained one, and that threads and checkpointing change nothing.
#include "nibble/engine/qat_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "nibble/engine/lora_model.h"
#include "nibble/format/checkpoint.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::engine {
namespace {

using testing_support::expect_error;

const std::string kGolden = NIBBLE_TEST_DATA "/golden/";

/// The golden tokens, as two samples.
train::Row row_of(const std::string& base) {
  const Checkpoint golden = Checkpoint::open(kGolden + base + "/golden.safetensors");
  const Buffer raw = golden.data("input_ids");
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < raw.size() / 8; ++i) {
    std::int64_t id = 0;
    std::memcpy(&id, static_cast<const std::byte*>(raw.data()) + 8 * i, 8);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  train::Row row;
  for (const std::span<std::int32_t> part : {std::span(ids).first(19), std::span(ids).subspan(19)})
    row.append(train::Sample{{part.begin(), part.end()}, std::vector<std::uint8_t>(part.size(), 1)});
  return row;
}

std::map<std::string, train::Parameter> by_name(QatModel& qat) {
  std::map<std::string, train::Parameter> out;
  for (train::Parameter& p : qat.parameters()) out.emplace(p.name, p);
  return out;
}

/// A weight that moves by a step of its grid takes ŵ with it, so that the loss's difference is that of ŵ, and the
/// straight-through gradient is exact. At 8 bits with fp32 scales a step is small.
TEST(QatModel, GradientsOfWeightsAreDifferencesOfTheLoss) {
  for (const char* base : {"qwen3", "gemma2", "bias", "phi3", "glm4"})
    for (const float distillation : {0.0f, 0.5f, 1.0f}) {
      SCOPED_TRACE(std::string(base) + " " + std::to_string(distillation));
      const Model model = Model::load(kGolden + base);
      // The base is its own teacher, and at 8 bits there is nothing to learn: at 3 there is.
      QatModel coarse(model, QuantSpec::parse("int3-channel-sym-f32"), {.distillation = distillation});
      QatModel qat(model, QuantSpec::parse("int8-channel-sym-full"), {.distillation = distillation});
      for (auto& [name, p] : by_name(qat)) {
        if (!name.ends_with(".weight")) continue;
        const QuantizedMatrix q = coarse.quantized(name.substr(0, name.size() - 7));
        for (std::size_t i = 0; i < p.values.size(); ++i) p.values[i] = q.value(i / q.cols, i % q.cols) * 0.8f;
      }
      const train::Row row = row_of(base);
      qat.clear_gradients();
      qat.add_gradients(row, 0);
      std::vector<std::pair<std::span<float>, std::vector<float>>> steps;
      double expected = 0;
      for (auto& [name, p] : by_name(qat)) {
        if (!name.ends_with(".weight")) continue;
        const QuantizedMatrix q = qat.quantized(name.substr(0, name.size() - 7));
        std::vector<float> by(p.values.size());
        for (std::size_t i = 0; i < by.size(); i += 61) {  // of all at once the loss is no straight line any more
          const std::size_t r = i / q.cols, c = i % q.cols;
          const std::uint8_t code = q.code(r, c);
          if (code == 0 || code == 255 || p.gradient[i] == 0) continue;
          by[i] = std::copysign(q.scale(q.group_of(r, c)), p.gradient[i]);
          expected += std::abs(static_cast<double>(by[i]) * static_cast<double>(p.gradient[i]));
        }
        steps.emplace_back(p.values, std::move(by));
      }
      const auto loss_at = [&](float share) {
        for (const auto& [values, by] : steps)
          for (std::size_t i = 0; i < by.size(); ++i) values[i] += share * by[i];
        const double loss = qat.add_gradients(row, 0).sum;
        for (const auto& [values, by] : steps)
          for (std::size_t i = 0; i < by.size(); ++i) values[i] -= share * by[i];
        return loss;
      };
      EXPECT_NEAR((loss_at(1) - loss_at(-1)) / (2 * expected), 1, 0.02);
    }
}

/// The gradients of scales are LSQ's sums of those of ŵ, which where nothing is clamped are those of the weights.
TEST(QatModel, GradientsOfScalesAreThoseOfLsq) {
  const Model model = Model::load(kGolden + "qwen3");
  QatModel qat(model, QuantSpec::parse("int4-g16-asym-f32"));
  qat.clear_gradients();
  qat.add_gradients(row_of("qwen3"), 0);
  const auto parameters = by_name(qat);
  for (const std::string& layer : qat.layers()) {
    const train::Parameter &weights = parameters.at(layer + ".weight"), &scales = parameters.at(layer + ".scales");
    const QuantizedMatrix q = qat.quantized(layer);
    std::vector<double> expected(scales.values.size());
    std::vector<bool> clamped(scales.values.size());
    for (std::size_t i = 0; i < weights.values.size(); ++i) {
      const std::size_t r = i / q.cols, c = i % q.cols, g = q.group_of(r, c);
      const float t = weights.values[i] / q.scale(g);
      clamped[g] = clamped[g] || weights.gradient[i] == 0;
      expected[g] += static_cast<double>(weights.gradient[i]) *
                     static_cast<double>(static_cast<float>(q.code(r, c) - q.zero_point(g)) - t);
    }
    std::size_t compared = 0;
    for (std::size_t g = 0; g < expected.size(); ++g) {
      if (clamped[g]) continue;
      ++compared;
      EXPECT_NEAR(scales.gradient[g], train::scale_gradient_factor(16, 4) * expected[g], 1e-5) << layer << " " << g;
    }
    EXPECT_GT(compared, 0u) << layer;
  }
}

struct Result {
  double loss = 0, entropy = 0;
  std::vector<float> gradients = {};
  bool operator==(const Result&) const = default;
};

Result pass(bool checkpointing, Executor* executor = nullptr) {
  LoadOptions load;
  load.executor = executor;
  const Model model = Model::load(kGolden + "gemma3", load);
  QatModel qat(model, QuantSpec::parse("int2-g16-asym"), {.distillation = 0.75f, .checkpointing = checkpointing});
  Result out{.entropy = qat.loss(row_of("gemma3")).sum};
  for (int twice = 0; twice < 2; ++twice) out.loss += qat.add_gradients(row_of("gemma3"), 0).sum;
  for (const train::Parameter& p : qat.parameters())
    out.gradients.insert(out.gradients.end(), p.gradient.begin(), p.gradient.end());
  return out;
}

TEST(QatModel, NeitherThreadsNorCheckpointingChangeABit) {
  testing_support::BackwardsExecutor three(3);
  const Result one = pass(true, &serial_executor());
  EXPECT_EQ(one, pass(false, &serial_executor()));
  EXPECT_EQ(one, pass(true, &three));
}

void some_steps(QatModel& qat, const train::Row& row, int steps) {
  train::Optimizer optimizer(qat.parameters(), {.rule = AdamOptions{.weight_decay = 0}});
  for (int t = 0; t < steps; ++t) {
    qat.clear_gradients();
    const train::Loss loss = qat.add_gradients(row, 0);
    optimizer.step(0.02, 1 / static_cast<double>(loss.targets));
  }
}

TEST(QatModel, TrainingBringsItNearToTheBase) {
  const Model model = Model::load(kGolden + "qwen3");
  const train::Row row = row_of("qwen3");
  QatModel qat(model, QuantSpec::parse("int2-g32-asym"));
  const double before = qat.add_gradients(row, 0).sum;
  some_steps(qat, row, 30);
  const double after = qat.add_gradients(row, 0).sum;
  EXPECT_GT(before, 0);
  EXPECT_LT(after, before / 2);
}

/// The same weights to the bit; the products are summed otherwise, so the loss is the same but for rounding.
void expect_saved_as_trained(const std::string& base) {
  const testing_support::TemporaryFolder folder;
  const Model model = Model::load(kGolden + base);
  const train::Row row = row_of(base);
  const QuantSpec spec = QuantSpec::parse("int2-g32-asym");
  QatModel qat(model, spec);
  some_steps(qat, row, 3);
  model::QuantizeModelOptions options;
  options.spec = spec;
  options.matrix = [&](const std::string& layer) { return qat.quantized(layer); };
  model::quantize_model(kGolden + base, folder / "nibble", options);
  model::ConvertModelOptions convert;
  convert.to = CheckpointLayout::gptq_v2;
  model::convert_model(folder / "nibble", folder / "gptq", convert);
  for (const char* layout : {"nibble", "gptq"}) {
    const Checkpoint saved = Checkpoint::open(folder / layout);
    for (const std::string& layer : qat.layers()) {
      const QuantizedMatrix expected = qat.quantized(layer), found = decode_quantized(saved, layer).value();
      for (std::size_t r = 0; r < expected.rows; ++r)
        for (std::size_t c = 0; c < expected.cols; ++c) ASSERT_EQ(found.value(r, c), expected.value(r, c));
    }
    const Model loaded = Model::load(folder / layout);
    LoraModel check(loaded, model::Adapter::make(loaded.config(), {}));  // adds nothing, and has a loss
    EXPECT_NEAR(check.loss(row).sum / qat.loss(row).sum, 1, 1e-5) << layout;
  }
  // Another matrix than was promised is refused, and nothing is left of the output.
  options.spec = QuantSpec::parse("int4-g32-asym");
  expect_error(ErrorCode::shape_mismatch, "int2-g32-asym",
               [&] { model::quantize_model(kGolden + base, folder / "other", options); });
  EXPECT_FALSE(std::filesystem::exists(folder / "other"));
}

TEST(QatModel, TheSavedModelIsTheTrainedOne) {
  for (const char* base : {"qwen3", "phi3"}) expect_saved_as_trained(base);
}

TEST(QatModel, GoesOnFromACheckpointToTheSameBits) {
  const testing_support::TemporaryFolder folder;
  const Model model = Model::load(kGolden + "qwen3");
  const QuantSpec spec = QuantSpec::parse("int2-g32-asym");
  const std::vector<train::Row> rows(4, row_of("qwen3"));
  train::FinetuneOptions options;
  options.batch = options.accumulation = 1;
  options.learning_rate = 0.01;
  QatModel whole(model, spec);
  train::finetune(whole, rows, {}, options);
  options.checkpoints = folder / "run";
  options.on_step = [](const train::StepRecord& r) { return r.step != 2; };
  QatModel first(model, spec);
  EXPECT_TRUE(train::finetune(first, rows, {}, options).stopped);
  options.resume = true;
  QatModel other(model, spec, {.distillation = 0.5f});
  expect_error(ErrorCode::invalid_argument, "its distillation is 1.0",
               [&] { train::finetune(other, rows, {}, options); });
  QatModel second(model, spec);
  EXPECT_EQ(train::finetune(second, rows, {}, options).resumed_at, 2u);
  for (std::size_t i = 0; i < whole.parameters().size(); ++i)
    EXPECT_TRUE(std::ranges::equal(whole.parameters()[i].values, second.parameters()[i].values));
}

TEST(QatModel, BeginsWithAnotherQuantization) {
  const Model model = Model::load(kGolden + "qwen3");
  const QuantSpec spec = QuantSpec::parse("int2-g32-asym");
  QatModel first(model, spec, {.start = train::GridStart::mean});
  some_steps(first, row_of("qwen3"), 5);
  QatModel second(model, spec, {.start_from = [&](const std::string& layer) { return first.quantized(layer); }});
  EXPECT_EQ(second.loss(row_of("qwen3")).sum, first.loss(row_of("qwen3")).sum);
}

TEST(QatModel, RefusesWhatItCannotTrain) {
  const Model model = Model::load(kGolden + "qwen3");
  expect_error(ErrorCode::unsupported, "cannot be trained", [&] { QatModel(model, QuantSpec::parse("nf4")); });
  const QuantSpec spec = QuantSpec::parse("int4-g32-sym");
  expect_error(ErrorCode::invalid_argument, "distillation is 1.5",
               [&] { QatModel(model, spec, {.distillation = 1.5f}); });
  expect_error(ErrorCode::invalid_argument, "scale_rate is -1", [&] { QatModel(model, spec, {.scale_rate = -1}); });
  const Model adapted = model.with_adapter(model::Adapter::make(model.config(), {}));
  expect_error(ErrorCode::invalid_argument, "adapter", [&] { QatModel(adapted, spec); });
  const QatModel qat(model, spec);
  expect_error(ErrorCode::not_found, "'lm_head'", [&] { (void)qat.quantized("lm_head"); });
}

}  // namespace
}  // namespace nibble::engine
