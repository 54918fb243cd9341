// Training of adapters over the reference engine, against the golden values of peft (golden/make_lora_golden.py) and
// against itself: threads, checkpointing and packing change nothing.
#include "nibble/engine/lora_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "nibble/core/error.h"
#include "nibble/format/checkpoint.h"
#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::engine {
namespace {

const std::string kGolden = NIBBLE_TEST_DATA "/golden/";

/// make_lora_golden.py's: numbers in ±scale.
std::vector<float> pattern(const std::string& name, std::size_t count, double scale) {
  std::uint32_t key = 0;
  for (const char c : name) key = key * 31 + static_cast<unsigned char>(c);
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto place = static_cast<std::uint32_t>(i);
    const std::uint32_t mixed = (place * 2654435761u + key) * 2246822519u;
    out[i] = static_cast<float>((static_cast<double>(mixed >> 8) / 0x1p24 * 2 - 1) * scale);
  }
  return out;
}

std::vector<std::int32_t> golden_ids(const std::string& base) {
  const Checkpoint golden = Checkpoint::open(kGolden + base + "/golden.safetensors");
  const Buffer raw = golden.data("input_ids");
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < raw.size() / 8; ++i) {
    std::int64_t id = 0;
    std::memcpy(&id, static_cast<const std::byte*>(raw.data()) + 8 * i, 8);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

train::Sample sample_of(std::span<const std::int32_t> ids, std::size_t prompt) {
  train::Sample out{{ids.begin(), ids.end()}, std::vector<std::uint8_t>(ids.size(), 1)};
  std::fill_n(out.trained.begin(), prompt, std::uint8_t{0});
  return out;
}

/// The two samples of the golden values.
train::Row golden_row(const std::string& base) {
  const std::vector<std::int32_t> ids = golden_ids(base);
  train::Row row;
  row.append(sample_of(std::span(ids).first(19), 4));
  row.append(sample_of(std::span(ids).subspan(19), 4));
  return row;
}

struct Case {
  std::string name, base;
  bool rslora = false, dora = false, nf4 = false;
};

void PrintTo(const Case& c, std::ostream* os) { *os << c.name; }

Model load(const Case& c) {
  LoadOptions options;
  if (c.nf4) options.quantize = QuantSpec::parse("nf4-dq");
  return Model::load(kGolden + c.base, options);
}

/// With the golden values; the magnitudes of DoRA must be the rows' norms first.
model::Adapter adapter_of(const Case& c, const Model& model) {
  model::Adapter adapter =
      model::Adapter::make(model.config(), {.rank = 2, .alpha = 6, .dropout = 0, .rslora = c.rslora, .dora = c.dora});
  if (c.dora) adapter = LoraModel(model, adapter).adapter();
  for (model::AdapterLayer& layer : adapter.layers) {
    layer.a = pattern(layer.name + ".lora_A.weight", layer.a.size(), 0.2);
    layer.b = pattern(layer.name + ".lora_B.weight", layer.b.size(), 0.2);
    const std::vector<float> factors = pattern(layer.name + ".lora_magnitude_vector", layer.magnitude.size(), 0.25);
    for (std::size_t o = 0; o < factors.size(); ++o) layer.magnitude[o] *= 1 + factors[o];
  }
  return adapter;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / size);
}

class GoldenLora : public testing::TestWithParam<Case> {
 protected:
  Case case_ = GetParam();
  Model model_ = load(case_);
  Checkpoint golden_ = Checkpoint::open(kGolden + "lora/" + case_.name + ".safetensors");
};

TEST_P(GoldenLora, LossAndGradientsAreThoseOfPeft) {
  LoraModel lora(model_, adapter_of(case_, model_));
  const train::Row row = golden_row(case_.base);
  const train::Loss loss = lora.add_gradients(row, 0);
  EXPECT_NEAR(loss.sum / static_cast<double>(golden_.read_f32("loss")[0]), 1, 1e-6);
  EXPECT_EQ(loss.targets, row.targets());
  for (const train::Parameter& p : lora.parameters()) {
    const std::vector<float> expected = golden_.read_f32("gradient." + p.name);
    ASSERT_EQ(p.gradient.size(), expected.size()) << p.name;
    EXPECT_LT(distance(p.gradient, expected), 1e-4) << p.name;
  }
}

