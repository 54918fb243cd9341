// The block codecs of GGUF: runs of 32 or 256 values of a row, codes and scales side by side in one small struct.
//
// Types with one scale (Q4_0, Q5_0, Q8_0, Q6_K, Q8_K) are affine with a constant zero point; those with a minimum
// (Q4_1, Q5_1, Q4_K, Q5_K) have a real-valued offset, which no integer zero point can stand for, and IQ4_NL has a
// codebook of integers. All bytes little-endian, all structs packed as drawn:
//
//   Q4_0     d f16 | codes 16                                   (code − 8)·d           code j: low nibble of byte j,
//   Q4_1     d f16 | m f16 | codes 16                           code·d + m             code j + 16: its high nibble
//   Q5_0     d f16 | high u32 | codes 16                        (code − 16)·d          bit j of `high` is the fifth
//   Q5_1     d f16 | m f16 | high u32 | codes 16                code·d + m             bit of code j
//   Q8_0     d f16 | codes i8 32                                code·d
//   IQ4_NL   d f16 | codes 16                                   table[code]·d          as Q4_0
//   Q4_K     d f16 | dmin f16 | scales 12 | codes 128           code·(d·s) − dmin·m    8 groups of 32, s and m 6 bits
//   Q5_K     d f16 | dmin f16 | scales 12 | high 32 | codes 128 code·(d·s) − dmin·m
//   Q6_K     low 128 | high 64 | scales i8 16 | d f16           (code − 32)·(d·s)      16 groups of 16
//   Q8_K     d f32 | codes i8 256 | sums i16 16                 code·d                 sums: of each 16 codes
//
// Where a multiply feeds an add (the types with a minimum) the product is exact in fp32: 11 bits of d, 6 of a group's
// scale and at most 5 of a code. Each value is therefore rounded once, and contraction cannot change it.
// Source: the struct and dequantize_row_* definitions of ggml, whose values these decoders give bit for bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "nibble/core/float_types.h"
#include "nibble/core/portability.h"

namespace nibble::inline NIBBLE_ABI {

/// The element types of GGUF tensors that this library reads, numbered as the file numbers them. Floats are blocks of
/// one value.
enum class BlockType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq4_nl = 20,
  bf16 = 30,
};

inline constexpr std::array kBlockTypes{BlockType::f32,   BlockType::f16,  BlockType::bf16, BlockType::q4_0,
                                        BlockType::q4_1,  BlockType::q5_0, BlockType::q5_1, BlockType::q8_0,
                                        BlockType::q4_k,  BlockType::q5_k, BlockType::q6_k, BlockType::q8_k,
                                        BlockType::iq4_nl};

namespace blocks {

inline constexpr std::size_t kGroup = 32;   ///< Values of a small block.
inline constexpr std::size_t kSuper = 256;  ///< Values of a super-block, the K types.

/// Codes 0 … 31 in the nibbles of 16 bytes: the low ones first.
NIBBLE_HD constexpr std::uint8_t split_nibble(const std::uint8_t* codes, std::size_t j) {
  return static_cast<std::uint8_t>(j < kGroup / 2 ? codes[j] & 15 : codes[j - kGroup / 2] >> 4);
}
NIBBLE_HD constexpr void set_split_nibbles(std::uint8_t* codes, const std::uint8_t* values) {
  for (std::size_t j = 0; j < kGroup / 2; ++j)
    codes[j] = static_cast<std::uint8_t>((values[j] & 15) | ((values[j + kGroup / 2] & 15) << 4));
}

/// Every block has `size` values in groups of `group`, and decode_run<N>(first, out): N values from `first` on, all of
/// one group. On a device that is what a thread decodes. code(i) is that of value i.
struct Q4_0 {
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::uint8_t codes[16];
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(split_nibble(codes, first + i) - 8) * scale;
  }
};

struct Q4_1 {
  static constexpr std::size_t size = kGroup, group = size;
  f16 d, m;
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes, i); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d), min = static_cast<float>(m);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(split_nibble(codes, first + i)) * scale + min;
  }
};

struct Q5_0 {
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::uint8_t high[4];
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t j) const {
    return static_cast<std::uint8_t>(split_nibble(codes, j) | ((high[j / 8] >> (j % 8)) & 1) << 4);
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i) - 16) * scale;
  }
};

struct Q5_1 {
  static constexpr std::size_t size = kGroup, group = size;
  f16 d, m;
  std::uint8_t high[4];
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t j) const {
    return static_cast<std::uint8_t>(split_nibble(codes, j) | ((high[j / 8] >> (j % 8)) & 1) << 4);
  }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d), min = static_cast<float>(m);
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(code(first + i)) * scale + min;
  }
};

struct Q8_0 {
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::int8_t codes[32];
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
  static constexpr std::size_t size = kGroup, group = size;
  f16 d;
  std::uint8_t codes[16];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const { return split_nibble(codes, i); }
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
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const auto scale = static_cast<float>(d);
    for (std::size_t i = 0; i < N; ++i) out[i] = entry(split_nibble(codes, first + i)) * scale;
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

/// Codes in pairs of groups: group 2p in the low nibbles of bytes 32p … 32p + 31, group 2p + 1 in the high ones.
struct Q4_K {
  static constexpr std::size_t size = kSuper, group = 32;
  f16 d, dmin;
  SixBitScales scales;
  std::uint8_t codes[128];
  NIBBLE_HD constexpr std::uint8_t code(std::size_t i) const {
    const std::size_t g = i / group;
    return static_cast<std::uint8_t>((codes[g / 2 * group + i % group] >> (g % 2 * 4)) & 15);
  }
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
  /// What multiplies (code − 32) in group g: exact in fp32.
  NIBBLE_HD constexpr float step(std::size_t g) const { return static_cast<float>(d) * static_cast<float>(scales[g]); }
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    const float scale = step(first / group);
    for (std::size_t i = 0; i < N; ++i) out[i] = scale * static_cast<float>(code(first + i) - 32);
  }
};

