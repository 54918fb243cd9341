// GGUF's super-blocks of 256 values in groups of 16 or 32: each group's scale (and minimum) is a small integer, times
// one step of the whole. Little-endian, packed as drawn; scheme/gguf_blocks.h says what is common to all blocks.
//
//   Q2_K     scales 16 | codes 64 | d f16 | dmin f16            code·(d·s) − dmin·m    16 groups of 16
//   Q3_K     high 32 | codes 64 | scales 12 | d f16             (code − 4)·(d·s)       16 groups of 16
//   Q4_K     d f16 | dmin f16 | scales 12 | codes 128           code·(d·s) − dmin·m    8 groups of 32
//   Q5_K     d f16 | dmin f16 | scales 12 | high 32 | codes 128 code·(d·s) − dmin·m    8 groups of 32
//   Q6_K     low 128 | high 64 | scales i8 16 | d f16           (code − 32)·(d·s)      16 groups of 16
//   IQ4_XS   d f16 | scales high 2 | low 4 | codes 128          table[code]·(d·s)      8 groups of 32
//   Q8_K     d f32 | codes i8 256 | sums i16 16                 code·d                 sums: of each 16 codes
//
// s and m have 4 bits in Q2_K and 6 in Q4_K and Q5_K; s is signed in Q3_K and IQ4_XS, of 6 bits, and Q6_K, of 8.
//
// Where a multiply feeds an add (the types with a minimum) the product is exact in fp32: 11 bits of d, at most 6 of a
// group's scale and at most 5 of a code. Each value is therefore rounded once, and contraction cannot change it.
// Source: the struct and dequantize_row_* definitions of ggml, whose values these decoders give bit for bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nibble/core/float_types.h"
#include "nibble/core/portability.h"
#include "nibble/scheme/gguf_small_blocks.h"

namespace nibble::inline NIBBLE_ABI::blocks {

inline constexpr std::size_t kSuper = 256;  ///< Values of a super-block.

/// Sixteen 4-bit scales in the low nibbles, sixteen 4-bit minima in the high ones.
struct FourBitScales {
  std::uint8_t bytes[16];
  NIBBLE_HD constexpr std::uint8_t scale(std::size_t g) const { return bytes[g] & 15; }
  NIBBLE_HD constexpr std::uint8_t min(std::size_t g) const { return bytes[g] >> 4; }
  /// All sixteen of each, every value below 16.
  NIBBLE_HD constexpr void set(const std::uint8_t* scales, const std::uint8_t* mins) {
    for (std::size_t g = 0; g < 16; ++g) bytes[g] = static_cast<std::uint8_t>(scales[g] | mins[g] << 4);
  }
};

/// Two bits of each of 256 codes: of each half of 128, those of value 32q + j are bits 2q and 2q + 1 of byte j.
NIBBLE_HD constexpr std::uint8_t two_bits(const std::uint8_t* codes, std::size_t i) {
  return static_cast<std::uint8_t>((codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3);
}
NIBBLE_HD constexpr void set_two_bits(std::uint8_t* codes, const std::uint8_t* values) {
  for (std::size_t half = 0; half < 2; ++half)
    for (std::size_t j = 0; j < 32; ++j) {
      const std::uint8_t* v = values + half * 128 + j;
      codes[half * 32 + j] =
          static_cast<std::uint8_t>((v[0] & 3) | (v[32] & 3) << 2 | (v[64] & 3) << 4 | (v[96] & 3) << 6);
    }
}

struct Q2_K {
  static constexpr std::string_view name = "Q2_K";
  static constexpr std::size_t size = kSuper, group = 16;
  FourBitScales scales;
  std::uint8_t codes[64];
  f16 d, dmin;
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return two_bits(codes, i); }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) { set_two_bits(codes, values); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const std::size_t g = first / group;
    const float step = static_cast<float>(d) * static_cast<float>(scales.scale(g));
    const float min = static_cast<float>(dmin) * static_cast<float>(scales.min(g));
    for (std::size_t i = 0; i < N; ++i) out[i] = step * static_cast<float>(code(first + i)) - min;
  }
};

