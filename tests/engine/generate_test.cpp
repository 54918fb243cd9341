#include "nibble/engine/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::engine {
namespace {

using testing_support::expect_error;

SamplerOptions with(float temperature, std::size_t top_k = 0, float top_p = 1, std::uint64_t seed = 1) {
  SamplerOptions o;
  o.temperature = temperature, o.top_k = top_k, o.top_p = top_p, o.seed = seed;
  return o;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLikeliest) {
  Sampler sampler;
  EXPECT_EQ(sampler.next(std::vector<float>{1, 5, 5, 2}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-std::numeric_limits<float>::infinity(), -3}), 1);
}

TEST(Sampler, DrawsByTheSoftmaxOfTheLogitsOverTheTemperature) {
  const std::vector<float> logits{0, 1, 2, -1};
  const float temperature = 0.7f;
  double p[4], sum = 0;
  for (int i = 0; i < 4; ++i)
    sum += p[i] = std::exp(static_cast<double>(logits[static_cast<std::size_t>(i)] / temperature));
  Sampler sampler(with(temperature));
  constexpr int draws = 40000;
  std::map<int, int> seen;
  for (int i = 0; i < draws; ++i) ++seen[sampler.next(logits)];
  for (int i = 0; i < 4; ++i) {
    const double expected = draws * p[i] / sum, deviation = std::sqrt(expected * (1 - p[i] / sum));
    EXPECT_NEAR(seen[i], expected, 5 * deviation) << i;  // a fixed seed: it fails always or never
  }
}

TEST(Sampler, KeepsTheTopKAndTheTopP) {
  const std::vector<float> logits{0, 3, 2.9f, -1, 2};
  Sampler two(with(1, 2)), one(with(5, 1));
  for (int i = 0; i < 300; ++i) {
    const auto t = two.next(logits);
    EXPECT_TRUE(t == 1 || t == 2);
    EXPECT_EQ(one.next(logits), 1);
  }
  // p = 0.41, 0.37, 0.15, …: half the mass needs two, 0.4 only one, any p at least one.
  std::map<int, int> half, least;
  Sampler top_half(with(1, 0, 0.5f)), top_least(with(1, 0, 1e-9f));
  for (int i = 0; i < 300; ++i) ++half[top_half.next(logits)], ++least[top_least.next(logits)];
  EXPECT_EQ(half.size(), 2u);
  EXPECT_TRUE(half.contains(1) && half.contains(2));
  EXPECT_EQ(least.size(), 1u);
}

TEST(Sampler, TheSeedDecides) {
  const std::vector<float> logits(50, 0.0f);
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler(with(1, 0, 1, seed));
    std::vector<std::int32_t> out;
    for (int i = 0; i < 20; ++i) out.push_back(sampler.next(logits));
    return out;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
}

TEST(Sampler, RefusesNonsense) {
  for (const auto& o : {with(-1), with(std::numeric_limits<float>::quiet_NaN()), with(1, 0, 0), with(1, 0, 1.5f)})
    expect_error(ErrorCode::invalid_argument, "", [&] { Sampler{o}; });
  Sampler sampler;
  expect_error(ErrorCode::non_finite, "", [&] { (void)sampler.next(std::vector<float>{0, std::nanf("")}); });
}

TEST(Generate, StopsWhenToldAndWhenTheCacheIsFull) {
  const Model model = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m");
  const std::vector<std::int32_t> prompt{'T', 'h', 'e', ' '};
  Sampler sampler;
  KvCache room(model.config(), 64), little(model.config(), 6);
  EXPECT_EQ(generate(model, room, prompt, 10, sampler).size(), 10u);
  room.clear();
  int calls = 0;
  EXPECT_EQ(generate(model, room, prompt, 10, sampler, [&](std::int32_t) { return ++calls < 3; }).size(), 3u);
  // Room for the prompt and two more: two are fed back, and the third still comes from their logits.
  EXPECT_EQ(generate(model, little, prompt, 10, sampler).size(), 3u);
  room.clear();
  EXPECT_TRUE(generate(model, room, prompt, 0, sampler).empty());
}

TEST(Generate, FeedingTokensOneByOneIsFeedingThemAtOnce) {
  const Model model = Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m");
  Sampler sampler;
  KvCache cache(model.config(), 64), other(model.config(), 64);
  const std::vector<std::int32_t> prompt{'I', 't', ' ', 'i', 's', ' '};
  auto text = generate(model, cache, prompt, 20, sampler);
  text.insert(text.begin(), prompt.begin(), prompt.end());
  const auto logits = model.forward(text, other);
  const std::size_t vocab = model.config().vocab;
  for (std::size_t i = prompt.size(); i < text.size(); ++i)
    EXPECT_EQ(sampler.next(std::span(logits).subspan((i - 1) * vocab, vocab)), text[i]) << i;
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::engine
