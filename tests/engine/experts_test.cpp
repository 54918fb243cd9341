// Mixtures of experts: which experts see a token, and what does not depend on what.
#include <gtest/gtest.h>

#include <limits>

#include "nibble/core/error.h"
#include "nibble/engine/evaluate.h"
#include "nibble/engine/lora_model.h"
#include "nibble/engine/model.h"
#include "nibble/engine/qat_model.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

using testing_support::expect_error;

const std::string kGolden = NIBBLE_TEST_DATA "/golden/";

std::vector<std::int32_t> ids(std::size_t count) {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<std::int32_t>((i * i * 7 + i) % 96));
  return out;
}

class Experts : public testing::TestWithParam<const char*> {
 protected:
  std::string folder_ = kGolden + GetParam();
};

// Each expert multiplies the tokens that it sees, however many those are, by kernels that may differ by their number.
TEST_P(Experts, GiveTheSameBitsForAnyThreadsAndWhateverTokensAreBeside) {
  const auto text = ids(80);
  for (const char* spec : {"", "int4-g16-sym", "int8", "nf4-b16"}) {
    LoadOptions options;
    if (*spec != 0) options.quantize = QuantSpec::parse(spec);
    const Model model = Model::load(folder_, options);
    options.executor = &serial_executor();
    const Model serial = Model::load(folder_, options);
    KvCache all(model.config(), text.size()), one(model.config(), text.size()), parts(model.config(), text.size());
    const auto expected = model.forward(text, all);
    EXPECT_EQ(serial.forward(text, one), expected) << spec;
    std::vector<float> logits;
    for (std::size_t at = 0, next = 1; at < text.size(); at += next, next = std::min(2 * next + 1, text.size() - at)) {
      next = std::min(next, text.size() - at);
      const auto part = model.forward(std::span(text).subspan(at, next), parts);
      logits.insert(logits.end(), part.begin(), part.end());
    }
    EXPECT_EQ(logits, expected) << spec;
  }
}

// The definition, with nothing gathered.
TEST_P(Experts, AddWhatEachMakesOfATokenInTheirOrder) {
  const Model model = Model::load(folder_);
  const model::Config& c = model.config();
  const Block& block = model.blocks().front();
  const BlockPass pass(c, model.executor(), Activations::fp32, nullptr);
  const std::size_t tokens = 9, width = pass.expert_width();
  std::vector<float> x(tokens * c.hidden), out(x.size()), logits(tokens * c.experts);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i));
  const MatrixView<float> in(x.data(), tokens, c.hidden), all(out.data(), tokens, c.hidden);
  pass.ffn(block, in, all);
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto row = in.row_range(t, 1);
    const Routing routing = pass.route(block, row);
    std::vector<float> sum(c.hidden), gate(width), up(width), given(c.hidden);
    for (std::size_t e = 0; e < c.experts; ++e) {
      if (routing.count(e) == 0) continue;
      pass.linear(block.experts[e][model::Role::gate], row, {gate.data(), 1, width});
      pass.linear(block.experts[e][model::Role::up], row, {up.data(), 1, width});
      for (std::size_t i = 0; i < width; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      pass.linear(block.experts[e][model::Role::down], {gate.data(), 1, width}, {given.data(), 1, c.hidden});
      for (std::size_t i = 0; i < c.hidden; ++i) sum[i] += given[i] * routing.weights[routing.begins[e]];
    }
    for (std::size_t i = 0; i < c.hidden; ++i) ASSERT_NEAR(all(t, i), sum[i], 1e-5) << t << " " << i;
  }
}

TEST_P(Experts, CountAmongTheWeights) {
  const Checkpoint checkpoint = Checkpoint::open(folder_);
  std::size_t bytes = 0;
  for (const TensorInfo& t : checkpoint.tensors()) bytes += t.bytes;
  const Model model = Model::load(folder_);
  EXPECT_GE(model.weight_bytes(), bytes);
  LoadOptions options;
  options.quantize = QuantSpec::parse("int8-channel");
  EXPECT_LT(Model::load(folder_, options).bits_per_weight(), 10);
}

// A hook is shown a row for each token, so that what is no number is found where it is.
TEST_P(Experts, NameTheTokenWhoseInputsAreNoNumbers) {
  Model model = Model::load(folder_);
  const auto text = ids(12);
  std::size_t rows = 0, zeros = 0;
  model.set_linear_hook([&](std::string_view name, MatrixView<const float> x) {
    EXPECT_EQ(x.rows, text.size()) << name;
    if (!model.config().architecture().expert_of(std::string(name) + ".weight")) return;
    for (std::size_t t = 0; t < x.rows; ++t) {
      ++rows;
      const auto row = x.row(t);
      zeros += std::all_of(row.begin(), row.end(), [](float v) { return v == 0; });
    }
  });
  KvCache cache(model.config(), text.size());
  (void)model.forward(text, cache);
  const model::Config& c = model.config();
  EXPECT_EQ(zeros * c.experts, rows * (c.experts - c.experts_per_token));
}

TEST_P(Experts, AreNotTrained) {
  const Model model = Model::load(folder_);
  const std::string says = "a model of the architecture '" + std::string(GetParam()) + "' is a mixture of experts";
  model::AdapterOptions options;
  options.rank = 4;
  const model::Adapter adapter = model::Adapter::make(model.config(), options);
  ASSERT_FALSE(adapter.layers.empty());
  for (const model::AdapterLayer& l : adapter.layers) EXPECT_NE(l.name.find("self_attn"), std::string::npos) << l.name;
  expect_error(ErrorCode::unsupported, "LoraModel: " + says, [&] { LoraModel(model, adapter); });
  expect_error(ErrorCode::unsupported, "QatModel: " + says, [&] { QatModel(model, QuantSpec::parse("int4-g16-sym")); });
}

// Adapters of attention are at work, and those of experts are said not to be.
TEST_P(Experts, HaveNoAdapters) {
  const Model base = Model::load(folder_);
  model::AdapterOptions options;
  options.rank = 4;
  model::Adapter adapter = model::Adapter::make(base.config(), options);
  for (model::AdapterLayer& l : adapter.layers)
    for (std::size_t i = 0; i < l.b.size(); ++i) l.b[i] = std::sin(static_cast<float>(i));
  const auto text = ids(12);
  KvCache a(base.config(), 12), b(base.config(), 12);
  EXPECT_NE(base.with_adapter(adapter).forward(text, a), base.forward(text, b));
  const model::Architecture& architecture = base.config().architecture();
  adapter.layers.front().name = architecture.name(0, architecture.module(model::Role::up), 1);
  expect_error(ErrorCode::unsupported, "is of an expert", [&] { (void)base.with_adapter(adapter); });
  adapter.layers.front().name = "model.layers.0." + std::string(architecture.module(model::Role::up).name);
  expect_error(ErrorCode::not_found, "is no linear layer", [&] { (void)base.with_adapter(adapter); });
}

INSTANTIATE_TEST_SUITE_P(Golden, Experts, testing::Values("mixtral", "qwen3_moe"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