TEST_P(GoldenLora, StepsOfAdamWAreThoseOfTorch) {
  LoraModel lora(model_, adapter_of(case_, model_));
  const train::Row row = golden_row(case_.base);
  train::Optimizer optimizer(lora.parameters(), {.rule = AdamOptions{.weight_decay = 0}, .max_grad_norm = 0.3});
  std::map<std::string, std::vector<float>> before;
  for (const train::Parameter& p : lora.parameters()) before[p.name] = {p.values.begin(), p.values.end()};
  for (std::uint64_t step = 0; step < 3; ++step) {
    lora.clear_gradients();
    const train::Loss loss = lora.add_gradients(row, step);
    optimizer.step(1e-2, 1 / static_cast<double>(loss.targets));
  }
  for (const train::Parameter& p : lora.parameters()) {
    std::vector<float> moved(p.values.begin(), p.values.end()), expected = golden_.read_f32("after." + p.name);
    for (std::size_t i = 0; i < moved.size(); ++i) {
      moved[i] -= before[p.name][i];
      expected[i] -= before[p.name][i];
    }
    // Adam divides by the gradient's size, so that an element whose gradient is nearly 0 may go either way.
    EXPECT_LT(distance(moved, expected), 1e-2) << p.name;
  }
}

TEST_P(GoldenLora, InferenceWithTheAdapterGivesTheLogitsOfPeft) {
  const Model adapted = model_.with_adapter(adapter_of(case_, model_));
  const std::vector<std::int32_t> ids = golden_ids(case_.base);
  const std::span<const std::int32_t> second = std::span(ids).subspan(19);
  KvCache cache(adapted.config(), second.size());
  const std::vector<float> logits = adapted.forward(second, cache, true), expected = golden_.read_f32("logits");
  ASSERT_EQ(logits.size(), expected.size());
  for (std::size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 1e-4) << i;
  // The model that it was made of is as it was.
  KvCache again(model_.config(), second.size());
  EXPECT_NE(model_.forward(second, again, true), logits);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenLora,
                         testing::Values(Case{"gqa_tied", "gqa_tied"},
                                         Case{.name = "qwen3_nf4", .base = "qwen3", .nf4 = true}, Case{"bias", "bias"},
                                         Case{"qwen3", "qwen3"}, Case{"gemma2", "gemma2"}, Case{"gemma3", "gemma3"},
                                         Case{"phi3", "phi3"}, Case{"glm4", "glm4"},
                                         Case{.name = "phi3_dora", .base = "phi3", .dora = true},
                                         Case{.name = "gqa_tied_rslora", .base = "gqa_tied", .rslora = true},
                                         Case{.name = "gqa_tied_dora", .base = "gqa_tied", .dora = true},
                                         Case{.name = "bias_dora", .base = "bias", .dora = true}),
                         [](const auto& info) { return info.param.name; });

/// Everything that a pass gives.
struct Result {
  double loss = 0;
  std::vector<float> gradients = {};
  bool operator==(const Result&) const = default;
};

Result pass(const Case& c, double dropout, LoraModelOptions how, Executor* executor = nullptr) {
  LoadOptions options;
  options.executor = executor;
  if (c.nf4) options.quantize = QuantSpec::parse("nf4-dq");
  const Model model = Model::load(kGolden + c.base, options);
  model::Adapter adapter = adapter_of(c, model);
  adapter.dropout = dropout;
  how.seed = 7;
  LoraModel lora(model, adapter, how);
  Result out{.loss = lora.add_gradients(golden_row(c.base), 5).sum};
  for (const train::Parameter& p : lora.parameters())
    out.gradients.insert(out.gradients.end(), p.gradient.begin(), p.gradient.end());
  return out;
}

const Case kDora{.name = "gemma3", .base = "gemma3", .dora = true, .nf4 = true};

TEST(LoraModel, CheckpointingChangesNoBit) {
  for (const Case& c : {Case{"qwen3", "qwen3"}, Case{"phi3", "phi3"}, Case{"glm4", "glm4"}, kDora})
    for (const DType type : {DType::f32, DType::bf16}) {
      const LoraModelOptions kept{.checkpointing = false, .adapter_type = type, .activation_type = type},
          again{.checkpointing = true, .adapter_type = type, .activation_type = type};
      EXPECT_EQ(pass(c, 0.25, again), pass(c, 0.25, kept)) << c.name << " " << name_of(type);
    }
}