/// Bit g of high[j] is the third bit of value 32g + j.
struct Q3_K {
  static constexpr std::string_view name = "Q3_K";
  static constexpr std::size_t size = kSuper, group = 16;
  std::uint8_t high[32];
  std::uint8_t codes[64];
  std::uint8_t scales[12];  ///< Four bits each as bytes 0–7 hold them, the upper two in pairs of bits of bytes 8–11.
  f16 d;
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const {
    return static_cast<std::uint8_t>(two_bits(codes, i) | ((high[i % 32] >> (i / 32)) & 1) << 2);
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    set_two_bits(codes, values);
    for (std::size_t j = 0; j < 32; ++j) {
      unsigned bits = 0;
      for (std::size_t g = 0; g < 8; ++g) bits |= static_cast<unsigned>(values[32 * g + j] >> 2 & 1) << g;
      high[j] = static_cast<std::uint8_t>(bits);
    }
  }
  /// −32 … 31
  NIBBLE_HD constexpr std::int8_t group_scale(std::size_t g) const {
    const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4, upper = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
    return static_cast<std::int8_t>((low | upper << 4) - 32);
  }
  NIBBLE_HD constexpr void set_group_scales(const std::int8_t* values) {
    for (std::uint8_t& byte : scales) byte = 0;
    for (std::size_t g = 0; g < 16; ++g) {
      const unsigned v = static_cast<unsigned>(values[g] + 32);
      scales[g % 8] = static_cast<std::uint8_t>(scales[g % 8] | (v & 15) << (g / 8 * 4));
      scales[8 + g % 4] = static_cast<std::uint8_t>(scales[8 + g % 4] | v >> 4 << (2 * (g / 4)));
    }
  }
  /// What multiplies (code − 4) in group g: exact in fp32.
  NIBBLE_HD constexpr float step(std::size_t g) const {
    return static_cast<float>(d) * static_cast<float>(group_scale(g));
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const float scale = step(first / group);
    for (std::size_t i = 0; i < N; ++i) out[i] = scale * static_cast<float>(code(first + i) - 4);
  }
};

/// Eight 6-bit scales s and eight 6-bit minima m in 12 bytes (an upper-case letter is s, its lower-case one m):
///   bytes 0–3  [E5 E4 A5…A0] [F5 F4 B5…B0] [G…] [H…]      bytes 4–7  [e5 e4 a5…a0] [f5 f4 b5…b0] …
///   bytes 8–11 [e3…e0 E3…E0] [f3…f0 F3…F0] …
struct SixBitScales {
  std::uint8_t bytes[12];
  NIBBLE_HD constexpr std::uint8_t scale(std::size_t g) const {
    return static_cast<std::uint8_t>(g < 4 ? bytes[g] & 63 : (bytes[g + 4] & 15) | (bytes[g - 4] >> 6) << 4);
  }
  NIBBLE_HD constexpr std::uint8_t min(std::size_t g) const {
    return static_cast<std::uint8_t>(g < 4 ? bytes[g + 4] & 63 : bytes[g + 4] >> 4 | (bytes[g] >> 6) << 4);
  }
  /// All eight of each, every value below 64.
  NIBBLE_HD constexpr void set(const std::uint8_t* scales, const std::uint8_t* mins) {
    for (std::size_t g = 0; g < 4; ++g) {
      bytes[g] = static_cast<std::uint8_t>(scales[g] | (scales[g + 4] >> 4) << 6);
      bytes[g + 4] = static_cast<std::uint8_t>(mins[g] | (mins[g + 4] >> 4) << 6);
      bytes[g + 8] = static_cast<std::uint8_t>((scales[g + 4] & 15) | (mins[g + 4] & 15) << 4);
    }
  }
};

/// Four bits of each of 256 codes, in pairs of groups: group 2p in the low nibbles of bytes 32p … 32p + 31, group 2p +
/// 1 in the high ones.
NIBBLE_HD constexpr void set_paired_nibbles(std::uint8_t* codes, const std::uint8_t* values) {
  for (std::size_t p = 0; p < 4; ++p)
    for (std::size_t j = 0; j < 32; ++j)
      codes[32 * p + j] = static_cast<std::uint8_t>((values[64 * p + j] & 15) | (values[64 * p + 32 + j] & 15) << 4);
}

struct Q4_K {
  static constexpr std::string_view name = "Q4_K";
  static constexpr std::size_t size = kSuper, group = 32;
  f16 d, dmin;
  SixBitScales scales;
  std::uint8_t codes[128];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const {
    const std::size_t g = i / group;
    return static_cast<std::uint8_t>((codes[g / 2 * group + i % group] >> (g % 2 * 4)) & 15);
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) { set_paired_nibbles(codes, values); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const std::size_t g = first / group;
    const float step = static_cast<float>(d) * static_cast<float>(scales.scale(g));
    const float min = static_cast<float>(dmin) * static_cast<float>(scales.min(g));
    const std::uint8_t* from = codes + g / 2 * group + first % group;
    for (std::size_t i = 0; i < N; ++i) out[i] = step * static_cast<float>((from[i] >> (g % 2 * 4)) & 15) - min;
  }
};

/// As Q4_K; bit g of high[j] is the fifth bit of code j of group g.
struct Q5_K {
  static constexpr std::string_view name = "Q5_K";
  static constexpr std::size_t size = kSuper, group = 32;
  f16 d, dmin;
  SixBitScales scales;
  std::uint8_t high[32];
  std::uint8_t codes[128];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const {
    const std::size_t g = i / group;
    const int low = (codes[g / 2 * group + i % group] >> (g % 2 * 4)) & 15, fifth = (high[i % group] >> g) & 1;
    return static_cast<std::uint8_t>(low | fifth << 4);
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    set_paired_nibbles(codes, values);
    for (std::size_t j = 0; j < group; ++j) {
      unsigned bits = 0;
      for (std::size_t g = 0; g < 8; ++g) bits |= static_cast<unsigned>(values[group * g + j] >> 4 & 1) << g;
      high[j] = static_cast<std::uint8_t>(bits);
    }
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const std::size_t g = first / group;
    const float step = static_cast<float>(d) * static_cast<float>(scales.scale(g));
    const float min = static_cast<float>(dmin) * static_cast<float>(scales.min(g));
    const std::uint8_t *from = codes + g / 2 * group + first % group, *fifth = high + first % group;
    for (std::size_t i = 0; i < N; ++i) {
      const int code = ((from[i] >> (g % 2 * 4)) & 15) | ((fifth[i] >> g) & 1) << 4;
      out[i] = step * static_cast<float>(code) - min;
    }
  }
};

