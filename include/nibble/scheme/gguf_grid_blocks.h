// GGUF's super-blocks of 1 to 3.5 bits: runs of four or eight values are points of a lattice, listed in a codebook,
// with signs and a group's scale of their own. Little-endian, packed as drawn; scheme/gguf_blocks.h says what is common
// to all blocks.
//
//   IQ2_XXS  d f16 | 8 × (points 4, signs and scale u32)     d·(2s + 1)/8 · ±(8, 25 or 43)
//   IQ2_XS   d f16 | points and signs u16 32 | scales 8      d·(2s + 1)/8 · ±(8, 25 or 43)
//   IQ2_S    d f16 | points 32 | signs 32 | high 8 | scales 8 the same
//   IQ3_XXS  d f16 | points 64 | signs and scale u32 8       d·(2s + 1)/4 · ±(4, 12 … 52 or 62)
//   IQ3_S    d f16 | points 64 | high 8 | signs 32 | scales 4 d·(2s + 1) · ±(1, 3 … or 15)
//   IQ1_S    d f16 | points 32 | high, shift and scale u16 8 d·(2s + 1) · (−1, 0 or 1, ± ⅛)
//   IQ1_M    points 32 | high and shift 16 | scales 8        the same; d in the scales' upper bits
//
// Points are of eight values, of IQ3 of four. s has 4 bits, in IQ1 3, of each 32 values, in IQ2_XS, IQ2_S and IQ1_M of
// each 16.
//
// Every value is an integer times a group's scale, exact in fp32: 11 bits of d, at most 5 of 2s + 1 and 6 of a level.
// Source: the struct and dequantize_row_* definitions of ggml, whose values these decoders give bit for bit. They are
// for the host: a device has no place for the codebooks.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nibble/core/float_types.h"
#include "nibble/scheme/gguf_grids.h"
#include "nibble/scheme/gguf_super_blocks.h"

namespace nibble::inline NIBBLE_ABI::blocks {

/// Little-endian words of a block, whose bytes need no alignment.
constexpr std::uint32_t word16(const std::uint8_t* bytes) {
  return bytes[0] | static_cast<std::uint32_t>(bytes[1]) << 8;
}
constexpr std::uint32_t word32(const std::uint8_t* bytes) { return word16(bytes) | word16(bytes + 2) << 16; }

/// The number of a point whose bits from the eighth on lie elsewhere.
constexpr std::size_t index_of(std::uint8_t low, int high) { return low | static_cast<std::size_t>(high) << 8; }

/// Element j of a point of eight two-bit elements.
constexpr int eighth(std::uint32_t point, std::size_t j) { return static_cast<int>(point >> (2 * j) & 3); }
/// What those of the 2-bit types stand for.
constexpr int two_bit_level(std::uint32_t point, std::size_t j) {
  constexpr int levels[] = {8, 25, 43, 0};
  return levels[eighth(point, j)];
}
/// Eight signs as seven bits: the eighth makes the number of minuses even. Bit j set: element j is negative.
constexpr bool is_negative(std::uint32_t seven, std::size_t j) {
  return (j < 7 ? seven >> j & 1 : static_cast<std::uint32_t>(std::popcount(seven & 127u)) & 1) != 0;
}
constexpr std::uint8_t nibble_of(const std::uint8_t* bytes, std::size_t i) {
  return static_cast<std::uint8_t>(bytes[i / 2] >> (i % 2 * 4) & 15);
}

/// What the types have in common: value i is level(i)·(scale()·group_scale(group of i)).
template <class Block>
struct GridBlock {
  static constexpr std::size_t size = kSuper;
  static constexpr bool host_only = true;
  /// As a code around 128, which every level fits.
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const {
    return static_cast<std::uint8_t>(self().level(i) + 128);
  }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    const float step = self().scale() * static_cast<float>(self().group_scale(first / Block::group));
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(self().level(first + i)) * step;
  }

 private:
  constexpr const Block& self() const { return static_cast<const Block&>(*this); }
};

struct IQ2_XXS : GridBlock<IQ2_XXS> {
  static constexpr std::string_view name = "IQ2_XXS";
  static constexpr std::size_t group = 32;
  f16 d;
  std::uint8_t points[64];  ///< Of each group four points, then their signs (seven bits each) and s in a word.
  [[nodiscard]] constexpr std::uint32_t rest(std::size_t g) const { return word32(points + 8 * g + 4); }
  [[nodiscard]] constexpr float scale() const { return static_cast<float>(d) * 0.125f; }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * (rest(g) >> 28) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    const std::size_t g = i / 32, l = i / 8 % 4;
    const int size_of_it = two_bit_level(kIq2XxsGrid[points[8 * g + l]], i % 8);
    return is_negative(rest(g) >> (7 * l) & 127, i % 8) ? -size_of_it : size_of_it;
  }
};

struct IQ2_XS : GridBlock<IQ2_XS> {
  static constexpr std::string_view name = "IQ2_XS";
  static constexpr std::size_t group = 16;
  f16 d;
  std::uint8_t points[64];  ///< Words of 16 bits: nine of a point, seven of signs.
  std::uint8_t scales[8];
  [[nodiscard]] constexpr float scale() const { return static_cast<float>(d) * 0.125f; }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * nibble_of(scales, g) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    const std::uint32_t word = word16(points + i / 8 * 2);
    const int size_of_it = two_bit_level(kIq2XsGrid[word & 511], i % 8);
    return is_negative(word >> 9, i % 8) ? -size_of_it : size_of_it;
  }
};

