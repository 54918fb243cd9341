// compressed-tensors' pack-quantized layout: what llm-compressor writes and vLLM's users make now. Its formats of
// floats, written and read. And int-quantized, which is only read.
//
// For a layer `L` with K input and N output features and b bits (2 to 8):
//
//   L.weight_packed      I32 [N, words(K)]   row n is an LSB-first stream of its codes, 32 bits a word, zero bits at
//                                            the end: the canonical row, padded to whole words
//   L.weight_scale       F16, BF16 or F32 [N, G]; strategy channel [N, 1]; tensor [1]
//   L.weight_zero_point  I32 [words(N), G]   asymmetric only: column g is such a stream over n; tensor: I8 [1], signed
//   L.weight_shape       I64 or I32 [2]      N, K
//   L.weight_g_idx       I32 [K]             the group of each column, where actorder is "group": read, not written, as
//                                            the format's newer readers refuse that order
//
// Codes are signed integers that are stored with 2^(b−1) added, which is what the canonical form holds.
//   w[n][k] = scale · (code − zero_point);  symmetric: zero_point = 2^(b−1)
//
// Older releases left the top 32 − b·⌊32/b⌋ bits of a word idle rather than let a code straddle two (3 bits: ten codes
// and two idle bits). Both are read: they differ in width, and at 2, 4 and 8 bits not at all. Where a row is so short
// that the widths agree it is taken for a stream, which is what is written.
//
// int-quantized (W8A8) does not pack: signed codes of up to 8 bits in bytes, zero points in the same form.
//
//   L.weight             I8 [N, K]           scales, g_idx as above; tensor: a scale of shape [] too
//   L.weight_zero_point  I8, the scales' shape   asymmetric only
//
// Floats, w[n][k] = code · scale:
//
//   float-quantized       L.weight F8_E4M3 [N, K]; L.weight_scale F32, F16 or BF16 [1], [N, 1], [N, G], or for tiles of
//                         block_structure [⌈N/128⌉, ⌈K/128⌉]
//   mxfp8-quantized       L.weight F8_E4M3 [N, K]; L.weight_scale U8 [N, K/32], an exponent with 127 added
//   mxfp6-pack-quantized  L.weight_packed U8 [N, 3K/4], E2M3, LSB first; L.weight_scale as above
//   mxfp4-pack-quantized  L.weight_packed U8 [N, K/2], E2M1, the first in the low bits; L.weight_scale as above
//   nvfp4-pack-quantized  the same codes; L.weight_scale F8_E4M3 [N, K/16]; L.weight_global_scale F32 [1], a divisor:
//                         w = code · (weight_scale / weight_global_scale)
//
// Where activations were to be rounded too (to 8 bits, to the same floats), here they are not, so that results are
// those of the weights alone. Source: compressed-tensors' compressors, releases 0.6 to 0.20.
#pragma once

#include <cstddef>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::compressed_tensors_layout {

/// Words that hold `count` codes of `bits` bits, as a stream.
constexpr std::size_t words(std::size_t count, int bits) {
  const std::size_t bit_count = count % 32 * static_cast<std::size_t>(bits);
  return count / 32 * static_cast<std::size_t>(bits) + (bit_count + 31) / 32;
}

/// The same where no code straddles words.
constexpr std::size_t aligned_words(std::size_t count, int bits) {
  const std::size_t in_word = 32 / static_cast<std::size_t>(bits);
  return count / in_word + (count % in_word != 0);
}

static_assert(words(256, 3) == 24 && aligned_words(256, 3) == 26 && words(9, 4) == 2 && aligned_words(9, 4) == 2);

}  // namespace nibble::inline NIBBLE_ABI::compressed_tensors_layout
