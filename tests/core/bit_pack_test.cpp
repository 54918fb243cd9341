#include "nibble/core/bit_pack.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace nibble {
namespace {

/// The definition, bit by bit: bit i of code k is bit k·b + i of the stream.
bool stream_bit(const std::vector<std::uint8_t>& stream, std::size_t bit) { return (stream[bit / 8] >> (bit % 8)) & 1; }

class BitPack : public testing::TestWithParam<int> {};

TEST_P(BitPack, PacksByTheDefinitionAtEveryLength) {
  const int bits = GetParam();
  std::mt19937 random(static_cast<unsigned>(bits));
  for (std::size_t n = 0; n < 70; ++n) {
    std::vector<std::uint8_t> codes(n), stream(packed_bytes(n, bits) + 1, 0xee), back(n);
    for (auto& c : codes) c = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
    pack_codes(codes.data(), n, bits, stream.data());
    ASSERT_EQ(stream.back(), 0xee) << "wrote past the end";
    for (std::size_t k = 0; k < n; ++k)
      for (int i = 0; i < bits; ++i)
        ASSERT_EQ(stream_bit(stream, k * static_cast<std::size_t>(bits) + static_cast<std::size_t>(i)),
                  ((codes[k] >> i) & 1) != 0);
    unpack_codes(stream.data(), n, bits, back.data());
    ASSERT_EQ(back, codes);
    for (std::size_t k = 0; k < n; ++k) ASSERT_EQ(get_code(stream.data(), k, bits), codes[k]);
  }
}

TEST_P(BitPack, SetChangesOneCodeOnly) {
  const int bits = GetParam();
  const auto top = static_cast<std::uint8_t>((1u << bits) - 1);
  const std::size_t n = 33;
  for (std::size_t k = 0; k < n; ++k) {
    std::vector<std::uint8_t> stream(packed_bytes(n, bits), 0), back(n);
    set_code(stream.data(), k, bits, top);
    unpack_codes(stream.data(), n, bits, back.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(back[i], i == k ? top : 0);
    set_code(stream.data(), k, bits, 0);
    for (auto byte : stream) ASSERT_EQ(byte, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryWidth, BitPack, testing::Range(2, 9));

TEST(BitPack, CountsBytesWithoutOverflow) {
  EXPECT_EQ(packed_bytes(32, 3), 12u);
  EXPECT_EQ(packed_bytes(1, 3), 1u);
  EXPECT_EQ(packed_bytes(SIZE_MAX / 8 * 8, 8), SIZE_MAX / 8 * 8);
}

}  // namespace
}  // namespace nibble
