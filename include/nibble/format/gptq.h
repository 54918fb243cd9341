// GPTQ's layout, v1 and v2: what AutoGPTQ and GPTQModel write and vLLM and transformers read.
//
// For a layer `L` with K input and N output features, b bits (2, 3, 4 or 8) and G = ⌈K/group_size⌉ groups:
//
//   L.qweight  I32 [K·b/32, N]   column n of it is the LSB-first stream of row n's codes, 32 bits a word:
//
//              b = 4   word R of column n: [k=8R+7 | … | 8R+1 | 8R]        (code 8R in the low bits)
//              b = 3   32 codes in 3 words; codes 10 and 21 straddle two:
//                      word 0: [c10 lo2 | c9 | … | c0]  word 1: [c21 lo1 | c20 | … | c11 | c10 hi1]
//                      word 2: [c31 | … | c22 | c21 hi2]
//
//   L.qzeros   I32 [G, N·b/32]   row g is the same kind of stream over n: zero_point (v2) or zero_point − 1 (v1)
//   L.scales   F16 [G, N]        F32 or BF16 in files of some older writers
//   L.g_idx    I32 [K]           the group of each column; old files may lack it: column/group_size
//
//   w[n][k] = scales[g][n] · (code[n][k] − zero_point[g][n]),  g = g_idx[k]
//
// So the canonical row, a LSB-first stream too, is a column of qweight read downwards: a transposition of words.
//
// v1 takes 1 from each zero point, modulo 2^b: a zero point of 0 is stored as 2^b − 1. GPTQModel instead takes 1 from
// each field of the word in one subtraction (of 0x11111111 at 4 bits), where a field of 0 borrows from its neighbour;
// one addition gives it all back. The two differ only where a zero point is 0. We write the former, read each from the
// writer that makes it, and advise v2 where a zero point is 0.
// Sources: Frantar et al. 2023, GPTQ; the packing of AutoGPTQ and GPTQModel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::gptq_layout {

/// Whether GPTQ stores codes of this width.
constexpr bool has_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

/// Codes whose stream ends on a word: K and N must be multiples.
constexpr std::size_t codes_per_unit(int bits) { return bits == 3 ? 32 : 32 / static_cast<std::size_t>(bits); }

/// The stored field of a zero point in v1, and back.
constexpr std::uint8_t v1_field(std::uint8_t zero_point, int bits) {
  return static_cast<std::uint8_t>((zero_point - 1u) & ((1u << bits) - 1u));
}
constexpr std::uint8_t v1_zero_point(std::uint8_t field, int bits) {
  return static_cast<std::uint8_t>((field + 1u) & ((1u << bits) - 1u));
}

/// 1 in each field of a word: what GPTQModel subtracts at once. Not at 3 bits, whose fields straddle words: there it
/// goes field by field too.
constexpr std::uint32_t word_of_ones(int bits) {
  return bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : bits == 8 ? 0x01010101u : 0u;
}

static_assert(v1_field(0, 4) == 15 && v1_zero_point(15, 4) == 0 && v1_zero_point(v1_field(128, 8), 8) == 128);
static_assert(0x00000050u - word_of_ones(4) == 0xEEEEEF3Fu);  // zeros 0, 5, 0 …: the first borrows from the second

}  // namespace nibble::inline NIBBLE_ABI::gptq_layout
