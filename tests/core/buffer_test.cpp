#include "nibble/core/buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

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

/// What /proc/self/smaps says of the mapping that begins at `address`, as one text; empty where it cannot be read.
std::string mapping_at(const void* address) {
  std::ostringstream begin;
  begin << std::hex << reinterpret_cast<std::uintptr_t>(address) << '-';
  std::ifstream smaps("/proc/self/smaps");
  std::string found;
  for (std::string line; std::getline(smaps, line);) {
    if (line.starts_with(begin.str())) found = line;
    else if (!found.empty()) found += '\n' + line;
    if (!found.empty() && line.starts_with("VmFlags:")) return found;
  }
  return {};
}

TEST(Buffer, AsksForHugePagesWhereItIsLarge) {
  if (testing_support::sanitized) GTEST_SKIP() << "blocks end where the sanitizer sees it";
  constexpr std::size_t huge = std::size_t{2} << 20, size = 3 * huge + 12345;
  const std::size_t before = testing_support::held_bytes();
  {
    const Buffer a = Buffer::allocate(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % huge, 0u);
    EXPECT_TRUE(std::all_of(a.data(), a.data() + size, [](std::byte b) { return b == std::byte{0}; }));
    std::fill_n(a.writable<std::uint8_t>(), size, std::uint8_t{7});
    EXPECT_EQ(a.as<std::uint8_t>()[size - 1], 7);
    if (const std::string mapping = mapping_at(a.data()); !mapping.empty()) {
      EXPECT_NE(mapping.find(" hg"), std::string::npos) << mapping;
    }
    EXPECT_LT(testing_support::held_bytes(), before + size + huge) << "no page beyond the last byte";
  }
  EXPECT_LT(testing_support::held_bytes(), before + huge) << "given back at once";
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
