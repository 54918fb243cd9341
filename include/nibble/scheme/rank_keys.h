// The rank of a scaled value among a large table's thresholds by one look-up, in place of a search of eight steps.
//
// The upper 16 bits of a float, its key, say its sign, exponent and seven more bits. Where no two floats of a key have
// more than one threshold between them, as in the dynamic maps, an entry for each key holds the rank of its smallest
// magnitude and where in the lower 16 bits the rank changes:
//
//     bits 0…7: rank      bits 8…24: the first lower half that has the next rank (one more, or one less below 0);
//                                    65536 where none has
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "nibble/scheme/codebook.h"
#include "nibble/scheme/rank_lines.h"

namespace nibble::inline NIBBLE_ABI {

/// The least key that has an entry of its own, of 2^−25, and the largest, of 1: what lies beyond them shares theirs.
inline constexpr std::uint32_t kFirstRankKey = 0x3300, kLastRankKey = 0x3F80;

/// Entries of a table, at 2·(key − kFirstRankKey) for a positive float and the next for a negative one, and then its
/// RankLineTable, field after field. As floats, which is what kernels gather; nothing is computed with the entries.
template <class Table>
class RankKeys {
 public:
  static constexpr std::size_t keys = 2 * (kLastRankKey - kFirstRankKey + 1);
  static constexpr std::size_t size = keys + sizeof(RankLineTable) / sizeof(float);

  constexpr RankKeys() {
    fill(false);
    fill(true);
    const auto lines = std::bit_cast<std::array<float, size - keys>>(RankLines<Table>().table());
    for (std::size_t i = 0; i < lines.size(); ++i) entries_[keys + i] = lines[i];
  }
  [[nodiscard]] constexpr const std::array<float, size>& entries() const { return entries_; }
  /// Whether no key has more than one threshold, so that the entries say all.
  [[nodiscard]] constexpr bool holds() const { return holds_; }

 private:
  /// Goes through the magnitudes of one sign upwards, key by key, and through the thresholds that they pass.
  constexpr void fill(bool negative) {
    const auto& threshold = Codebook<Table>::order().threshold;
    std::uint32_t rank = 0;  // of 0
    while (threshold[rank] < 0) ++rank;
    for (std::uint32_t key = kFirstRankKey; key <= kLastRankKey; ++key) {
      std::uint32_t entry = rank | 65536u << 8;
      for (bool found = false; has_next(rank, negative); found = true) {
        const std::uint32_t first = next(rank, negative);
        if (first >> 16 > key) break;
        if (found || first >> 16 < key || key == kFirstRankKey || key == kLastRankKey) holds_ = false;
        entry = rank | (first & 0xFFFFu) << 8;
        rank = negative ? rank - 1 : rank + 1;
      }
      entries_[2 * (key - kFirstRankKey) + (negative ? 1 : 0)] = std::bit_cast<float>(entry);
    }
    if (has_next(rank, negative)) holds_ = false;
  }
  static constexpr bool has_next(std::uint32_t rank, bool negative) {
    return negative ? rank > 0 : rank + 1 < Codebook<Table>::order().ranks;
  }
  /// The first magnitude whose rank is not `rank` any more, but the next. A rank changes above its threshold.
  static constexpr std::uint32_t next(std::uint32_t rank, bool negative) {
    const auto& threshold = Codebook<Table>::order().threshold;
    return negative ? std::bit_cast<std::uint32_t>(-threshold[rank - 1])
                    : std::bit_cast<std::uint32_t>(threshold[rank]) + 1;
  }

  std::array<float, size> entries_{};
  bool holds_ = true;
};

template <class Table>
inline constexpr RankKeys<Table> kRankKeys;

}  // namespace nibble::inline NIBBLE_ABI