struct Q8_K {
  static constexpr std::size_t size = kSuper, group = size;
  float d;
  std::int8_t codes[256];
  std::int16_t sums[16];
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t first, float* out) const {
    for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<float>(codes[first + i]) * d;
  }
};

/// Floats as blocks of one.
template <class T>
struct One {
  static constexpr std::size_t size = 1, group = 1;
  T value;
  template <std::size_t N>
  NIBBLE_HD constexpr void decode_run(std::size_t, float* out) const {
    static_assert(N == 1);
    *out = static_cast<float>(value);
  }
};

/// All values of a block.
template <class Block>
NIBBLE_HD constexpr void decode(const Block& block, float* out) {
  for (std::size_t first = 0; first < Block::size; first += Block::group)
    block.template decode_run<Block::group>(first, out + first);
}

static_assert([] {
  for (unsigned code = 0; code < 16; ++code)
    if (IQ4_NL::packed_entry(code) != iq4_nl_table()[code]) return false;
  return true;
}());
static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(IQ4_NL) == 18 && sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176);
static_assert(sizeof(Q6_K) == 210 && sizeof(Q8_K) == 292 && sizeof(One<f16>) == 2);

}  // namespace blocks

/// Calls visit(Block{}) with the struct of a type; the one place that lists them all.
template <class Visitor>
constexpr decltype(auto) visit_block(BlockType type, Visitor&& visit) {
  switch (type) {
    case BlockType::f16: return visit(blocks::One<f16>{});
    case BlockType::bf16: return visit(blocks::One<bf16>{});
    case BlockType::q4_0: return visit(blocks::Q4_0{});
    case BlockType::q4_1: return visit(blocks::Q4_1{});
    case BlockType::q5_0: return visit(blocks::Q5_0{});
    case BlockType::q5_1: return visit(blocks::Q5_1{});
    case BlockType::q8_0: return visit(blocks::Q8_0{});
    case BlockType::q4_k: return visit(blocks::Q4_K{});
    case BlockType::q5_k: return visit(blocks::Q5_K{});
    case BlockType::q6_k: return visit(blocks::Q6_K{});
    case BlockType::q8_k: return visit(blocks::Q8_K{});
    case BlockType::iq4_nl: return visit(blocks::IQ4_NL{});
    case BlockType::f32: break;
  }
  return visit(blocks::One<float>{});
}

/// Values in a block, and its bytes.
constexpr std::size_t block_size(BlockType type) {
  return visit_block(type, [](auto block) { return decltype(block)::size; });
}
constexpr std::size_t block_bytes(BlockType type) {
  return visit_block(type, [](auto block) { return sizeof(block); });
}

/// Whether the type is a plain float.
constexpr bool is_float(BlockType type) {
  return type == BlockType::f32 || type == BlockType::f16 || type == BlockType::bf16;
}

/// ggml's name: "Q4_K".
constexpr std::string_view name_of(BlockType type) {
  switch (type) {
    case BlockType::f32: return "F32";
    case BlockType::f16: return "F16";
    case BlockType::bf16: return "BF16";
    case BlockType::q4_0: return "Q4_0";
    case BlockType::q4_1: return "Q4_1";
    case BlockType::q5_0: return "Q5_0";
    case BlockType::q5_1: return "Q5_1";
    case BlockType::q8_0: return "Q8_0";
    case BlockType::q4_k: return "Q4_K";
    case BlockType::q5_k: return "Q5_K";
    case BlockType::q6_k: return "Q6_K";
    case BlockType::q8_k: return "Q8_K";
    case BlockType::iq4_nl: return "IQ4_NL";
  }
  return "?";
}
/// The type of that name, upper or lower case; nothing for a name that is none.
std::optional<BlockType> parse_block_type(std::string_view name);

/// Decodes whole blocks: `count` is a multiple of block_size(type). `from` needs no alignment.
void decode_blocks(BlockType type, const std::byte* from, std::size_t count, float* to);

/// Whether encode_block knows the type: all but Q5_K, Q8_K and IQ4_NL, which are only read.
constexpr bool can_encode(BlockType type) {
  return type != BlockType::q5_k && type != BlockType::q8_k && type != BlockType::iq4_nl;
}

/// Encodes one block of finite values. False if a scale or minimum is too large for f16: nothing useful is written
/// then.
///   F32, F16, BF16                  rounded half to even; F16 is false beyond 65504
///   Q4_0, Q4_1, Q5_0, Q5_1, Q8_0    bit for bit ggml's reference quantizers (scheme/gguf_encode.h)
///   Q4_K, Q6_K                      the search described in gguf_k_encode.cpp: least squared error, unweighted
bool encode_block(BlockType type, const float* values, std::byte* to);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/scheme/gguf_encode.h"
#endif
