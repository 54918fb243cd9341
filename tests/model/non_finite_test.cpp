// A model with a value that is no number, or too large for a type: where it goes, it is refused by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/layer_report_json.h"
#include "nibble/engine/block.h"
#include "nibble/engine/evaluate.h"
#include "nibble/engine/generate.h"
#include "nibble/model/convert.h"
#include "nibble/model/quantize.h"
#include "tests/support/damaged_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

constexpr const char* kModel = NIBBLE_EXAMPLE_DATA "/austen-5m";
constexpr std::size_t kHidden = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The embedded model's tokens are bytes.
std::vector<std::int32_t> text_ids(const std::string& text) { return {text.begin(), text.end()}; }

class NonFinite : public testing::Test {
 protected:
  fs::path damaged(const std::string& tensor, std::size_t element, float value) {
    return damaged_model(kModel, folder_ / ("in" + std::to_string(count_++)), tensor, element, value);
  }
  static void expect_refused(const fs::path& model, const std::string& text, const std::string& says,
                             const engine::LoadOptions& load = {}, std::size_t window = 512) {
    engine::EvaluateOptions o;
    o.window = o.stride = window;
    expect_error(ErrorCode::non_finite, says,
                 [&] { (void)evaluate(engine::Model::load(model, load), text_ids(text), o); });
  }
  TemporaryFolder folder_;
  int count_ = 0;
};

TEST_F(NonFinite, EvaluateNamesTheFirstLayerThatSeesIt) {
  const std::string text = "It was a truth";
  for (const float value : {NAN, kInfinity}) {
    expect_refused(damaged("model.layers.3.mlp.down_proj.weight", 300, value), text,
                   "at token 0 of the text; the first inputs to hold such a value are those of "
                   "'model.layers.4.self_attn.q_proj'");
    expect_refused(damaged("model.layers.0.input_layernorm.weight", 3, value), text,
                   "those of 'model.layers.0.self_attn.q_proj'");
  }
  expect_refused(damaged("lm_head.weight", 7, NAN), text, "lm_head's weights");
}

TEST_F(NonFinite, EvaluateNamesTheTokenWhereItBegins) {
  const auto model = damaged("model.embed_tokens.weight", 'Z' * kHidden + 3, NAN);
  EXPECT_NO_THROW((void)evaluate(engine::Model::load(model), text_ids("It was a truth")));
  expect_refused(model, "It was aZtruth", "at token 8 of the text");
  expect_refused(model, "It was aZtruth", "at token 8 of the text", {}, 6);
}

TEST_F(NonFinite, EightBitActivationsNameTheLayerToo) {
  engine::LoadOptions load;
  load.int8_activations = true;
  load.quantize = QuantSpec::parse("int8");
  expect_refused(damaged("model.layers.0.input_layernorm.weight", 3, NAN), "It was",
                 "layer 'model.layers.0.self_attn.q_proj': activation row 0, column 3", load);
  load.int8_activations = false;
  load.quantize = QuantSpec::parse("llm-int8");
  expect_refused(damaged("model.layers.0.post_attention_layernorm.weight", 3, NAN), "It was",
                 "layer 'model.layers.0.mlp.gate_proj': activation row 0, column 3", load);
}

TEST_F(NonFinite, APerplexityBeyondFloatsIsNone) {
  const auto model = damaged("lm_head.weight", 'I' * kHidden + 3, 3e37f);
  expect_refused(model, "XYXYXYXYXY", "nats a token, too much for a perplexity");
}

