// Inputs are regular files; anything else is refused at once, not waited for.
#include "core/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::files {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

void put(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

TEST(Input, APipeADeviceOrAFolderIsRefusedAtOnce) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  fs::create_symlink(folder / "pipe", folder / "link");
  for (const auto& path : {folder / "pipe", folder / "link"}) {
    expect_error(ErrorCode::io, "is a pipe, not a regular file", [&] { (void)read_text(path); });
    expect_error(ErrorCode::io, "is a pipe, not a regular file", [&] { (void)map_file(path); });
  }
  expect_error(ErrorCode::io, "is a device, not a regular file", [] { (void)read_text("/dev/zero"); });
  expect_error(ErrorCode::io, "is a folder, not a regular file", [&] { (void)read_text(folder.path()); });
}

TEST(Input, ANameWithANulDoesNotOpenAnotherFile) {
  const TemporaryFolder folder;
  put(folder / "a", "text");
  const fs::path name = (folder / "a").string() + std::string("\0.json", 6);
  expect_error(ErrorCode::io, "a\\x00.json", [&] { (void)read_text(name); });
  expect_error(ErrorCode::io, "a\\x00.json", [&] { (void)map_file(name); });
}

TEST(WhatIsThere, IsSaidOfEveryNameOrAnErrorOfOurs) {
  const TemporaryFolder folder;
  put(folder / "file", "text");
  fs::create_symlink("file", folder / "link");
  fs::create_symlink("gone", folder / "dangling");
  fs::create_symlink("loop", folder / "loop");
  EXPECT_TRUE(files::exists(folder / "file") && files::is_regular_file(folder / "file") &&
              !files::is_directory(folder / "file"));
  EXPECT_TRUE(files::exists(folder / "link") && files::is_regular_file(folder / "link") &&
              files::is_link(folder / "link"));
  EXPECT_TRUE(files::is_directory(folder.path()) && !files::is_regular_file(folder.path()) &&
              !files::is_link(folder.path()));
  EXPECT_TRUE(!files::exists(folder / "dangling") && files::is_link(folder / "dangling"));
  const std::string nul("file\0.json", 10);
  for (const fs::path& name : {folder / "gone", folder / "file" / "inner", folder / std::string(300, 'n'),
                               folder / std::string(5000, 'p'), folder.path() / nul, fs::path()})
    EXPECT_FALSE(files::exists(name) || files::is_directory(name) || files::is_regular_file(name) ||
                 files::is_link(name))
        << name;
  expect_error(ErrorCode::io, "cannot look at '" + (folder / "loop").string() + "'",
               [&] { (void)files::exists(folder / "loop"); });
  EXPECT_EQ(files::size(folder / "link"), 4u);
  expect_error(ErrorCode::not_found, "cannot look at", [&] { (void)files::size(folder / "gone"); });
}

TEST(Input, TextComesWholeUpToItsLimit) {
  const TemporaryFolder folder;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65536}, std::size_t{200001}}) {
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; i += 7) text[i] = static_cast<char>(i);
    put(folder / "text", text);
    EXPECT_EQ(read_text(folder / "text"), text);
  }
  put(folder / "large", "");
  fs::resize_file(folder / "large", (64 << 20) + 1);
  expect_error(ErrorCode::corrupt_file, "too large", [&] { (void)read_text(folder / "large"); });
  fs::resize_file(folder / "large", 64 << 20);
  EXPECT_EQ(read_text(folder / "large").size(), std::size_t{64} << 20);
}

TEST(Input, AFileThatEndsEarlySaysSo) {
  const TemporaryFolder folder;
  put(folder / "short", "1234");
  const Descriptor file = open_input(folder / "short");
  std::array<std::byte, 5> bytes;
  expect_error(ErrorCode::corrupt_file, "ends early", [&] { read_at(file.get(), bytes, 0, folder / "short"); });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::files
