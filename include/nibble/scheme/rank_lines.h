// The rank of a scaled value by a line, where a table's thresholds lie on few of them, as the decades of the dynamic
// maps do: then a vector unit needs no look-up in memory.
//
// A piece is a run of ranks whose thresholds are evenly spaced, up to rounding; y = fma(magnitude, slope, intercept),
// no more than the piece's cap, is 256 + the rank + how far the value is towards the next. Between 256 and 512 a float
// has its rank in bits 15…22 and that fraction in the 15 bits below.
//
// Why the rank is right: y never falls as the magnitude grows, rounding included. So if y is below n + g at the last
// magnitude of rank n − 1, and above n − g at the first of rank n, for each threshold of the piece, a y that is not
// within g of a whole number has the rank for its whole part. holds() says that this is so; where y is within g,
// RankKeys say the rank.
//
// Negative values: the first magnitude of the next rank is one ulp less than for positive ones. An ulp is added to
// their magnitudes, and then the thresholds of both signs are the same.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "nibble/scheme/codebook.h"

namespace nibble::inline NIBBLE_ABI {

/// g, in units of the fraction's last bit.
inline constexpr std::uint32_t kRankLineGuard = 4;

/// What a kernel reads; integers as the floats of the same bits. A magnitude's exponent, as it lies in the float,
/// modulo 32: of 2^−25 (what is smaller is taken for it) to 1. There is at most one change of piece within an exponent.
struct RankLineTable {
  std::array<float, 32> split{};                      ///< By exponent: above it the next piece applies.
  std::array<float, 32> piece{};                      ///< By exponent: the piece up to there, an integer.
  std::array<float, 16> slope{}, intercept{}, cap{};  ///< By piece.
  float zero = 0;    ///< The rank of 0, an integer: a negative value's is so much less as a positive one's is more.
  float lowest = 0;  ///< Values below it are taken for it: they have rank 0, and the lines know no end.
  float holds = 0;   ///< 1, or 0: there are no such lines.
};

template <class Table>
class RankLines {
 public:
  constexpr RankLines() {
    while (order_.threshold[zero_] < 0) ++zero_;
    count_ = order_.ranks - 1 - zero_;
    table_.zero = std::bit_cast<float>(static_cast<std::uint32_t>(zero_));
    table_.split.fill(std::numeric_limits<float>::infinity());
    bool ok = is_symmetric();
    for (std::size_t rank = 0, piece = 0; ok && rank <= count_; ++piece) {
      ok = piece < table_.slope.size() && add_piece(piece, rank);
      rank = last_ + 1;
    }
    table_.lowest = zero_ < count_ ? -before(threshold(zero_)) : -std::numeric_limits<float>::infinity();
    table_.holds = ok ? 1.0f : 0.0f;
  }
  [[nodiscard]] constexpr const RankLineTable& table() const { return table_; }
  [[nodiscard]] constexpr bool holds() const { return table_.holds != 0; }

 private:
  static constexpr std::uint32_t kFirstExponent = 127 - 25, kLastExponent = 127;
  static constexpr float kUnit = 0x1p-15f;

  /// The last magnitude of positive values with that rank, counted from that of 0.
  [[nodiscard]] constexpr float threshold(std::size_t rank) const { return order_.threshold[zero_ + rank]; }
  static constexpr float after(float x) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) + 1); }
  static constexpr float before(float x) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) - 1); }
  /// The first magnitude that has the rank.
  [[nodiscard]] constexpr float first(std::size_t rank) const { return rank == 0 ? 0.0f : after(threshold(rank - 1)); }

  /// Whether negative thresholds mirror the positive ones, of which there are as many or more.
  [[nodiscard]] constexpr bool is_symmetric() const {
    if (zero_ > count_) return false;
    for (std::size_t r = 0; r < zero_; ++r)
      if (order_.threshold[zero_ - 1 - r] != -threshold(r)) return false;
    return true;
  }

  /// The longest piece that begins at a rank, up to last_; false if it ends in an exponent that has a split already.
  constexpr bool add_piece(std::size_t piece, std::size_t rank) {
    last_ = rank;
    while (last_ < count_ && is_even(rank, last_)) ++last_;
    if (!fit(piece, rank)) {
      last_ = rank;
      fit(piece, rank);
    }
    if (last_ == count_) {
      for (std::uint32_t e = end_; e <= kLastExponent; ++e) table_.piece[e % 32] = as_bits(piece);
      return true;
    }
    const std::uint32_t exponent = std::bit_cast<std::uint32_t>(threshold(last_)) >> 23;
    if (exponent < end_ || exponent > kLastExponent) return false;
    for (std::uint32_t e = end_; e <= exponent; ++e) table_.piece[e % 32] = as_bits(piece);
    table_.split[exponent % 32] = threshold(last_);
    end_ = exponent + 1;
    return true;
  }
  static constexpr float as_bits(std::size_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x)); }

  /// Whether the threshold after `rank` is as far from the one before as the first two of the piece are.
  [[nodiscard]] constexpr bool is_even(std::size_t begin, std::size_t rank) const {
    if (rank < begin + 2) return true;
    const auto gap = [&](std::size_t r) { return double{threshold(r)} - double{threshold(r - 1)}; };
    const double difference = gap(rank) - gap(begin + 1);
    return (difference < 0 ? -difference : difference) <= 0x1p-21 * double{threshold(rank)};
  }

  /// The line through the thresholds of ranks [begin, last_), and whether it serves.
  constexpr bool fit(std::size_t piece, std::size_t begin) {
    float& slope = table_.slope[piece];
    float& intercept = table_.intercept[piece];
    const double base = 256 + static_cast<double>(begin);
    table_.cap[piece] = static_cast<float>(256.5 + static_cast<double>(last_));
    slope = 0;
    intercept = static_cast<float>(base + 0.5);
    if (last_ == begin) return true;
    const double low = threshold(begin), high = threshold(last_ - 1);
    if (low <= double{first(begin)} || (last_ - begin > 1 && high <= low)) return false;
    const double rise = last_ - begin == 1 ? 0.5 / (low - double{first(begin)})  // half of its rank lies above
                                           : static_cast<double>(last_ - begin - 1) / (high - low);
    if (!(rise <= 0x1p40)) return false;
    slope = static_cast<float>(rise);
    intercept = static_cast<float>(base + 1 - double{slope} * low);
    // One unit less than the guard: fma is imitated in double, which may round twice.
    constexpr double guard = (kRankLineGuard - 1) * double{kUnit};
    if (at(piece, first(begin)) < base) return false;
    for (std::size_t r = begin; r < last_; ++r) {
      const double whole = 257 + static_cast<double>(r);
      if (at(piece, threshold(r)) >= whole + guard || at(piece, after(threshold(r))) <= whole - guard) return false;
    }
    return true;
  }
  [[nodiscard]] constexpr double at(std::size_t piece, float x) const {
    return double{static_cast<float>(double{table_.slope[piece]} * double{x} + double{table_.intercept[piece]})};
  }

  const CodebookOrder<256>& order_ = Codebook<Table>::order();
  std::size_t zero_ = 0;                ///< The rank of 0.
  std::size_t count_ = 0;               ///< Thresholds above 0.
  std::size_t last_ = 0;                ///< The last rank of the piece.
  std::uint32_t end_ = kFirstExponent;  ///< Exponents below it have their piece.
  RankLineTable table_;
};

}  // namespace nibble::inline NIBBLE_ABI