TEST(LoraModel, ThreadsChangeNoBit) {
  testing_support::BackwardsExecutor three(3);
  for (const Case& c : {Case{"bias", "bias"}, Case{"phi3", "phi3"}, kDora})
    EXPECT_EQ(pass(c, 0.25, {}, &serial_executor()), pass(c, 0.25, {}, &three)) << c.name;
}

TEST(LoraModel, AnAdapterInBf16IsMultipliedAsItIsSaved) {
  for (const Case& c : {Case{"bias", "bias"}, Case{.name = "bias_dora", .base = "bias", .dora = true}}) {
    const Model model = load(c);
    const train::Row row = golden_row(c.base);
    const model::Adapter made = adapter_of(c, model);
    LoraModel lora(model, made, {.adapter_type = DType::bf16});
    const testing_support::TemporaryFolder folder;
    std::filesystem::create_directory(folder / "adapter");
    lora.save(folder / "adapter");
    LoraModel saved(model, model::Adapter::load(folder / "adapter"));
    EXPECT_EQ(lora.add_gradients(row, 0).sum, saved.add_gradients(row, 0).sum);
    EXPECT_NE(lora.loss(row).sum, LoraModel(model, made).loss(row).sum);
    const std::vector<train::Parameter> a = lora.parameters(), b = saved.parameters();
    for (std::size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(std::ranges::equal(a[i].gradient, b[i].gradient)) << a[i].name;
    // What the optimizer goes on from is not rounded, or small steps would be lost.
    EXPECT_EQ(lora.adapter().layers[0].a, made.layers[0].a);
    EXPECT_NE(saved.adapter().layers[0].a, made.layers[0].a);
  }
}

TEST(LoraModel, ActivationsInBf16AreNearThoseInFp32AndHalfAsLarge) {
  const Case c{"qwen3", "qwen3"};
  const Result exact = pass(c, 0, {}), rounded = pass(c, 0, {.activation_type = DType::bf16});
  EXPECT_NE(rounded.loss, exact.loss);
  EXPECT_NEAR(rounded.loss / exact.loss, 1, 2e-3);
  EXPECT_LT(distance(rounded.gradients, exact.gradients), 0.02);
  const Model model = load(c);
  const LoraModel whole(model, adapter_of(c, model)),
      half(model, adapter_of(c, model), {.activation_type = DType::bf16});
  const std::size_t states = 1000 * model.config().layers * model.config().hidden;
  EXPECT_EQ(whole.activation_bytes(1000) - half.activation_bytes(1000), 2 * states);
}

/// With dropout the loss is another function, but one of the parameters all the same.
TEST(LoraModel, GradientsWithDropoutAreThoseOfTheLossWithDropout) {
  for (const auto& [base, dora] : {std::pair{"gqa_tied", false}, {"gqa_tied", true}, {"phi3", false}}) {
    const Case c{.name = base, .base = base, .dora = dora};
    const Model model = load(c);
    model::Adapter adapter = adapter_of(c, model);
    adapter.dropout = 0.3;
    LoraModel lora(model, adapter);
    const train::Row row = golden_row(c.base);
    lora.add_gradients(row, 3);
    // Along the gradient itself, where a difference is the least lost in fp32's rounding. DoRA's norm is a constant to
    // the gradient and not to the loss, so there only the magnitudes are moved.
    std::vector<std::vector<float>> gradients;
    double square = 0;
    for (const train::Parameter& p : lora.parameters()) {
      const bool moves = !dora || p.name.ends_with("magnitude_vector");
      gradients.emplace_back(p.gradient.begin(), p.gradient.end());
      if (!moves) std::ranges::fill(gradients.back(), 0.0f);
      for (const float g : gradients.back()) square += static_cast<double>(g) * static_cast<double>(g);
    }
    const auto loss_at = [&](double step) {
      const std::vector<train::Parameter> parameters = lora.parameters();
      for (std::size_t i = 0; i < parameters.size(); ++i)
        for (std::size_t j = 0; j < gradients[i].size(); ++j)
          parameters[i].values[j] += static_cast<float>(step * static_cast<double>(gradients[i][j]));
      const double loss = lora.add_gradients(row, 3).sum;
      for (std::size_t i = 0; i < parameters.size(); ++i)
        for (std::size_t j = 0; j < gradients[i].size(); ++j)
          parameters[i].values[j] -= static_cast<float>(step * static_cast<double>(gradients[i][j]));
      return loss;
    };
    const double step = 1e-3 / std::sqrt(square);
    EXPECT_NEAR((loss_at(step) - loss_at(-step)) / (2 * step * square), 1, 5e-3) << (dora ? "DoRA" : "LoRA");
  }
}

TEST(LoraModel, PackedSamplesGiveTheSumOfTheirLosses) {
  const Case c{"gemma2", "gemma2"};
  const Model model = load(c);
  LoraModel lora(model, adapter_of(c, model));
  const std::vector<std::int32_t> ids = golden_ids(c.base);
  train::Row first, second;
  first.append(sample_of(std::span(ids).first(19), 4));
  second.append(sample_of(std::span(ids).subspan(19), 4));
  const double apart = lora.loss(first).sum + lora.loss(second).sum;
  EXPECT_NEAR(lora.loss(golden_row(c.base)).sum / apart, 1, 1e-6);
}

TEST(LoraModel, AnAdapterThatIsNewChangesNothing) {
  for (const bool dora : {false, true}) {
    const Model model = Model::load(kGolden + "qwen3");
    LoraModel lora(model, model::Adapter::make(model.config(), {.rank = 4, .dora = dora}));
    const Model adapted = model.with_adapter(lora.adapter());
    const std::vector<std::int32_t> ids = golden_ids("qwen3");
    KvCache plain(model.config(), ids.size()), with(model.config(), ids.size());
    const std::vector<float> a = model.forward(ids, plain), b = adapted.forward(ids, with);
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], dora ? 1e-5 : 0) << i;
  }
}

