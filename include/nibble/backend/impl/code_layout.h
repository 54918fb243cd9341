// Where a code lies in the words of an interleaved panel: the bijection that packing, unpacking and the kernels share
// (the picture is InterleavedPanel's in cpu/kernels.h, the kernels' side cpu/generic/code_words.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/backend/impl/cpu/kernels.h"

namespace nibble::inline NIBBLE_ABI {

/// The codes of one row of a panel, by column: words lie kInterleavedRows apart.
class CodeLayout {
 public:
  /// `bits`: 2 … 8.
  explicit constexpr CodeLayout(int bits) : bits_(static_cast<unsigned>(bits)) {}

  /// The fewest columns that fill whole words, and those words.
  [[nodiscard]] constexpr std::size_t step_columns() const { return 32 / (bits_ & (~bits_ + 1)); }
  [[nodiscard]] constexpr std::size_t step_words() const { return step_columns() * bits_ / 32; }
  /// Words of a row of `depth` columns, a multiple of step_columns().
  [[nodiscard]] constexpr std::size_t words(std::size_t depth) const { return depth / step_columns() * step_words(); }

  /// Sets a code of a row whose words are zero.
  constexpr void put(std::uint32_t* row, std::size_t column, std::uint8_t code) const {
    for (unsigned i = 0; i < bits_; ++i) {
      const Place at = place(column, i);
      row[at.word * kernels::kInterleavedRows] |= (static_cast<std::uint32_t>(code) >> i & 1u) << at.bit;
    }
  }
  [[nodiscard]] constexpr std::uint8_t get(const std::uint32_t* row, std::size_t column) const {
    const Place first = place(column, 0);
    if (is_whole(column))
      return static_cast<std::uint8_t>(row[first.word * kernels::kInterleavedRows] >> first.bit & ((1u << bits_) - 1));
    unsigned code = 0;
    for (unsigned i = 0; i < bits_; ++i) {
      const Place at = place(column, i);
      code |= (row[at.word * kernels::kInterleavedRows] >> at.bit & 1u) << i;
    }
    return static_cast<std::uint8_t>(code);
  }

 private:
  struct Place {
    std::size_t word;
    unsigned bit;
  };
  [[nodiscard]] constexpr std::size_t part_of(std::size_t column) const { return column % step_columns() / 4; }
  /// Whether a word holds all of a column's code.
  [[nodiscard]] constexpr bool is_whole(std::size_t column) const {
    return part_of(column) < step_words() * (8 / bits_);
  }
  /// Of bit i of a column's code. Four columns lie alike in the four bytes of a word.
  [[nodiscard]] constexpr Place place(std::size_t column, unsigned i) const {
    const std::size_t step = column / step_columns() * step_words(), part = part_of(column);
    const auto byte = static_cast<unsigned>(column % 4 * 8);
    const unsigned whole = 8 / bits_, spare = 8 % bits_;
    if (is_whole(column)) return {step + part / whole, byte + static_cast<unsigned>(part % whole) * bits_ + i};
    const unsigned bit = static_cast<unsigned>(part - step_words() * whole) * bits_ + i;  // of all spread parts
    return {step + bit / spare, byte + whole * bits_ + bit % spare};
  }

  unsigned bits_;
};

/// Every code of a step comes back whatever its neighbours are: no two share a bit.
constexpr bool code_layout_is_a_bijection(int bits) {
  const CodeLayout layout(bits);
  const auto top = static_cast<std::uint8_t>((1u << bits) - 1);
  std::uint32_t words[7 * kernels::kInterleavedRows] = {};
  for (std::size_t k = 0; k < layout.step_columns(); ++k) {
    if (layout.get(words, k) != 0) return false;
    layout.put(words, k, top);
    if (layout.get(words, k) != top) return false;
  }
  for (std::size_t w = 0; w < layout.step_words(); ++w)
    if (words[w * kernels::kInterleavedRows] != 0xFFFFFFFFu) return false;
  return true;
}
static_assert(code_layout_is_a_bijection(2) && code_layout_is_a_bijection(3) && code_layout_is_a_bijection(4) &&
              code_layout_is_a_bijection(5) && code_layout_is_a_bijection(6) && code_layout_is_a_bijection(7) &&
              code_layout_is_a_bijection(8));

}  // namespace nibble::inline NIBBLE_ABI