TEST_F(NonFinite, ConvertingToF16RefusesWhatF16CannotHold) {
  QuantizeModelOptions f16;
  f16.convert_to = DType::f16;
  const std::string q = "model.layers.2.self_attn.q_proj.weight";
  const auto refused = [&](const std::string& tensor, std::size_t element, float value, const std::string& says) {
    const auto model = damaged(tensor, element, value);
    expect_error(ErrorCode::non_finite, says, [&] { (void)quantize_model(model, folder_ / "out", f16); });
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  refused(q, 2 * kHidden + 5, 1e5f, "tensor '" + q + "', row 2, column 5: the value is 99840, beyond what F16 holds");
  refused(q, 5, -1e38f, "row 0, column 5: the value is -");
  refused("model.norm.weight", 9, 70000, "tensor 'model.norm.weight', row 0, column 9");
  refused("lm_head.weight", kHidden, NAN, "tensor 'lm_head.weight', row 1, column 0: the value is NaN");
  QuantizeModelOptions f32;
  f32.convert_to = DType::f32;
  (void)quantize_model(damaged(q, 5, 1e5f), folder_ / "wide", f32);
  EXPECT_EQ(Checkpoint::open(folder_ / "wide").read_f32(q)[5], 99840.0f);
}

TEST_F(NonFinite, DecodingAQuantizedModelToF16RefusesItToo) {
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  QuantizeModelOptions nf4, f16;
  nf4.spec = QuantSpec::parse("nf4");
  f16.convert_to = DType::f16;
  (void)quantize_model(damaged(up, kHidden + 70, 1e5f), folder_ / "nf4", nf4);
  expect_error(ErrorCode::non_finite, "tensor '" + up + "', row 1, column 70: the value is ",
               [&] { (void)quantize_model(folder_ / "nf4", folder_ / "out", f16); });
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(NonFinite, ConvertingScalesNamesTheLayer) {
  QuantizeModelOptions int8;
  int8.spec = QuantSpec::parse("int8");
  (void)quantize_model(damaged("model.layers.1.mlp.up_proj.weight", kHidden + 70, 1e8f), folder_ / "int8", int8);
  ConvertModelOptions gptq;
  gptq.to = CheckpointLayout::gptq;
  gptq.allow_loss = true;
  expect_error(ErrorCode::non_finite, "model.layers.1.mlp.up_proj",
               [&] { (void)convert_model(folder_ / "int8", folder_ / "out", gptq); });
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST(Sampler, RefusesInfiniteLogits) {
  const std::vector<float> bad = {0, kInfinity, 1}, masked = {0, -kInfinity, 1};
  for (const float temperature : {0.0f, 1.0f}) {
    engine::Sampler sampler({.temperature = temperature});
    expect_error(ErrorCode::non_finite, "logit 1 is infinite", [&] { (void)sampler.next(bad); });
    EXPECT_NE(sampler.next(masked), 1);
  }
}

TEST(LayerReport, HasNoNumberForWhatIsNone) {
  LayerReport r;
  r.layer = "model.layers.0.mlp.up_proj";
  r.loss = kInfinity;
  expect_error(ErrorCode::non_finite, "layer 'model.layers.0.mlp.up_proj': its loss is inf",
               [&] { (void)nlohmann::ordered_json(r); });
  r.loss = 1;
  r.rounding_loss = NAN;
  expect_error(ErrorCode::non_finite, "its rounding loss", [&] { (void)nlohmann::ordered_json(r); });
}

TEST(BlockPass, RefusesPartsThatDoNotFit) {
  const engine::Model model = engine::Model::load(kModel);
  const engine::BlockPass pass(model.config(), default_executor(), Activations::fp32, nullptr);
  std::vector<float> x(2 * kHidden), y(2 * kHidden), weight(kHidden - 1);
  const MatrixView<float> to(y.data(), 2, kHidden);
  expect_error(ErrorCode::shape_mismatch, "norm: the weight has 255", [&] {
    pass.norm({x.data(), 2, kHidden}, weight, to);
  });
  weight.resize(kHidden);
  expect_error(ErrorCode::shape_mismatch, "norm: y is 1 × 256", [&] {
    pass.norm({x.data(), 2, kHidden}, weight, to.row_range(0, 1));
  });
  std::vector<float> cache(128), rope(2 * 64);
  const MatrixView<float> one(cache.data(), 1, 128);
  const auto mix = [&](const engine::KeyValues& seen, std::span<const float> angles) {
    pass.attention(engine::Block(), {x.data(), 2, kHidden}, angles, seen, to);
  };
  expect_error(ErrorCode::shape_mismatch, "2 tokens do not fit a cache of 1", [&] { mix({one, one, 0}, rope); });
  expect_error(ErrorCode::shape_mismatch, "angles", [&] { mix({one, one, 0}, std::span(rope).first(64)); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
