// What the searches for GGUF's scales find, with weights and without, and the places that codes and scales have.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nibble/scheme/gguf_blocks.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace blocks;

/// Σ weights·(decoded − x)² over whole blocks, each encoded by `encode(values, weights, block)`.
template <class Encode>
double error_of(BlockType type, const std::vector<float>& x, const std::vector<float>& weights, const Encode& encode) {
  const std::size_t size = block_size(type);
  std::vector<std::byte> block(block_bytes(type));
  std::vector<float> out(size);
  double error = 0;
  for (std::size_t i = 0; i < x.size(); i += size) {
    const float* w = weights.data() + i % weights.size();
    EXPECT_TRUE(encode(x.data() + i, w, block.data()));
    decode_blocks(type, block.data(), size, out.data());
    for (std::size_t j = 0; j < size; ++j)
      error += static_cast<double>(w[j]) * std::pow(static_cast<double>(out[j] - x[i + j]), 2);
  }
  return error;
}

class FittedBlock : public testing::TestWithParam<BlockType> {
 protected:
  [[nodiscard]] double weighted(const std::vector<float>& x, const std::vector<float>& w) const {
    return error_of(GetParam(), x, w, [&](const float* values, const float* weights, std::byte* to) {
      return encode_block(GetParam(), values, weights, to);
    });
  }
  [[nodiscard]] double plain(const std::vector<float>& x, const std::vector<float>& w) const {
    return error_of(GetParam(), x, w, [&](const float* values, const float*, std::byte* to) {
      return encode_block(GetParam(), values, to);
    });
  }
};

TEST_P(FittedBlock, WeightsLowerTheErrorThatTheyCount) {
  const auto x = testing_support::normal(16 * 1024, 3, 0.02f);
  auto w = testing_support::normal(1024, 4);
  for (float& v : w) v = std::exp(2 * v);
  EXPECT_LT(weighted(x, w), 0.9 * plain(x, w));
}

TEST_P(FittedBlock, EqualWeightsAreNoWorseThanNone) {
  const auto x = testing_support::normal(16 * 1024, 5, 0.02f);
  for (const float each : {1.0f, 0x1p40f, 0x1p-40f}) {
    const std::vector<float> w(256, each);
    EXPECT_LE(weighted(x, w), 1.0001 * plain(x, w)) << each;
  }
}

TEST_P(FittedBlock, WeightsCountOnlyAgainstEachOther) {
  const BlockType type = GetParam();
  const auto x = testing_support::normal(256, 6);
  auto w = testing_support::normal(256, 7);
  for (float& v : w) v *= v;
  std::vector<float> larger = w;
  for (float& v : larger) v *= 0x1p20f;
  std::vector<std::byte> a(block_bytes(type)), b(a.size());
  ASSERT_TRUE(encode_block(type, x.data(), w.data(), a.data()));
  ASSERT_TRUE(encode_block(type, x.data(), larger.data(), b.data()));
  EXPECT_EQ(a, b);
}

// A channel that calibration never saw is worth little, but comes back as something like itself: it may be seen later.
TEST_P(FittedBlock, ValuesOfNoWeightAreKeptRoughly) {
  const BlockType type = GetParam();
  const std::size_t size = block_size(type);
  const auto x = testing_support::normal(256, 8);
  std::vector<float> w(256, 0.0f), out(size);
  for (const std::size_t heavy : {std::size_t{0}, std::size_t{4}, std::size_t{256}}) {  // none, a few, all
    for (std::size_t i = 0; i < heavy; ++i) w[i] = 1;
    std::vector<std::byte> block(block_bytes(type));
    ASSERT_TRUE(encode_block(type, x.data(), w.data(), block.data()));
    decode_blocks(type, block.data(), size, out.data());
    double error = 0, squares = 0;
    for (std::size_t i = 0; i < size; ++i) {
      error += std::pow(static_cast<double>(out[i] - x[i]), 2);
      squares += std::pow(static_cast<double>(x[i]), 2);
    }
    EXPECT_LT(error, 0.15 * squares) << heavy;
  }
}

