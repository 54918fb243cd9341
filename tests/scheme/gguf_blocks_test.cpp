#include "nibble/scheme/gguf_blocks.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

namespace nibble {
namespace {

using namespace blocks;

// The bytes of ggml's structs.
static_assert(block_bytes(BlockType::q4_0) == 18 && block_bytes(BlockType::q4_1) == 20);
static_assert(block_bytes(BlockType::q5_0) == 22 && block_bytes(BlockType::q5_1) == 24);
static_assert(block_bytes(BlockType::q8_0) == 34 && block_bytes(BlockType::iq4_nl) == 18);
static_assert(block_bytes(BlockType::q4_k) == 144 && block_bytes(BlockType::q5_k) == 176);
static_assert(block_bytes(BlockType::q6_k) == 210 && block_bytes(BlockType::q8_k) == 292);
static_assert(block_bytes(BlockType::q2_k) == 84 && block_bytes(BlockType::q3_k) == 110);
static_assert(block_bytes(BlockType::iq4_xs) == 136 && block_bytes(BlockType::nvfp4) == 36);

TEST(GgufBlocks, NamesAreReadAndWritten) {
  for (const BlockType type : kBlockTypes) EXPECT_EQ(parse_block_type(name_of(type)), type);
  EXPECT_EQ(parse_block_type("q4_k"), BlockType::q4_k);
  EXPECT_FALSE(parse_block_type("Q9_K"));
}

TEST(GgufBlocks, LowNibblesComeFirst) {
  Q4_0 block{f16(0.5f), {}};
  block.codes[0] = 0x2f;  // 15, and far behind it 2
  float out[32];
  decode(block, out);
  EXPECT_EQ(out[0], 3.5f);
  EXPECT_EQ(out[16], -3.0f);
  EXPECT_EQ(out[1], -4.0f);
}

TEST(GgufBlocks, SixBitScalesGoThroughTwelveBytes) {
  const std::uint8_t scales[8] = {1, 2, 62, 63, 33, 17, 48, 5}, mins[8] = {63, 0, 7, 31, 32, 16, 15, 60};
  SixBitScales packed{};
  packed.set(scales, mins);
  for (std::size_t g = 0; g < 8; ++g) {
    EXPECT_EQ(packed.scale(g), scales[g]);
    EXPECT_EQ(packed.min(g), mins[g]);
  }
}

TEST(GgufBlocks, CodesOfQ6KComeBack) {
  std::uint8_t codes[256];
  for (std::size_t i = 0; i < 256; ++i) codes[i] = static_cast<std::uint8_t>(i * 37 % 64);
  Q6_K block{};
  block.set_codes(codes);
  for (std::size_t i = 0; i < 256; ++i) ASSERT_EQ(block.code(i), codes[i]) << i;
}

// A run of a group is that part of the whole, whatever the type; blocks need no alignment.
TEST(GgufBlocks, RunsAreTheWholeInPieces) {
  for (const BlockType type : kBlockTypes) {
    visit_block(type, [&](auto zero) {
      using Block = decltype(zero);
      std::array<std::byte, sizeof(Block) + 1> bytes{};
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 29 % 61);
      Block block;
      std::memcpy(static_cast<void*>(&block), bytes.data() + 1, sizeof block);
      std::array<float, Block::size> whole{}, pieces{};
      decode_blocks(type, bytes.data() + 1, Block::size, whole.data());
      constexpr std::size_t kRun = Block::group < 8 ? Block::group : 8;
      for (std::size_t first = 0; first < Block::size; first += kRun)
        block.template decode_run<kRun>(first, pieces.data() + first);
      EXPECT_EQ(std::memcmp(whole.data(), pieces.data(), sizeof whole), 0) << name_of(type);
    });
  }
}

}  // namespace
}  // namespace nibble
