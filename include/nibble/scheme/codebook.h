// Codebook schemes: value = codebook[code] · absmax of the block.
//
// A table is all that a new one needs: the order of its values and the thresholds between them are derived here, never
// typed in. The scaled value is x·(1/absmax), as bitsandbytes computes it, and code k+1 is chosen over k iff
// x > (value[k] + value[k+1])/2 in float.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "nibble/core/portability.h"
#include "nibble/scheme/range.h"

namespace nibble::inline NIBBLE_ABI {

/// NormalFloat 4 (Dettmers et al. 2023, QLoRA, appendix E): quantiles of N(0,1) with an exact zero. Exact float32
/// values of bitsandbytes.
struct nf4 {
  static constexpr std::string_view name = "nf4";
  NIBBLE_HD static constexpr std::array<float, 16> values() {
    return {-1.0f,
            -0.6961928009986877f,
            -0.5250730514526367f,
            -0.39491748809814453f,
            -0.28444138169288635f,
            -0.18477343022823334f,
            -0.09105003625154495f,
            0.0f,
            0.07958029955625534f,
            0.16093020141124725f,
            0.24611230194568634f,
            0.33791524171829224f,
            0.44070982933044434f,
            0.5626170039176941f,
            0.7229568362236023f,
            1.0f};
  }
};

/// bitsandbytes' 4-bit float: bit 3 is the sign, and the codes are not in the order of their values. Not OCP E2M1.
struct fp4 {
  static constexpr std::string_view name = "fp4";
  NIBBLE_HD static constexpr std::array<float, 16> values() {
    constexpr std::array<float, 8> half{0.0f, 0.0052083335f, 2.0f / 3, 1.0f, 1.0f / 3, 0.5f, 1.0f / 6, 0.25f};
    std::array<float, 16> all{};
    for (std::size_t i = 0; i < 8; ++i) {
      all[i] = half[i];
      all[i + 8] = -half[i];
    }
    return all;
  }
};

/// The 8-bit dynamic map (Dettmers 2016; bitsandbytes' create_dynamic_map): seven decades, each with twice the
/// steps of the one below.
template <bool Signed>
struct dynamic_map {
  static constexpr std::string_view name = Signed ? "dynamic8" : "dynamic8-unsigned";
  NIBBLE_HD static constexpr std::array<float, 256> values() {
    std::array<float, 256> all{};
    std::size_t n = 0;
    constexpr std::array<float, 7> decade{1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    for (int i = 0; i < 7; ++i) {
      const int intervals = 1 << (Signed ? i : i + 1);
      // torch.linspace: counted from the nearer end, in float.
      const float step = (1.0f - 0.1f) / static_cast<float>(intervals);
      const auto point = [&](int k) {
        return k < (intervals + 1) / 2 ? 0.1f + step * static_cast<float>(k)
                                       : 1.0f - step * static_cast<float>(intervals - k);
      };
      for (int k = 0; k < intervals; ++k) {
        const float middle = (point(k) + point(k + 1)) / 2 * decade[static_cast<std::size_t>(i)];
        all[n++] = middle;
        if (Signed) all[n++] = -middle;
      }
    }
    all[n++] = 0.0f;
    all[n++] = 1.0f;
    for (std::size_t i = 1; i < n; ++i)  // insertion sort: constexpr, and run only at compile time
      for (std::size_t j = i; j > 0 && all[j] < all[j - 1]; --j) {
        const float swapped = all[j];
        all[j] = all[j - 1];
        all[j - 1] = swapped;
      }
    return all;
  }
};

/// The values of a table in ascending order: `code[r]` is the code of the r-th smallest value (of +0 and −0 the
/// former), and a scaled x has rank = the number of thresholds below it. Unused tail thresholds are +infinity.
template <std::size_t N>
struct CodebookOrder {
  std::array<float, N> threshold{};
  std::array<std::uint8_t, N> code{};
  std::size_t ranks = 0;

  constexpr explicit CodebookOrder(const std::array<float, N>& values) {
    std::array<bool, N> taken{};
    std::array<float, N> sorted{};
    for (std::size_t done = 0; done < N; ++done) {
      std::size_t least = N;
      for (std::size_t i = 0; i < N; ++i)
        if (!taken[i] && (least == N || values[i] < values[least])) least = i;
      taken[least] = true;
      if (ranks > 0 && sorted[ranks - 1] == values[least]) continue;  // −0 beside +0: the lower code stands
      sorted[ranks] = values[least];
      code[ranks++] = static_cast<std::uint8_t>(least);
    }
    for (std::size_t r = 0; r < N; ++r)
      threshold[r] = r + 1 < ranks ? (sorted[r] + sorted[r + 1]) / 2 : std::numeric_limits<float>::infinity();
  }
};

/// What a block of codebook codes shares.
struct CodebookParams {
  float absmax = 0;
  friend constexpr bool operator==(const CodebookParams&, const CodebookParams&) = default;
};

/// A block's absmax as stored. A nonzero one below the least normal float is raised to it, so 1/absmax is finite.
NIBBLE_HD constexpr float stored_absmax(float absmax) {
  constexpr float least = std::numeric_limits<float>::min();
  return absmax == 0 ? 0.0f : absmax < least ? least : absmax;
}

/// What x is multiplied by before the look-up; 0 for an all-zero block, whose codes are then the code of 0.
NIBBLE_HD constexpr float inverse_absmax(float absmax) { return absmax == 0 ? 0.0f : 1.0f / absmax; }

/// The scheme over one table: any of 4, 8, 16 … 256 values, of which 1 (or −1) should be the largest in magnitude.
template <class Table>
struct Codebook {
  using Params = CodebookParams;
  static constexpr std::size_t size = Table::values().size();
  static_assert(std::has_single_bit(size) && size >= 4 && size <= 256, "a table has a value for each code");
  static constexpr int bits = std::bit_width(size) - 1;

  static constexpr const std::array<float, size>& values() { return values_; }
  static constexpr const CodebookOrder<size>& order() { return order_; }

  static constexpr Params fit(Range r) { return {stored_absmax(r.absmax())}; }
  static constexpr Params fit(std::span<const float> v) { return fit(range_of(v)); }
  /// The code of a value already scaled into [−1, 1]. NaN takes the lowest value's code.
  static constexpr std::uint8_t encode_scaled(float scaled) {
    std::size_t low = 0;  // the number of thresholds known to lie below
    for (std::size_t width = size / 2; width > 0; width /= 2)
      if (scaled > order_.threshold[low + width - 1]) low += width;
    return order_.code[low];
  }
  static constexpr std::uint8_t encode(float x, Params p) { return encode_scaled(x * inverse_absmax(p.absmax)); }
  static constexpr float decode(std::uint8_t code, Params p) { return values_[code] * p.absmax; }

 private:
  static constexpr std::array<float, size> values_ = Table::values();
  static constexpr CodebookOrder<size> order_{values_};
};

/// Every value of a table survives decode-encode, up to the sign of zero.
template <class Table>
constexpr bool codebook_round_trips() {
  for (std::size_t i = 0; i < Codebook<Table>::size; ++i) {
    const float v = Codebook<Table>::values()[i];
    if (Codebook<Table>::values()[Codebook<Table>::encode_scaled(v)] != v) return false;
  }
  return true;
}
static_assert(codebook_round_trips<nf4>() && codebook_round_trips<fp4>());
static_assert(codebook_round_trips<dynamic_map<true>>() && codebook_round_trips<dynamic_map<false>>());

}  // namespace nibble::inline NIBBLE_ABI
