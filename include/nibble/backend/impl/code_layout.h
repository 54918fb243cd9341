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
  /// `bits`: 2, 3, 4 or 8.
  explicit constexpr CodeLayout(int bits) : bits_(bits) {}

  /// The fewest columns that fill whole words, and those words.
  [[nodiscard]] constexpr std::size_t step_columns() const {
    return bits_ == 3 ? 32 : 32 / static_cast<unsigned>(bits_);
  }
  [[nodiscard]] constexpr std::size_t step_words() const { return bits_ == 3 ? 3 : 1; }
  /// Words of a row of `depth` columns, a multiple of step_columns().
  [[nodiscard]] constexpr std::size_t words(std::size_t depth) const { return depth / step_columns() * step_words(); }

  /// Sets a code of a row whose words are zero.
  constexpr void put(std::uint32_t* row, std::size_t column, std::uint8_t code) const {
    const Place at = place(column);
    row[at.word * kernels::kInterleavedRows] |= (code & mask()) << at.shift;
    if (bits_ == 3)
      row[at.third_word * kernels::kInterleavedRows] |= static_cast<std::uint32_t>(code >> 2) << at.third_shift;
  }
  [[nodiscard]] constexpr std::uint8_t get(const std::uint32_t* row, std::size_t column) const {
    const Place at = place(column);
    std::uint32_t code = row[at.word * kernels::kInterleavedRows] >> at.shift & mask();
    if (bits_ == 3) code |= (row[at.third_word * kernels::kInterleavedRows] >> at.third_shift & 1) << 2;
    return static_cast<std::uint8_t>(code);
  }

 private:
  struct Place {
    std::size_t word, third_word;
    unsigned shift, third_shift;
  };
  [[nodiscard]] constexpr std::uint32_t mask() const { return bits_ == 3 ? 3 : (1u << bits_) - 1; }
  /// Four columns share a shift within the four bytes of a word; the next four have the next bits of the same bytes.
  [[nodiscard]] constexpr Place place(std::size_t column) const {
    const std::size_t step = column / step_columns() * step_words(), part = column % step_columns() / 4;
    const auto byte = static_cast<unsigned>(column % 4 * 8);
    if (bits_ != 3) return {step, 0, byte + static_cast<unsigned>(part) * static_cast<unsigned>(bits_), 0};
    return {step + part / 4, step + 2, byte + static_cast<unsigned>(part % 4 * 2), byte + static_cast<unsigned>(part)};
  }

  int bits_;
};

/// Every code of a step comes back whatever its neighbours are: no two share a bit.
constexpr bool code_layout_is_a_bijection(int bits) {
  const CodeLayout layout(bits);
  const auto top = static_cast<std::uint8_t>((1u << bits) - 1);
  std::uint32_t words[3 * kernels::kInterleavedRows] = {};
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
              code_layout_is_a_bijection(8));

}  // namespace nibble::inline NIBBLE_ABI