struct IQ2_S : GridBlock<IQ2_S> {
  static constexpr std::string_view name = "IQ2_S";
  static constexpr std::size_t group = 16;
  f16 d;
  std::uint8_t points[32];
  std::uint8_t signs[32];  ///< A bit each.
  std::uint8_t high[8];    ///< Two more bits of each point.
  std::uint8_t scales[8];
  [[nodiscard]] constexpr float scale() const { return static_cast<float>(d) * 0.125f; }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * nibble_of(scales, g) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    const std::size_t k = i / 8;
    const int size_of_it = two_bit_level(kIq2SGrid[index_of(points[k], high[k / 4] >> (2 * (k % 4)) & 3)], i % 8);
    return (signs[k] >> (i % 8) & 1) != 0 ? -size_of_it : size_of_it;
  }
};

struct IQ3_XXS : GridBlock<IQ3_XXS> {
  static constexpr std::string_view name = "IQ3_XXS";
  static constexpr std::size_t group = 32;
  f16 d;
  std::uint8_t points[64];
  std::uint8_t rest[32];  ///< Of each group the signs of four times eight values (seven bits each) and s in a word.
  [[nodiscard]] constexpr float scale() const { return static_cast<float>(d) * 0.25f; }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * (word32(rest + 4 * g) >> 28) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    constexpr int levels[] = {4, 12, 20, 28, 36, 44, 52, 62};
    const int size_of_it = levels[kIq3XxsGrid[points[i / 4]] >> (3 * (i % 4)) & 7];
    return is_negative(word32(rest + i / 32 * 4) >> (7 * (i / 8 % 4)) & 127, i % 8) ? -size_of_it : size_of_it;
  }
};

struct IQ3_S : GridBlock<IQ3_S> {
  static constexpr std::string_view name = "IQ3_S";
  static constexpr std::size_t group = 32;
  f16 d;
  std::uint8_t points[64];
  std::uint8_t high[8];  ///< A ninth bit of each point.
  std::uint8_t signs[32];
  std::uint8_t scales[4];
  [[nodiscard]] constexpr float scale() const { return static_cast<float>(d); }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * nibble_of(scales, g) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    const std::size_t k = i / 4;
    const std::uint32_t point = kIq3SGrid[index_of(points[k], high[k / 8] >> (k % 8) & 1)];
    const int size_of_it = static_cast<int>(2 * (point >> (3 * (i % 4)) & 7) + 1);
    return (signs[i / 8] >> (i % 8) & 1) != 0 ? -size_of_it : size_of_it;
  }
};

/// Levels of the 1-bit types, in eighths: −1, 0 or 1, shifted by an eighth up or down.
constexpr int one_bit_level(std::uint32_t point, std::size_t j, bool down) {
  return 8 * (eighth(point, j) - 1) + (down ? -1 : 1);
}

struct IQ1_S : GridBlock<IQ1_S> {
  static constexpr std::string_view name = "IQ1_S";
  static constexpr std::size_t group = 32;
  f16 d;
  std::uint8_t points[32];
  std::uint8_t rest[16];  ///< Of each group a word: three more bits of each of four points, s, and the shift's sign.
  [[nodiscard]] constexpr float scale() const { return static_cast<float>(d) * 0.125f; }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * (word16(rest + 2 * g) >> 12 & 7) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    const std::size_t k = i / 8;
    const std::uint32_t word = word16(rest + k / 4 * 2);
    return one_bit_level(kIq1SGrid[index_of(points[k], static_cast<int>(word >> (3 * (k % 4)) & 7))], i % 8,
                         (word & 0x8000u) != 0);
  }
};

struct IQ1_M : GridBlock<IQ1_M> {
  static constexpr std::string_view name = "IQ1_M";
  static constexpr std::size_t group = 16;
  std::uint8_t points[32];
  std::uint8_t high[16];   ///< Of each point a nibble: three more bits, and the shift's sign.
  std::uint8_t scales[8];  ///< Four words: of each four times three bits of s, and a nibble of d, the lowest first.
  [[nodiscard]] constexpr float scale() const {
    std::uint32_t bits = 0;
    for (std::size_t w = 0; w < 4; ++w) bits |= word16(scales + 2 * w) >> 12 << (4 * w);
    return static_cast<float>(f16::from_bits(static_cast<std::uint16_t>(bits))) * 0.125f;
  }
  [[nodiscard]] constexpr std::int8_t group_scale(std::size_t g) const {
    return static_cast<std::int8_t>(2 * (word16(scales + g / 4 * 2) >> (3 * (g % 4)) & 7) + 1);
  }
  [[nodiscard]] constexpr int level(std::size_t i) const {
    const std::size_t k = i / 8;
    const std::uint32_t rest = nibble_of(high, k);
    return one_bit_level(kIq1SGrid[index_of(points[k], static_cast<int>(rest & 7))], i % 8, (rest & 8) != 0);
  }
};

static_assert(sizeof(IQ2_XXS) == 66 && sizeof(IQ2_XS) == 74 && sizeof(IQ2_S) == 82 && sizeof(IQ3_XXS) == 98);
static_assert(sizeof(IQ3_S) == 110 && sizeof(IQ1_S) == 50 && sizeof(IQ1_M) == 56);

}  // namespace nibble::inline NIBBLE_ABI::blocks
