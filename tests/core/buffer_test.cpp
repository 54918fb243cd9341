#include "nibble/core/buffer.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "tests/support/expect_error.h"
#include "tests/support/peak_memory.h"

namespace nibble {
namespace {

TEST(Buffer, OwnsZeroedAlignedBytesThatCopiesShare) {
  const Buffer a = Buffer::allocate(100), b = a;
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 64, 0u);
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(a.as<std::uint8_t>()[i], 0);
  a.writable<std::uint8_t>()[99] = 7;
  EXPECT_EQ(b.as<std::uint8_t>()[99], 7);
  EXPECT_EQ(Buffer::allocate(0).size(), 0u);
}

TEST(Buffer, AViewKeepsItsOwnerAndIsNotWritten) {
  auto owner = std::make_shared<std::array<std::byte, 4>>();
  const std::weak_ptr<std::array<std::byte, 4>> watched = owner;
  Buffer view = Buffer::view(*owner, owner);
  owner.reset();
  EXPECT_FALSE(watched.expired());
  EXPECT_EQ(view.size(), 4u);
  EXPECT_EQ(view.writable<std::byte>(), nullptr);
  view = Buffer();
  EXPECT_TRUE(watched.expired());
}

TEST(Buffer, SaysWhatItCannotHave) {
  if (!testing_support::memory_is_measurable) GTEST_SKIP() << "a sanitizer ends the process instead";
  testing_support::expect_error(ErrorCode::out_of_memory, "", [] { (void)Buffer::allocate(SIZE_MAX / 2); });
}

}  // namespace
}  // namespace nibble
