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
    for_each_piece(column, [&](std::size_t word, unsigned shift, unsigned done, unsigned mask) {
      row[word * kernels::kInterleavedRows] |= (code >> done & mask) << shift;
    });
  }
  [[nodiscard]] constexpr std::uint8_t get(const std::uint32_t* row, std::size_t column) const {
    unsigned code = 0;
    for_each_piece(column, [&](std::size_t word, unsigned shift, unsigned done, unsigned mask) {
      code |= (row[word * kernels::kInterleavedRows] >> shift & mask) << done;
    });
    return static_cast<std::uint8_t>(code);
  }

 private:
  /// Calls piece(word, shift of its bits, bits of the code before them, mask) for a column's code: once if its part is
  /// whole, else for each bit. Four columns share a shift within the four bytes of a word.
  template <class Piece>
  constexpr void for_each_piece(std::size_t column, Piece piece) const {
    const std::size_t step = column / step_columns() * step_words(), part = column % step_columns() / 4;
    const auto byte = static_cast<unsigned>(column % 4 * 8);
    const unsigned whole = 8 / bits_, spare = 8 % bits_;
    if (part < step_words() * whole) {
      piece(step + part / whole, byte + static_cast<unsigned>(part % whole) * bits_, 0u, (1u << bits_) - 1);
      return;
    }
    const auto first = static_cast<unsigned>(part - step_words() * whole) * bits_;
    for (unsigned i = 0; i < bits_; ++i)
      piece(step + (first + i) / spare, byte + whole * bits_ + (first + i) % spare, i, 1u);
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
