#include "nibble/scheme/rank_keys.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

static_assert(kRankKeys<dynamic_map<true>>.holds());
static_assert(kRankKeys<dynamic_map<false>>.holds());

/// Values so close to each other that a key has several thresholds.
struct crowded {
  static constexpr std::array<float, 256> values() {
    std::array<float, 256> all{};
    for (std::size_t i = 0; i < 256; ++i) all[i] = 0.5f + static_cast<float>(i) * 0x1p-12f;
    return all;
  }
};
static_assert(!kRankKeys<crowded>.holds());

template <class Table>
std::uint8_t code_by_key(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7FFFFFFFu, negative = bits >> 31;
  std::uint32_t key = magnitude >> 16;
  key = key < kFirstRankKey ? kFirstRankKey : key > kLastRankKey ? kLastRankKey : key;
  const auto entry = std::bit_cast<std::uint32_t>(kRankKeys<Table>.entries()[2 * (key - kFirstRankKey) + negative]);
  const bool next = (magnitude & 0xFFFFu) >= entry >> 8;
  const std::uint32_t rank = (entry & 255u) + (next ? (negative != 0 ? ~0u : 1u) : 0u);
  return Codebook<Table>::order().code[rank];
}

/// All floats near each threshold, and a sample of the others up to infinity.
template <class Table>
void check() {
  const auto agrees = [](std::uint32_t bits) {
    const float x = std::bit_cast<float>(bits);
    ASSERT_EQ(code_by_key<Table>(x), Codebook<Table>::encode_scaled(x)) << x;
  };
  for (std::size_t r = 0; r + 1 < Codebook<Table>::order().ranks; ++r)
    for (std::uint32_t ulps = 0; ulps < 20; ++ulps)
      agrees(std::bit_cast<std::uint32_t>(Codebook<Table>::order().threshold[r]) - 10 + ulps);
  for (const std::uint32_t sign : {0u, 0x80000000u})
    for (std::uint32_t bits = 0; bits <= 0x7F800000u; bits += 9973) agrees(sign | bits);
}

TEST(RankKeys, GiveTheCodesOfTheSignedMap) { check<dynamic_map<true>>(); }
TEST(RankKeys, GiveTheCodesOfTheUnsignedMap) { check<dynamic_map<false>>(); }

}  // namespace
}  // namespace nibble
