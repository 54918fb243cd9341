// The block codecs of GGUF: runs of 32 or 256 values of a row, codes and scales side by side in one small struct.
//
// Types with one scale (Q4_0, Q5_0, Q8_0; Q3_K, Q6_K, Q8_K) are affine with a constant zero point; those with a minimum
// (Q4_1, Q5_1; Q2_K, Q4_K, Q5_K) have a real-valued offset, which no integer zero point can stand for; IQ4_NL, IQ4_XS,
// MXFP4 and NVFP4 have a codebook of integers, and IQ1, IQ2 and IQ3 points of a lattice. Their bytes are drawn in
// scheme/gguf_small_blocks.h, gguf_super_blocks.h, gguf_grid_blocks.h and gguf_float_blocks.h.
//
// A new type is its struct there, its number and its line in visit_block() here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

#include "nibble/core/float_types.h"
#include "nibble/core/portability.h"
#include "nibble/scheme/gguf_float_blocks.h"
#include "nibble/scheme/gguf_grid_blocks.h"
#include "nibble/scheme/gguf_small_blocks.h"
#include "nibble/scheme/gguf_super_blocks.h"

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
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42,
};

inline constexpr std::array kBlockTypes{
    BlockType::f32,     BlockType::f16,    BlockType::bf16,   BlockType::q4_0,    BlockType::q4_1,  BlockType::q5_0,
    BlockType::q5_1,    BlockType::q8_0,   BlockType::q2_k,   BlockType::q3_k,    BlockType::q4_k,  BlockType::q5_k,
    BlockType::q6_k,    BlockType::q8_k,   BlockType::iq4_nl, BlockType::iq4_xs,  BlockType::iq1_s, BlockType::iq1_m,
    BlockType::iq2_xxs, BlockType::iq2_xs, BlockType::iq2_s,  BlockType::iq3_xxs, BlockType::iq3_s, BlockType::tq1_0,
    BlockType::tq2_0,   BlockType::mxfp4,  BlockType::nvfp4,  BlockType::q1_0,    BlockType::q2_0};

namespace blocks {

/// Floats as blocks of one.
template <class T>
struct One {
  static constexpr std::string_view name = std::is_same_v<T, f16> ? "F16" : std::is_same_v<T, bf16> ? "BF16" : "F32";
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

static_assert(sizeof(One<f16>) == 2);

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
    case BlockType::q2_k: return visit(blocks::Q2_K{});
    case BlockType::q3_k: return visit(blocks::Q3_K{});
    case BlockType::q4_k: return visit(blocks::Q4_K{});
    case BlockType::q5_k: return visit(blocks::Q5_K{});
    case BlockType::q6_k: return visit(blocks::Q6_K{});
    case BlockType::q8_k: return visit(blocks::Q8_K{});
    case BlockType::iq4_nl: return visit(blocks::IQ4_NL{});
    case BlockType::iq4_xs: return visit(blocks::IQ4_XS{});
    case BlockType::iq1_s: return visit(blocks::IQ1_S{});
    case BlockType::iq1_m: return visit(blocks::IQ1_M{});
    case BlockType::iq2_xxs: return visit(blocks::IQ2_XXS{});
    case BlockType::iq2_xs: return visit(blocks::IQ2_XS{});
    case BlockType::iq2_s: return visit(blocks::IQ2_S{});
    case BlockType::iq3_xxs: return visit(blocks::IQ3_XXS{});
    case BlockType::iq3_s: return visit(blocks::IQ3_S{});
    case BlockType::tq1_0: return visit(blocks::TQ1_0{});
    case BlockType::tq2_0: return visit(blocks::TQ2_0{});
    case BlockType::mxfp4: return visit(blocks::MXFP4{});
    case BlockType::nvfp4: return visit(blocks::NVFP4{});
    case BlockType::q1_0: return visit(blocks::Q1_0{});
    case BlockType::q2_0: return visit(blocks::Q2_0{});
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

/// Whether blocks of a type are decoded by the host alone.
template <class Block>
inline constexpr bool is_host_only = requires {
  Block::host_only;
};
constexpr bool decodes_on_device(BlockType type) {
  return visit_block(type, [](auto block) { return !is_host_only<decltype(block)>; });
}

/// Whether the type is a plain float.
constexpr bool is_float(BlockType type) {
  return type == BlockType::f32 || type == BlockType::f16 || type == BlockType::bf16;
}

/// ggml's name: "Q4_K".
constexpr std::string_view name_of(BlockType type) {
  return visit_block(type, [](auto block) { return decltype(block)::name; });
}
/// The type of that name, upper or lower case; nothing for a name that is none.
std::optional<BlockType> parse_block_type(std::string_view name);

/// Decodes whole blocks: `count` is a multiple of block_size(type). `from` needs no alignment.
void decode_blocks(BlockType type, const std::byte* from, std::size_t count, float* to);

/// Whether encode_block knows the type: all but Q8_K, which only ever holds activations, and those that are only read:
/// points of a lattice, one bit and ternary values, and NVFP4, whose scales depend on the whole tensor.
constexpr bool can_encode(BlockType type) {
  return is_float(type) || visit_block(type, [](auto block) {
           return requires(const std::uint8_t* codes) { block.set_codes(codes); };
         });
}

/// Encodes one block of finite values. False if a scale or minimum is too large for f16: nothing useful is written
/// then.
///   F32, F16, BF16                  rounded half to even; F16 is false beyond 65504
///   MXFP4                           the best of three powers of two around ggml's; never false
///   Q4_0, Q4_1, Q5_0, Q5_1, Q8_0    bit for bit ggml's reference quantizers (scheme/gguf_encode.h)
///   the others                      least squared error, by the searches of scheme/impl/gguf_fit.h
bool encode_block(BlockType type, const float* values, std::byte* to);

/// The same by the least squared error that counts each value `weights` times (finite, not negative; a thousandth of
/// their mean more), whatever the type: a weight is worth what its input is, the mean square of the activations of its
/// column. Where all are 0, each counts once.
bool encode_block(BlockType type, const float* values, const float* weights, std::byte* to);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/scheme/gguf_encode.h"
#endif