TEST_P(FittedBlock, TakesAnyFiniteValueAndWeight) {
  const BlockType type = GetParam();
  for (unsigned seed = 0; seed < 30; ++seed) {
    const auto x = seed % 2 == 0 ? testing_support::any_finite(256, seed) : testing_support::denormals(256, seed);
    auto w = testing_support::any_finite(256, seed + 100);
    for (float& v : w) v = std::abs(v);
    std::vector<std::byte> block(block_bytes(type));
    if (!encode_block(type, x.data(), w.data(), block.data())) continue;  // refused for its size
    std::vector<float> out(block_size(type));
    decode_blocks(type, block.data(), out.size(), out.data());
    for (const float v : out) EXPECT_TRUE(std::isfinite(v));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FittedBlock,
                         testing::Values(BlockType::q4_0, BlockType::q4_1, BlockType::q5_0, BlockType::q5_1,
                                         BlockType::q8_0, BlockType::q2_k, BlockType::q3_k, BlockType::q4_k,
                                         BlockType::q5_k, BlockType::q6_k, BlockType::iq4_nl, BlockType::iq4_xs),
                         [](const auto& p) { return std::string(name_of(p.param)); });

/// As tests/interop/weigh_with_ggml.py makes its numbers.
std::vector<float> numbers(std::size_t count, std::uint32_t state) {
  std::vector<float> out;
  for (std::size_t i = 0; i < count; ++i) {
    std::int32_t total = -2 * 65535;
    for (int k = 0; k < 4; ++k) {
      state = state * 1664525 + 1013904223;
      total += static_cast<std::int32_t>(state >> 16);
    }
    out.push_back(static_cast<float>(total));
  }
  return out;
}

// What that script prints of ggml 0.25.3 (llama-cpp-python 0.3.36, its libggml-base.so).
TEST(FittedBlocks, HaveALowerWeightedErrorThanGgmls) {
  auto x = numbers(64 * 1024, 1), w = numbers(1024, 2);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= i % 37 == 0 ? 3 * 0x1p-20f : 0x1p-20f;
  for (float& v : w) v = std::exp2(std::floor(v * 0x1p-15f));
  double squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    squares += static_cast<double>(w[i % 1024]) * std::pow(static_cast<double>(x[i]), 2);
  const std::pair<BlockType, double> theirs[] = {
      {BlockType::q4_0, .09706}, {BlockType::q4_1, .07172},   {BlockType::q5_0, .04835},   {BlockType::q5_1, .03465},
      {BlockType::q2_k, .26125}, {BlockType::q3_k, .15477},   {BlockType::q4_k, .07324},   {BlockType::q5_k, .03736},
      {BlockType::q6_k, .01907}, {BlockType::iq4_nl, .08165}, {BlockType::iq4_xs, .08303},
  };
  for (const auto& [type, error] : theirs) {
    const BlockType kind = type;
    const double ours = error_of(kind, x, w, [kind](const float* values, const float* weights, std::byte* to) {
      return encode_block(kind, values, weights, to);
    });
    EXPECT_LT(std::sqrt(ours / squares), error) << name_of(kind);
  }
}

template <class Block>
class Codes : public testing::Test {};
using Coded = testing::Types<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS>;
TYPED_TEST_SUITE(Codes, Coded);

TYPED_TEST(Codes, ComeBackWhateverTheirNeighboursAre) {
  std::uint8_t codes[TypeParam::size];
  constexpr int kLevels = std::is_same_v<TypeParam, Q2_K>   ? 4
                          : std::is_same_v<TypeParam, Q3_K> ? 8
                          : std::is_same_v<TypeParam, Q8_0> ? 256
                          : std::is_same_v<TypeParam, Q6_K> ? 64
                                                            : requires(TypeParam b) {
    b.high;
  }
  ? 32 : 16;
  for (unsigned turn = 0; turn < 3; ++turn) {
    for (std::size_t i = 0; i < TypeParam::size; ++i)
      codes[i] = static_cast<std::uint8_t>((i * 37 + i / 7 + turn * 11) % kLevels);
    TypeParam block{};
    block.set_codes(codes);
    for (std::size_t i = 0; i < TypeParam::size; ++i) ASSERT_EQ(block.code(i), codes[i]) << i;
  }
}

template <class Block>
void scales_come_back() {
  constexpr std::size_t groups = Block::size / Block::group;
  std::int8_t scales[groups];
  for (int turn = 0; turn < 64; ++turn) {
    for (std::size_t g = 0; g < groups; ++g)
      scales[g] = static_cast<std::int8_t>((static_cast<int>(g) * 13 + turn) % 64 - 32);
    Block block;
    std::memset(static_cast<void*>(&block), 0xA5, sizeof block);
    block.set_group_scales(scales);
    for (std::size_t g = 0; g < groups; ++g) ASSERT_EQ(block.group_scale(g), scales[g]) << g;
  }
}

TEST(GroupScales, ComeBackWithTheirSigns) {
  scales_come_back<Q3_K>();
  scales_come_back<IQ4_XS>();
}

TEST(GroupScales, OfFourBitsShareBytesWithTheMinima) {
  std::uint8_t scales[16], mins[16];
  for (std::size_t g = 0; g < 16; ++g) {
    scales[g] = static_cast<std::uint8_t>(g);
    mins[g] = static_cast<std::uint8_t>(15 - g * 7 % 16);
  }
  FourBitScales packed{};
  packed.set(scales, mins);
  for (std::size_t g = 0; g < 16; ++g) {
    EXPECT_EQ(packed.scale(g), scales[g]);
    EXPECT_EQ(packed.min(g), mins[g]);
  }
}

}  // namespace
}  // namespace nibble
