// GGUF's blocks of 32 values: codes and one scale (and minimum) side by side in a small struct, little-endian, packed
// as drawn. scheme/gguf_blocks.h says what is common to all blocks.
//
//   Q4_0     d f16 | codes 16                                   (code − 8)·d           code j: low nibble of byte j,
//   Q4_1     d f16 | m f16 | codes 16                           code·d + m             code j + 16: its high nibble
//   Q5_0     d f16 | high u32 | codes 16                        (code − 16)·d          bit j of `high` is the fifth
//   Q5_1     d f16 | m f16 | high u32 | codes 16                code·d + m             bit of code j
//   Q8_0     d f16 | codes i8 32                                code·d
//   IQ4_NL   d f16 | codes 16                                   table[code]·d          as Q4_0
//
// Source: the struct and dequantize_row_* definitions of ggml, whose values these decoders give bit for bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nibble/core/float_types.h"
#include "nibble/core/portability.h"

namespace nibble::inline NIBBLE_ABI::blocks {

inline constexpr std::size_t kGroup = 32;  ///< Values of a small block.

/// Codes 0 … 31 in the nibbles of 16 bytes: the low ones first.
NIBBLE_HD constexpr std::uint8_t split_nibble(const std::uint8_t* codes, std::size_t j) {
  return static_cast<std::uint8_t>(j < kGroup / 2 ? codes[j] & 15 : codes[j - kGroup / 2] >> 4);
}
NIBBLE_HD constexpr void set_split_nibbles(std::uint8_t* codes, const std::uint8_t* values) {
  for (std::size_t j = 0; j < kGroup / 2; ++j)
    codes[j] = static_cast<std::uint8_t>((values[j] & 15) | ((values[j + kGroup / 2] & 15) << 4));
}

/// Bit 4 of 32 codes, as Q5_0 and Q5_1 keep it.
NIBBLE_HD constexpr void set_fifth_bits(std::uint8_t* high, const std::uint8_t* values) {
  for (std::size_t i = 0; i < 4; ++i) {
    unsigned bits = 0;
    for (std::size_t j = 0; j < 8; ++j) bits |= static_cast<unsigned>(values[8 * i + j] >> 4 & 1) << j;
    high[i] = static_cast<std::uint8_t>(bits);
  }
}

/// Every block has `size` values in groups of `group`, and decode_run<N>(first, out): N values from `first` on, all of
/// one group. On a device that is what a thread decodes. code(i) is that of value i.
struct Q4_0 {
  static constexpr std::string_view name = "Q4_0";
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes, i); }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) { set_split_nibbles(codes, values); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(split_nibble(codes, first + i) - 8) * scale;
  }
};

struct Q4_1 {
  static constexpr std::string_view name = "Q4_1";
  static constexpr std::size_t size = kGroup, group = size;
  f16 d, m;
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes, i); }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) { set_split_nibbles(codes, values); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d), min = static_cast<float>(m);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(split_nibble(codes, first + i)) * scale + min;
  }
};

struct Q5_0 {
  static constexpr std::string_view name = "Q5_0";
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::uint8_t high[4];
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t j) const {
    return static_cast<std::uint8_t>(split_nibble(codes, j) | ((high[j / 8] >> (j % 8)) & 1) << 4);
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    set_split_nibbles(codes, values);
    set_fifth_bits(high, values);
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i) - 16) * scale;
  }
};

struct Q5_1 {
  static constexpr std::string_view name = "Q5_1";
  static constexpr std::size_t size = kGroup, group = size;
  f16 d, m;
  std::uint8_t high[4];
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t j) const {
    return static_cast<std::uint8_t>(split_nibble(codes, j) | ((high[j / 8] >> (j % 8)) & 1) << 4);
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    set_split_nibbles(codes, values);
    set_fifth_bits(high, values);
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d), min = static_cast<float>(m);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i)) * scale + min;
  }
};

struct Q8_0 {
  static constexpr std::string_view name = "Q8_0";
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::int8_t codes[32];
  /// Codes around 128.
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return static_cast<std::uint8_t>(codes[i] + 128); }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    for (std::size_t i = 0; i < size; ++i) codes[i] = static_cast<std::int8_t>(values[i] - 128);
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(codes[first + i]) * scale;
  }
};

/// IQ4_NL's table of integers, denser near 0.
constexpr std::array<std::int8_t, 16> iq4_nl_table() {
  return {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
}
/// Eight entries of it from `first` on, a byte each.
constexpr std::uint64_t packed_iq4_nl_table(std::size_t first) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < 8; ++i)
    word |= std::uint64_t{static_cast<std::uint8_t>(iq4_nl_table()[first + i])} << (8 * i);
  return word;
}

/// A 4-bit code into that table.
struct IQ4_NL {
  static constexpr std::string_view name = "IQ4_NL";
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes, i); }
  static constexpr std::array<std::int8_t, 16> table() { return iq4_nl_table(); }
  NIBBLE_HD static constexpr float entry(unsigned code) {
#ifdef __CUDA_ARCH__
    return static_cast<float>(packed_entry(code));
#else
    constexpr auto values = iq4_nl_table();
    return static_cast<float>(values[code]);
#endif
  }
  /// The same without an array, which a device would index in slow memory.
  NIBBLE_HD static constexpr std::int8_t packed_entry(unsigned code) {
    constexpr std::uint64_t low = packed_iq4_nl_table(0), high = packed_iq4_nl_table(8);
    return static_cast<std::int8_t>((code < 8 ? low : high) >> (code % 8 * 8));
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) { set_split_nibbles(codes, values); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = entry(split_nibble(codes, first + i)) * scale;
  }
};

static_assert([] {
  for (unsigned code = 0; code < 16; ++code)
    if (IQ4_NL::packed_entry(code) != iq4_nl_table()[code]) return false;
  return true;
}());
static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(IQ4_NL) == 18);

}  // namespace nibble::inline NIBBLE_ABI::blocks
