#include "nibble/engine/block.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/backend/ops.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble::engine {
namespace {

using model::Role;
using testing_support::expect_error;
using testing_support::normal;

constexpr std::size_t kTokens = 5;

model::Config config() {
  model::Config c;
  c.model_type = "llama";
  c.hidden = 32, c.intermediate = 48, c.layers = 1, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.vocab = 16;
  return c;
}

/// Random weights; norms behind each half if asked.
Block random_block(const model::Config& c, bool post_norms) {
  Block out;
  unsigned seed = 1;
  for (const model::Module& m : c.architecture().linears()) {
    const std::size_t rows = c.elements(m.out), cols = c.elements(m.in);
    const auto w = normal(rows * cols, seed++, 0.2f);
    out[m.role] = {
        std::string(m.name), default_backend().pack(FloatMatrix(MatrixView<const float>(w.data(), rows, cols))), {}};
  }
  for (const Role role : {Role::attention_norm, Role::ffn_norm}) out.norm(role) = normal(c.hidden, seed++);
  if (post_norms)
    for (const Role role : {Role::attention_post_norm, Role::ffn_post_norm}) out.norm(role) = normal(c.hidden, seed++);
  return out;
}

struct Cache {
  explicit Cache(const model::Config& c) : width(c.kv_heads * c.head_dim), keys(kTokens * width), values(keys) {}
  KeyValues seen(std::size_t tokens) {
    return {{keys.data(), kTokens, width}, {values.data(), kTokens, width}, tokens};
  }
  std::size_t width;
  std::vector<float> keys, values;
};

TEST(RopeAngles, AreCosinesThenSinesOfAPosition) {
  const std::vector<double> frequencies{1.0, 0.1};
  const auto rope = rope_angles(frequencies, 3, 2);
  ASSERT_EQ(rope.size(), 8u);
  EXPECT_EQ(rope[4], static_cast<float>(std::cos(4.0)));
  EXPECT_EQ(rope[7], static_cast<float>(std::sin(0.4)));
}

TEST(BlockPass, NormsToARootMeanSquareOfOne) {
  const model::Config c = config();
  const auto x = normal(2 * c.hidden, 7, 3.0f);
  const std::vector<float> ones(c.hidden, 1.0f);
  std::vector<float> y(x.size());
  const BlockPass pass(c, serial_executor(), Activations::fp32, nullptr);
  pass.norm({x.data(), 2, c.hidden}, ones, {y.data(), 2, c.hidden});
  double sum = 0;
  for (std::size_t i = 0; i < c.hidden; ++i) sum += static_cast<double>(y[i]) * static_cast<double>(y[i]);
  EXPECT_NEAR(sum / static_cast<double>(c.hidden), 1, 1e-5);
  expect_error(ErrorCode::shape_mismatch, "norm: the weight has 3", [&] {
    pass.norm({x.data(), 2, c.hidden}, std::span(ones).first(3), {y.data(), 2, c.hidden});
  });
}

// Token after token with a cache, or all at once; with and without norms behind the halves.
TEST(BlockPass, ATokenSeesThoseBeforeItWhicheverWayTheyCame) {
  const model::Config c = config();
  const BlockPass pass(c, serial_executor(), Activations::fp32, nullptr);
  for (const bool post_norms : {false, true}) {
    const Block block = random_block(c, post_norms);
    const auto x = normal(kTokens * c.hidden, 9);
    BlockPass::Scratch scratch;
    auto at_once = x, one_by_one = x;
    Cache a(c), b(c);
    const RopeAngles rope(c, 0, kTokens);
    pass.add_attention(block, {at_once.data(), kTokens, c.hidden}, rope.of(block), a.seen(0), scratch);
    pass.add_ffn(block, {at_once.data(), kTokens, c.hidden}, scratch);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const RopeAngles here(c, t, 1);
      const MatrixView<float> row(one_by_one.data() + t * c.hidden, 1, c.hidden);
      pass.add_attention(block, row, here.of(block), b.seen(t), scratch);
      pass.add_ffn(block, row, scratch);
    }
    EXPECT_EQ(at_once, one_by_one);
    EXPECT_NE(at_once, x);
  }
}

TEST(BlockPass, RefusesACacheThatIsTooSmall) {
  const model::Config c = config();
  const Block block = random_block(c, false);
  const BlockPass pass(c, serial_executor(), Activations::fp32, nullptr);
  auto x = normal(kTokens * c.hidden, 9);
  Cache cache(c);
  BlockPass::Scratch scratch;
  const RopeAngles rope(c, 0, kTokens);
  expect_error(ErrorCode::shape_mismatch, "do not fit a cache of 5, of which 1 are used", [&] {
    pass.add_attention(block, {x.data(), kTokens, c.hidden}, rope.of(block), cache.seen(1), scratch);
  });
}

TEST(ScaleEmbedded, IsForThoseArchitecturesThatDo) {
  model::Config c = config();
  std::vector<float> x{1, 2};
  c.hidden = 64;
  scale_embedded(c, {x.data(), 1, 2});
  EXPECT_EQ(x[1], 2);
  c.model_type = "gemma2";
  scale_embedded(c, {x.data(), 1, 2});
  EXPECT_EQ(x[1], 16);
}

}  // namespace
}  // namespace nibble::engine
