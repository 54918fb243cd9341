// A mapped file that is cut off, or written to, while it is in use: an error that names it, not the process's end.
#include "core/mapped_files.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>

#include "core/files.h"
#include "nibble/core/mapped_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::files {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

constexpr std::size_t kPage = 65536;  // of any system

class MappedFiles : public testing::Test {
 protected:
  fs::path file(const std::string& name, std::size_t pages) {
    std::ofstream(folder_ / name, std::ios::binary) << std::string(pages * kPage, 'x');
    return folder_ / name;
  }
  TemporaryFolder folder_;
};

std::size_t count(std::span<const std::byte> bytes, char c) {
  std::size_t n = 0;
  for (const std::byte b : bytes) n += static_cast<char>(b) == c ? 1 : 0;
  return n;
}

TEST_F(MappedFiles, ReadingBeyondACutEndIsAnErrorThatNamesTheFile) {
  guard_mapped_files();
  const auto path = file("cut", 4), other = file("whole", 1);
  const auto map = map_file(path), whole = map_file(other);
  EXPECT_NO_THROW(require_intact(map->data()));
  fs::resize_file(path, kPage);
  EXPECT_EQ(count(*map, 'x'), kPage) << "zeros where nothing is left, and no signal";
  const auto says = "'" + path.string() + "' was cut off while it was in use: 65536 of its 262144 bytes are left";
  expect_error(ErrorCode::io, says, [&] { require_intact(map->data()); });
  expect_error(ErrorCode::io, says, [&] { require_intact(map->data() + 3 * kPage); });
  expect_error(ErrorCode::io, says, [&] { require_all_intact(); });
  EXPECT_NO_THROW(require_intact(whole->data())) << "the other file is as it was";
  // Grown again it is the right size, but what was read is not what it holds.
  fs::resize_file(path, 4 * kPage);
  expect_error(ErrorCode::io, "was written to while it was in use", [&] { require_intact(map->data()); });
}

TEST_F(MappedFiles, AFileWrittenToInPlaceIsAnError) {
  const auto path = file("changed", 2);
  fs::last_write_time(path, fs::last_write_time(path) - std::chrono::hours(1));
  const auto map = map_file(path);
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out) << "y";
  expect_error(ErrorCode::io, "'" + path.string() + "' was written to", [&] { require_intact(map->data()); });
}

TEST_F(MappedFiles, AnotherFileInItsPlaceIsNone) {
  const auto path = file("old", 2), fresh = file("new", 1);
  const auto map = map_file(path);
  fs::rename(fresh, path);  // as downloaders and this library do it
  EXPECT_EQ(count(*map, 'x'), 2 * kPage);
  EXPECT_NO_THROW(require_intact(map->data()));
}

TEST_F(MappedFiles, WhatIsMappedNoMoreIsNotWatched) {
  const auto path = file("gone", 2);
  (void)map_file(path);
  fs::resize_file(path, 0);
  EXPECT_NO_THROW(require_all_intact());
  for (int i = 0; i < 100; ++i) (void)map_file(file("again", 1));
  EXPECT_NO_THROW(require_all_intact());
}

extern "C" void foreign_handler(int) { ::_exit(7); }

/// Not our map: the handler of before gets the signal, or the process ends as it would have.
void read_a_foreign_map_cut_off(const fs::path& path) {
  std::FILE* file = std::fopen(path.c_str(), "r");
  const void* map = ::mmap(nullptr, 2 * kPage, PROT_READ, MAP_PRIVATE, fileno(file), 0);
  fs::resize_file(path, kPage);
  (void)*(static_cast<const volatile char*>(map) + kPage);
}

TEST_F(MappedFiles, OtherSignalsGoToTheHandlerOfBefore) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";  // a process of its own, where nothing is installed yet
  const auto path = file("foreign", 2);
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, foreign_handler);
        guard_mapped_files();
        read_a_foreign_map_cut_off(path);
      },
      testing::ExitedWithCode(7), "");
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, SIG_DFL);  // sanitizers bring a handler of their own
        guard_mapped_files();
        read_a_foreign_map_cut_off(file("foreign", 2));
      },
      testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::files
