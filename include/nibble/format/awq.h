// AWQ's layouts, 4 bits: GEMM and GEMV (read and written), and the one that AutoAWQ calls GEMV-fast and llm-awq v2
// (read).
//
// For a layer `L` with K input and N output features and G = K/group_size groups. Zero points are true values, and
// w[n][k] = scale · (code − zero_point). A config with zero_point false has symmetric codes: every zero point is 8.
//
//   gemm       L.qweight I32 [K, N/8]    nibble i of word c is column n = 8c + kOrder[i]:
//                                        bits 31…0: [n+7 | n+5 | n+3 | n+1 | n+6 | n+4 | n+2 | n]
//              L.qzeros  I32 [G, N/8]    in the same order
//              L.scales  F16 [G, N]
//
//   gemv       L.qweight I32 [N, K/8]    natural order: code k at nibble k%8 of word k/8
//              L.qzeros  I32 [N, Z]      natural order over the groups
//              L.scales  F16 [N, 8·Z]    both zero beyond group G; Z = gemv_zeros_width(K, group_size)
//
//   gemv_fast  L.qweight I16 [N/4, K]    four rows interleaved in blocks of 64 columns, see fast_position()
//              L.scales  F16 [8·Z, N]    zero beyond group G
//              L.qzeros  F16 [8·Z, N]    −scale·zero_point, rounded (llm-awq: L.scaled_zeros); w = code·scale + stored.
//                                        The zero point is the whole number nearest to −stored/scale.
//
// Sources: Lin et al. 2024, AWQ; the packing of AutoAWQ and llm-awq.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::awq_layout {

/// GEMM: nibble i of a word holds column kOrder[i] of its eight.
inline constexpr std::array<std::uint8_t, 8> kOrder{0, 2, 4, 6, 1, 3, 5, 7};

/// GEMM: the nibble that holds column j of the eight.
constexpr std::size_t nibble_of_column(std::size_t j) { return j % 2 * 4 + j / 2; }

/// GEMV: words of zero points in a row. The group sizes 32 and 64 are padded further, as the original kernel reads
/// them.
constexpr std::size_t gemv_zeros_width(std::size_t cols, std::size_t group_size) {
  const std::size_t multiple = group_size >= 128 ? 1 : group_size >= 64 ? 2 : 4;
  const std::size_t groups = cols / group_size;
  const std::size_t words = groups / 8 + (groups % 8 != 0);
  return (words / multiple + (words % multiple != 0)) * multiple;
}

/// GEMV-fast: where the code of row n, column k is.
struct FastPosition {
  std::size_t row;     ///< Of qweight.
  std::size_t column;  ///< Of qweight: a 16-bit word.
  int nibble;          ///< 0: the lowest.
};

/// Word e of a block of 64 holds row 4R + e/16; with w = e%16 its nibble i is column 32·(w/8) + 8i + w%8 of the block.
constexpr FastPosition fast_position(std::size_t n, std::size_t k) {
  const std::size_t in_block = k % 64;
  const std::size_t w = in_block / 32 * 8 + in_block % 8;
  return {n / 4, k / 64 * 64 + n % 4 * 16 + w, static_cast<int>(in_block % 32 / 8)};
}

namespace detail {

constexpr bool order_is_a_bijection() {
  for (std::size_t j = 0; j < 8; ++j)
    if (kOrder[nibble_of_column(j)] != j) return false;
  return true;
}

/// Four rows of 64 columns fill 64 words of four nibbles, each once.
constexpr bool fast_position_is_a_bijection() {
  std::array<bool, 256> taken{};
  for (std::size_t n = 0; n < 4; ++n)
    for (std::size_t k = 0; k < 64; ++k) {
      const FastPosition p = fast_position(n, k);
      const std::size_t slot = p.column * 4 + static_cast<std::size_t>(p.nibble);
      if (p.row != 0 || slot >= taken.size() || taken[slot]) return false;
      taken[slot] = true;
    }
  return true;
}

static_assert(order_is_a_bijection() && fast_position_is_a_bijection());
static_assert(gemv_zeros_width(4096, 128) == 4 && gemv_zeros_width(4096, 64) == 8 && gemv_zeros_width(128, 32) == 4);

}  // namespace detail

}  // namespace nibble::inline NIBBLE_ABI::awq_layout
