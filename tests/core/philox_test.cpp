#include "nibble/core/philox.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The known answers that come with Random123, the authors' library.
static_assert(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

TEST(Philox, EveryWordOfCounterAndKeyMatters) {
  const Words plain = philox({1, 2, 3, 4}, {5, 6});
  EXPECT_EQ(plain, philox({1, 2, 3, 4}, {5, 6}));
  for (std::size_t i = 0; i < 4; ++i) {
    Words counter{1, 2, 3, 4};
    ++counter[i];
    EXPECT_NE(philox(counter, {5, 6}), plain) << i;
  }
  EXPECT_NE(philox({1, 2, 3, 4}, {6, 6}), plain);
  EXPECT_NE(philox({1, 2, 3, 4}, {5, 7}), plain);
}

}  // namespace
}  // namespace nibble
