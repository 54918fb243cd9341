// Where the codes and parameters of the tensor-core products lie: the one definition that the packer, the unpacker and
// the kernels share.
//
// A lane of mma holds fixed places of the weights: of 16 columns by 8 rows (a row is an output), columns 2·(lane % 4),
// +1 and those 8 later, of row lane / 4. Codes are stored in that order, so that a lane's 16-byte load holds its own
// codes and no others, and nothing is exchanged. A tile of 4-bit codes is 32 rows × 32 columns, 512 bytes:
//
//   lane l     16 bytes: word j (of four) has row 8·j + l/4 of the tile and columns 8·i + 2·(l % 4) + h, i < 4, h < 2
//   affine     column i, h at bit 4·i + 16·h: what is masked out of a word is a pair of 16-bit numbers
//   codebook   column i, h at bit 8·i + 4·h: four neighbouring nibbles are a selector of byte permutations
//
// Tiles lie row tile by row tile within 32 columns. Rows are padded to 128, columns to 64; the padding's codes are 0
// and meet activations that are 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/core/abi.h"
#include "nibble/core/portability.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// A code's place: bits shift, shift + 1, … of 32-bit word `word`.
struct CodePlace {
  std::size_t word;
  unsigned shift;
};

inline constexpr std::size_t kGemmOutputs = 128;  ///< Rows of weights that a block multiplies; what rows are padded to.
inline constexpr std::size_t kGemmDepth = 64;     ///< Columns of 4 bits a step; what columns are padded to.

/// The most columns whose products of 8-bit codes, each at most 127·128, fit a 32-bit sum.
inline constexpr std::size_t kMaxInt8Columns = 0x7fffffff / (127 * 128);

NIBBLE_HD constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

/// 4-bit codes of rows × cols: (row, column) → (word, shift), one to one.
struct PackedLayout {
  std::size_t rows, cols;
  bool is_codebook;

  [[nodiscard]] NIBBLE_HD constexpr std::size_t padded_rows() const { return round_up(rows, kGemmOutputs); }
  [[nodiscard]] NIBBLE_HD constexpr std::size_t padded_cols() const { return round_up(cols, kGemmDepth); }
  [[nodiscard]] NIBBLE_HD constexpr std::size_t words() const { return padded_rows() * padded_cols() / 8; }
  [[nodiscard]] NIBBLE_HD constexpr CodePlace place(std::size_t row, std::size_t col) const {
    const std::size_t tile = col / 32 * (padded_rows() / 32) + row / 32;
    const std::size_t lane = row % 8 * 4 + col % 8 / 2, j = row % 32 / 8;
    const auto i = static_cast<unsigned>(col % 32 / 8), h = static_cast<unsigned>(col % 2);
    return {tile * 128 + lane * 4 + j, is_codebook ? 8 * i + 4 * h : 4 * i + 16 * h};
  }
};

/// 8-bit codes, signed: m16n8k32 wants columns 4·(lane % 4) … +3 and those 16 later of row lane / 4. A tile is 8 rows ×
/// 64 columns; a lane's four words are columns 16·j + 4·(lane % 4) … +3. Columns are padded to 128.
struct PackedInt8Layout {
  std::size_t rows, cols;

  [[nodiscard]] NIBBLE_HD constexpr std::size_t padded_rows() const { return round_up(rows, kGemmOutputs); }
  [[nodiscard]] NIBBLE_HD constexpr std::size_t padded_cols() const { return round_up(cols, 128); }
  [[nodiscard]] NIBBLE_HD constexpr std::size_t words() const { return padded_rows() * padded_cols() / 4; }
  [[nodiscard]] NIBBLE_HD constexpr CodePlace place(std::size_t row, std::size_t col) const {
    const std::size_t tile = col / 64 * (padded_rows() / 8) + row / 8;
    const std::size_t lane = row % 8 * 4 + col % 16 / 4, j = col % 64 / 16;
    return {tile * 128 + lane * 4 + j, static_cast<unsigned>(col % 4 * 8)};
  }
};

/// Scales lie in the order in which a lane multiplies its sums: rows 8·j + 2·(lane % 4), +1 of 32, j < 4, side by side.
NIBBLE_HD constexpr std::size_t scale_place(std::size_t row) {
  return row / 32 * 32 + row % 8 / 2 * 8 + row % 32 / 8 * 2 + row % 2;
}
/// Zero points, one byte each, in the order in which a lane decodes: rows 8·j + lane / 4 of 32 side by side.
NIBBLE_HD constexpr std::size_t zero_point_place(std::size_t row) { return row / 32 * 32 + row % 8 * 4 + row % 32 / 8; }

/// Every bit of every word of a padded matrix belongs to one code.
template <class Layout>
constexpr bool layout_is_a_bijection(Layout layout, int bits) {
  constexpr std::size_t most = 4096;
  if (layout.words() > most) return false;
  std::uint32_t used[most] = {};
  for (std::size_t row = 0; row < layout.padded_rows(); ++row)
    for (std::size_t col = 0; col < layout.padded_cols(); ++col) {
      const CodePlace at = layout.place(row, col);
      const std::uint32_t mask = ((1u << bits) - 1u) << at.shift;
      if (at.word >= layout.words() || (used[at.word] & mask) != 0) return false;
      used[at.word] |= mask;
    }
  for (std::size_t word = 0; word < layout.words(); ++word)
    if (used[word] != 0xffffffffu) return false;
  return true;
}
constexpr bool parameter_places_are_permutations() {
  std::uint64_t scales = 0, zero_points = 0;
  for (std::size_t row = 0; row < 32; ++row) {
    scales |= std::uint64_t{1} << scale_place(row);
    zero_points |= std::uint64_t{1} << zero_point_place(row);
  }
  return scales == 0xffffffffu && zero_points == 0xffffffffu;
}
static_assert(layout_is_a_bijection(PackedLayout{1, 33, false}, 4) &&
              layout_is_a_bijection(PackedLayout{128, 64, true}, 4));
static_assert(layout_is_a_bijection(PackedInt8Layout{3, 128}, 8));
static_assert(parameter_places_are_permutations());

}  // namespace nibble::inline NIBBLE_ABI::cuda
