// GGUF's blocks of one bit, of ternary values and of 4-bit floats. Little-endian, packed as drawn; scheme/gguf_blocks.h
// says what is common to all blocks.
//
//   Q1_0     d f16 | codes 16              −d or, where the bit is set, d   128 values, eight a byte
//   Q2_0     d f16 | codes 16              (code − 1)·d             64 values, four a byte
//   TQ1_0    codes 48 | rest 4 | d f16     (code − 1)·d             256 values, five base-3 digits a byte
//   TQ2_0    codes 64 | d f16              (code − 1)·d             256 values, two bits each, as Q2_K's
//   MXFP4    e u8 | codes 16               table[code]·2^(e − 128)  32 values, codes as Q4_0's
//   NVFP4    d E4M3 4 | codes 32           table[code]·d/2          64 values in groups of 16
//
// The table is that of E2M1 doubled: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives (where ggml has +0 for −0). Source:
// the OCP Microscaling specification, and ggml's struct and dequantize_row_* definitions, whose values these decoders
// give bit for bit. NVFP4's file has another factor for the whole tensor, in a tensor of its own.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nibble/core/float_types.h"
#include "nibble/scheme/gguf_super_blocks.h"

namespace nibble::inline NIBBLE_ABI::blocks {

struct Q1_0 {
  static constexpr std::string_view name = "Q1_0";
  static constexpr std::size_t size = 128, group = size;
  static constexpr bool host_only = true;
  f16 d;
  std::uint8_t codes[16];
  /// 0 or 2, so that the value is (code − 1)·d, as that of the other types here.
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const {
    return static_cast<std::uint8_t>((codes[i / 8] >> (i % 8) & 1) * 2);
  }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = code(first + i) == 0 ? -scale : scale;
  }
};

struct Q2_0 {
  static constexpr std::string_view name = "Q2_0";
  static constexpr std::size_t size = 64, group = size;
  static constexpr bool host_only = true;
  f16 d;
  std::uint8_t codes[16];
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const {
    return static_cast<std::uint8_t>(codes[i / 4] >> (2 * (i % 4)) & 3);
  }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i) - 1) * scale;
  }
};

struct TQ1_0 {
  static constexpr std::string_view name = "TQ1_0";
  static constexpr std::size_t size = kSuper, group = size;
  static constexpr bool host_only = true;
  std::uint8_t codes[48];
  std::uint8_t rest[4];
  f16 d;
  /// Digit i of a byte, the most significant first: bytes are ⌈v·256/243⌉ of v's five digits.
  static constexpr std::uint8_t digit(std::uint8_t byte, std::size_t i) {
    constexpr std::uint8_t powers[] = {1, 3, 9, 27, 81};
    return static_cast<std::uint8_t>(static_cast<std::uint8_t>(byte * powers[i]) * 3 >> 8);
  }
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const {
    if (i < 160) return digit(codes[i % 32], i / 32);
    if (i < 240) return digit(codes[32 + (i - 160) % 16], (i - 160) / 16);
    return digit(rest[(i - 240) % 4], (i - 240) / 4);
  }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i) - 1) * scale;
  }
};

struct TQ2_0 {
  static constexpr std::string_view name = "TQ2_0";
  static constexpr std::size_t size = kSuper, group = size;
  static constexpr bool host_only = true;
  std::uint8_t codes[64];
  f16 d;
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const { return two_bits(codes, i); }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i) - 1) * scale;
  }
};

/// E2M1 doubled, so that all are integers.
constexpr std::array<std::int8_t, 16> doubled_e2m1_table() {
  return {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
}

struct MXFP4 {
  static constexpr std::string_view name = "MXFP4";
  static constexpr std::size_t size = kGroup, group = size;
  static constexpr bool host_only = true;
  std::uint8_t e;
  std::uint8_t codes[16];
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes, i); }
  constexpr void set_codes(const std::uint8_t* values) { set_split_nibbles(codes, values); }
  static constexpr std::array<std::int8_t, 16> table() { return doubled_e2m1_table(); }
  /// 2^(e − 128), what multiplies the table's entries: exact as bf16, too, where the least two are subnormal.
  [[nodiscard]] constexpr float scale() const {
    return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1u) << 23);
  }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(table()[code(first + i)]) * scale();
  }
};

struct NVFP4 {
  static constexpr std::string_view name = "NVFP4";
  static constexpr std::size_t size = 64, group = 16;
  static constexpr bool host_only = true;
  std::uint8_t scales[4];  ///< E4M3 without a sign; the code of its NaN stands for 0.
  std::uint8_t codes[32];  ///< Of each group eight bytes: its first eight codes in the low nibbles.
  [[nodiscard]] constexpr std::uint8_t code(std::size_t i) const {
    return static_cast<std::uint8_t>(codes[i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 15);
  }
  static constexpr std::array<std::int8_t, 16> table() { return doubled_e2m1_table(); }
  /// What multiplies the table's entries in group g, half the stored scale: exact as f16, too.
  [[nodiscard]] constexpr float scale(std::size_t g) const {
    const auto bits = static_cast<std::uint8_t>(scales[g] & 0x7f);
    return bits == 0x7f ? 0 : static_cast<float>(f8_e4m3::from_bits(bits)) * 0.5f;
  }
  template <std::size_t N>
  constexpr void decode_run(std::size_t first, float* out) const {
    const float step = scale(first / group);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(table()[code(first + i)]) * step;
  }
};

static_assert(sizeof(Q1_0) == 18 && sizeof(Q2_0) == 18);
static_assert(sizeof(TQ1_0) == 54 && sizeof(TQ2_0) == 66 && sizeof(MXFP4) == 17 && sizeof(NVFP4) == 36);

}  // namespace nibble::inline NIBBLE_ABI::blocks
