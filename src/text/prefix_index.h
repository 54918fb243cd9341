// Which strings of a set are prefixes of a text: of vocabularies, user-defined symbols and added tokens.
//
// The strings lie sorted, and each byte of the text narrows the range of those that still agree. This takes four bytes
// a string beside the strings, whatever they are; a trie's memory would follow their total length.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::text {

class PrefixIndex {
 public:
  static constexpr std::uint32_t kNone = 0xffffffff;

  PrefixIndex() = default;
  /// Each string with a value of the caller's. The strings' bytes must outlive the index; empty ones are left out, and
  /// of equal ones the first counts. O(n log n).
  explicit PrefixIndex(std::vector<std::pair<std::string_view, std::uint32_t>> entries);

  [[nodiscard]] bool empty() const { return entries_.empty(); }
  /// Calls `found(length, value)` for each string that `text` begins with, the shortest first.
  template <class Found>
  void each_prefix(std::string_view text, Found&& found) const {
    if (text.empty() || entries_.empty()) return;
    const auto first = static_cast<unsigned char>(text[0]);
    std::size_t low = begin_[first], high = begin_[first + 1u];
    for (std::size_t depth = 1; low < high; ++depth) {
      if (entries_[low].first.size() == depth) {
        found(depth, entries_[low].second);
        ++low;
      }
      if (depth == text.size()) return;
      narrow(low, high, depth, static_cast<unsigned char>(text[depth]));
    }
  }
  /// The longest of them as (length, value), or (0, kNone).
  [[nodiscard]] std::pair<std::size_t, std::uint32_t> longest_prefix(std::string_view text) const {
    std::pair<std::size_t, std::uint32_t> longest{0, kNone};
    each_prefix(text, [&](std::size_t length, std::uint32_t value) { longest = {length, value}; });
    return longest;
  }
  /// The value of a string, or kNone.
  [[nodiscard]] std::uint32_t find(std::string_view text) const;

 private:
  /// To the strings whose byte at `depth` is `byte`; all of the range are longer than that.
  void narrow(std::size_t& low, std::size_t& high, std::size_t depth, unsigned char byte) const;

  std::vector<std::pair<std::string_view, std::uint32_t>> entries_;  ///< Sorted.
  std::array<std::size_t, 257> begin_{};                             ///< Where each first byte begins.
};

}  // namespace nibble::inline NIBBLE_ABI::text