/// Two halves of 128 values. Of each, value 32q + j has its low nibble in low[32(q % 2) + j], the low half of the byte
/// for q < 2 and the high one for the others, and bits 4 and 5 in bits 2q and 2q + 1 of high[j].
struct Q6_K {
  static constexpr std::string_view name = "Q6_K";
  static constexpr std::size_t size = kSuper, group = 16;
  std::uint8_t low[128];
  std::uint8_t high[64];
  std::int8_t scales[16];
  f16 d;
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const {
    const std::size_t half = i / 128, q = i % 128 / 32, j = i % 32;
    const int nibble = (low[half * 64 + q % 2 * 32 + j] >> (q / 2 * 4)) & 15;
    return static_cast<std::uint8_t>(nibble | ((high[half * 32 + j] >> (2 * q)) & 3) << 4);
  }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    for (std::size_t half = 0; half < 2; ++half)
      for (std::size_t j = 0; j < 32; ++j) {
        const std::uint8_t* v = values + half * 128 + j;
        low[half * 64 + j] = static_cast<std::uint8_t>((v[0] & 15) | (v[64] & 15) << 4);
        low[half * 64 + 32 + j] = static_cast<std::uint8_t>((v[32] & 15) | (v[96] & 15) << 4);
        high[half * 32 + j] =
            static_cast<std::uint8_t>(v[0] >> 4 | (v[32] >> 4) << 2 | (v[64] >> 4) << 4 | (v[96] >> 4) << 6);
      }
  }
  NIBBLE_HD constexpr std::int8_t group_scale(std::size_t g) const { return scales[g]; }
  NIBBLE_HD constexpr void set_group_scales(const std::int8_t* values) {
    for (std::size_t g = 0; g < 16; ++g) scales[g] = values[g];
  }
  /// What multiplies (code − 32) in group g: exact in fp32.
  NIBBLE_HD constexpr float step(std::size_t g) const { return static_cast<float>(d) * static_cast<float>(scales[g]); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const float scale = step(first / group);
    for (std::size_t i = 0; i < N; ++i) out[i] = scale * static_cast<float>(code(first + i) - 32);
  }
};

/// Codes into IQ4_NL's table; of each group of 32, as those of one of its blocks.
struct IQ4_XS {
  static constexpr std::string_view name = "IQ4_XS";
  static constexpr std::size_t size = kSuper, group = 32;
  f16 d;
  std::uint8_t scales_high[2];  ///< Two bits each, the first in the lowest.
  std::uint8_t scales_low[4];   ///< A nibble each.
  std::uint8_t codes[128];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes + i / group * 16, i % group); }
  NIBBLE_HD constexpr void set_codes(const std::uint8_t* values) {
    for (std::size_t g = 0; g < 8; ++g) set_split_nibbles(codes + 16 * g, values + group * g);
  }
  static constexpr std::array<std::int8_t, 16> table() { return iq4_nl_table(); }
  /// −32 … 31
  NIBBLE_HD constexpr std::int8_t group_scale(std::size_t g) const {
    const int low = scales_low[g / 2] >> (g % 2 * 4) & 15, upper = scales_high[g / 4] >> (g % 4 * 2) & 3;
    return static_cast<std::int8_t>((low | upper << 4) - 32);
  }
  NIBBLE_HD constexpr void set_group_scales(const std::int8_t* values) {
    for (std::uint8_t& byte : scales_high) byte = 0;
    for (std::uint8_t& byte : scales_low) byte = 0;
    for (std::size_t g = 0; g < 8; ++g) {
      const unsigned v = static_cast<unsigned>(values[g] + 32);
      scales_low[g / 2] = static_cast<std::uint8_t>(scales_low[g / 2] | (v & 15) << (g % 2 * 4));
      scales_high[g / 4] = static_cast<std::uint8_t>(scales_high[g / 4] | v >> 4 << (g % 4 * 2));
    }
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const float scale = static_cast<float>(d) * static_cast<float>(group_scale(first / group));
    for (std::size_t i = 0; i < N; ++i) out[i] = IQ4_NL::entry(code(first + i)) * scale;
  }
};

struct Q8_K {
  static constexpr std::string_view name = "Q8_K";
  static constexpr std::size_t size = kSuper, group = size;
  float d;
  std::int8_t codes[256];
  std::int16_t sums[16];
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(codes[first + i]) * d;
  }
};

static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176);
static_assert(sizeof(Q6_K) == 210 && sizeof(IQ4_XS) == 136 && sizeof(Q8_K) == 292);

}  // namespace nibble::inline NIBBLE_ABI::blocks