/// Adapters as PEFT saved them, and its logits (golden/make_adapter_golden.py).
TEST(LoraModel, AdaptersOfPeftGiveItsLogits) {
  const Model model = Model::load(kGolden + "gqa_tied");
  const Checkpoint golden = Checkpoint::open(kGolden + "adapters/logits.safetensors");
  const std::vector<std::int32_t> ids = golden_ids("gqa_tied");
  for (const std::string name : {"patterns", "rslora", "dora"}) {
    const Model adapted = model.with_adapter(model::Adapter::load(kGolden + "adapters/" + name));
    KvCache cache(model.config(), ids.size());
    const std::vector<float> logits = adapted.forward(ids, cache, true), expected = golden.read_f32(name);
    ASSERT_EQ(logits.size(), expected.size());
    for (std::size_t i = 0; i < logits.size(); ++i)
      ASSERT_NEAR(logits[i], expected[i], 1e-4 * std::max(1.0, static_cast<double>(std::abs(expected[i]))))
          << name << i;
  }
}

TEST(LoraModel, RefusesRowsThatAreNone) {
  const Model model = Model::load(kGolden + "qwen3");
  LoraModel lora(model, model::Adapter::make(model.config(), {}));
  train::Row row = golden_row("qwen3");
  row.ids[7] = 1 << 30;
  EXPECT_THROW(lora.loss(row), Error);
  row = golden_row("qwen3");
  row.starts.back() = row.ids.size();
  EXPECT_THROW(lora.loss(row), Error);
  row = golden_row("qwen3");
  row.trained.pop_back();
  EXPECT_THROW(lora.loss(row), Error);
  EXPECT_EQ(lora.loss({}).targets, 0u);
  EXPECT_THROW(LoraModel(model, model::Adapter{}), Error);
}

TEST(LoraModel, RefusesTypesThatItDoesNotTrainIn) {
  const Model model = Model::load(kGolden + "qwen3");
  const model::Adapter adapter = model::Adapter::make(model.config(), {});
  testing_support::expect_error(ErrorCode::invalid_argument, "adapters are F16; they can be f32 or bf16",
                                [&] { LoraModel(model, adapter, {.adapter_type = DType::f16}); });
  testing_support::expect_error(ErrorCode::invalid_argument, "activations are I8; they can be f32 or bf16",
                                [&] { LoraModel(model, adapter, {.activation_type = DType::i8}); });
}

}  // namespace
}  // namespace nibble::engine
