// GPTQ into GGUF's blocks.
#include <gtest/gtest.h>

#include <cstring>

#include "nibble/solver/gptq.h"
#include "tests/solver/layers.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::gptq {
namespace {

using namespace testing_support;

constexpr std::size_t kRows = 37, kCols = 512;

std::vector<float> importance_of(const Hessian& h) {
  std::vector<float> out;
  for (std::size_t c = 0; c < h.channels(); ++c)
    out.push_back(static_cast<float>(h.row(c)[c] / static_cast<double>(h.tokens())));
  return out;
}

class GptqBlocks : public testing::TestWithParam<BlockType> {
 protected:
  const BlockType type_ = GetParam();
};

TEST_P(GptqBlocks, LoseLessThanEncodingByImportance) {
  double solved = 0, ordered = 0, encoded = 0;
  for (unsigned seed = 0; seed < 4; ++seed) {
    const Hessian h = hessian_of(correlated(2048, kCols, 10 * seed), kCols);
    const auto w = normal(kRows * kCols, 500 + seed, 0.05f);
    const auto [m, report] = solve(view(w, kCols), h, type_, {});
    EXPECT_EQ(m.type, type_);
    EXPECT_EQ(report.fallback, "");
    // Without λ, which is 1 % of the mean diagonal.
    EXPECT_LE(layer_loss(view(w, kCols), m, h), report.loss * 1.001);
    solved += layer_loss(view(w, kCols), m, h);
    ordered += layer_loss(view(w, kCols), solve(view(w, kCols), h, type_, {.act_group_aware = true}).matrix, h);
    const auto importance = importance_of(h);
    encoded +=
        layer_loss(view(w, kCols), BlockMatrix::encode(view(w, kCols), type_, "w", serial_executor(), importance), h);
  }
  EXPECT_LT(solved, 0.8 * encoded);
  EXPECT_LT(ordered, 0.8 * encoded);
}

TEST_P(GptqBlocks, AreTheSameForAnyThreads) {
  const Hessian h = hessian_of(correlated(1024, kCols, 3), kCols);
  const auto w = normal(kRows * kCols, 4, 0.05f);
  const BlockMatrix a = solve(view(w, kCols), h, type_).matrix;
  const BlockMatrix b = solve(view(w, kCols), h, type_, {.executor = &serial_executor()}).matrix;
  EXPECT_EQ(std::memcmp(a.blocks.data(), b.blocks.data(), a.blocks.size()), 0);
}

TEST_P(GptqBlocks, RoundByImportanceWhereNothingWasSeen) {
  const auto w = normal(kRows * kCols, 5, 0.05f);
  const auto [m, report] = solve(view(w, kCols), Hessian(kCols, "inputs"), type_);
  EXPECT_NE(report.fallback, "");
  const BlockMatrix plain = BlockMatrix::encode(view(w, kCols), type_, "w", serial_executor());
  EXPECT_EQ(std::memcmp(m.blocks.data(), plain.blocks.data(), plain.blocks.size()), 0);
}

std::vector<BlockType> solved_types() {
  std::vector<BlockType> out;
  for (const BlockType type : kBlockTypes)
    if (can_encode(type) && !is_float(type)) out.push_back(type);
  return out;
}

INSTANTIATE_TEST_SUITE_P(Types, GptqBlocks, testing::ValuesIn(solved_types()),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST(GptqOfBlocks, RefusesWhatTheyHaveNoPlaceFor) {
  const Hessian h = hessian_of(correlated(600, 256, 1), 256);
  const auto w = normal(4 * 256, 2);
  const auto solved = [&](BlockType type, Options o = {}) {
    o.name = "w";
    (void)solve(view(w, 256), h, type, o);
  };
  expect_error(ErrorCode::invalid_argument, "no place in Q4_K blocks",
               [&] { solved(BlockType::q4_k, {.act_order = true}); });
  expect_error(ErrorCode::invalid_argument, "no place in Q4_0 blocks",
               [&] { solved(BlockType::q4_0, {.static_groups = true}); });
  expect_error(ErrorCode::invalid_argument, "fp64", [&] { solved(BlockType::q4_0, {.double_precision = true}); });
  for (const BlockType type : {BlockType::f16, BlockType::q8_k, BlockType::iq2_xxs, BlockType::nvfp4, BlockType::q1_0})
    expect_error(ErrorCode::unsupported, std::string(name_of(type)), [&] { solved(type); });
  const Hessian narrow = hessian_of(correlated(100, 48, 1), 48);
  const auto x = normal(4 * 48, 2);
  expect_error(ErrorCode::invalid_argument, "whole blocks of 32",
               [&] { (void)solve(view(x, 48), narrow, BlockType::q4_0); });
  auto huge = w;
  for (float& v : huge) v *= 1e30f;
  expect_error(ErrorCode::non_finite, "f16 cannot hold the scale",
               [&] { (void)solve(view(huge, 256), h, BlockType::q4_k, {.name = "w"}); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::gptq
