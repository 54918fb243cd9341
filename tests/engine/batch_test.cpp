// Several conversations at once give the bits that each gives by itself, whatever its adapter.
#include "nibble/engine/batch.h"

#include <gtest/gtest.h>

#include <string>

#include "nibble/core/error.h"

namespace nibble::engine {
namespace {

const std::string kGolden = NIBBLE_TEST_DATA "/golden/";

/// Every adapter with values of its own.
model::Adapter adapter(const Model& model, std::size_t rank, bool dora) {
  model::Adapter out = model::Adapter::make(model.config(), {.rank = rank, .dora = dora, .seed = rank});
  for (model::AdapterLayer& layer : out.layers) {
    for (std::size_t i = 0; i < layer.b.size(); ++i)
      layer.b[i] = 0.01f * static_cast<float>((i * 7 + rank) % 11) - 0.05f;
    for (std::size_t i = 0; i < layer.magnitude.size(); ++i)
      layer.magnitude[i] = 0.5f + 0.1f * static_cast<float>(i % 5);
  }
  return out;
}

std::vector<std::int32_t> ids(std::size_t count, std::int32_t step) {
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<std::int32_t>(i) * step % 90 + 1);
  return out;
}

class Batch : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(Batch, EachTurnGetsItsOwnBits) {
  LoadOptions load;
  if (std::string(GetParam().second) != "fp32") load.quantize = QuantSpec::parse(GetParam().second);
  const Model base = Model::load(kGolden + GetParam().first, load);
  const Model models[] = {base.with_adapter(adapter(base, 2, false)), base, base.with_adapter(adapter(base, 3, true)),
                          base.with_adapter(adapter(base, 5, false))};
  std::vector<KvCache> together, apart;
  for (int t = 0; t < 4; ++t) {
    together.emplace_back(base.config(), 60);
    apart.emplace_back(base.config(), 60);
  }
  for (int round = 0; round < 3; ++round) {  // a prompt, then a token each, then another two
    std::vector<std::vector<std::int32_t>> texts;
    for (std::size_t t = 0; t < 4; ++t)
      texts.push_back(ids(round == 0 ? 9 + 5 * t : static_cast<std::size_t>(round), static_cast<std::int32_t>(t + 2)));
    std::vector<BatchItem> turns;
    for (std::size_t t = 0; t < 4; ++t) turns.push_back({models[t], texts[t], together[t]});
    const std::vector<float> all = forward_batch(turns);
    const std::size_t vocab = base.config().vocab;
    ASSERT_EQ(all.size(), 4 * vocab);
    for (std::size_t t = 0; t < 4; ++t) {
      const std::vector<float> one = models[t].forward(texts[t], apart[t], true);
      for (std::size_t i = 0; i < vocab; ++i)
        ASSERT_EQ(all[t * vocab + i], one[i]) << "turn " << t << " round " << round;
      EXPECT_EQ(together[t].size(), apart[t].size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Batch,
                         testing::Values(std::pair{"bias", "fp32"}, std::pair{"qwen3", "nf4-dq"},
                                         std::pair{"gemma3", "int8"}, std::pair{"gemma2", "fp32"},
                                         std::pair{"gqa_tied", "int4-g32-asym"}, std::pair{"phi3", "int4-g32-asym"},
                                         std::pair{"glm4", "fp32"}, std::pair{"mixtral", "fp32"},
                                         std::pair{"qwen3_moe", "int8"}),
                         [](const auto& info) { return std::string(info.param.first); });

std::string said(const auto& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing";
}

TEST(ForwardBatch, RefusesWhatIsNoBatch) {
  const Model base = Model::load(kGolden + "qwen3"), other = Model::load(kGolden + "qwen3");
  KvCache a(base.config(), 8), b(base.config(), 8);
  const std::vector<std::int32_t> text = ids(4, 3), none, wrong{1, -5}, many = ids(9, 1);
  EXPECT_TRUE(forward_batch({}).empty());
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  const auto refused = [&](const BatchItem& second, const char* says) {
    const BatchItem turns[] = {{base, text, a}, second};
    const std::string what = said([&] { (void)forward_batch(turns); });
    EXPECT_TRUE(has(what, says) && has(what, "turn 1")) << what;
    EXPECT_EQ(a.size() + b.size(), 0u);
  };
  refused({other, text, b}, "another base");
  refused({base, text, a}, "cache of turn 0");
  refused({base, none, b}, "no tokens");
  refused({base, wrong, b}, "is -5");
  refused({base, many, b}, "do not fit");
}

}  // namespace
}  // namespace nibble::engine
