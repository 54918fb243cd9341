// Outputs are whole or not there, whatever else runs, dies or lies in wait in the same folder.
#include "core/pending.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <optional>
#include <set>
#include <thread>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace nibble::inline NIBBLE_ABI::files {
namespace {

namespace fs = std::filesystem;
using testing_support::expect_error;
using testing_support::TemporaryFolder;

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder)) out.insert(entry.path().filename().string());
  return out;
}

void write(PendingFile& file, std::string_view text) { file.write(std::as_bytes(std::span(text)), 0); }

/// Runs `work` in a process that is then killed, as by the kernel when memory runs out.
template <class Work>
void killed_after(const Work& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    work();
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

// Two containers on one volume may have equal process ids; here the ids are equal because it is one process.
TEST(PendingFile, TwoOfOneProcessIdNeverMeet) {
  const TemporaryFolder folder;
  PendingFile one(folder / "out"), two(folder / "out");
  write(one, "first");
  write(two, "2nd");
  one.commit();
  EXPECT_EQ(text_of(folder / "out"), "first");
  two.commit();
  EXPECT_EQ(text_of(folder / "out"), "2nd");
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"out"});
}

TEST(PendingFile, ManyWritersOfOneFileLeaveOneOfTheirTextsWhole) {
  const TemporaryFolder folder;
  std::vector<std::thread> writers;
  for (char c = 'a'; c < 'i'; ++c)
    writers.emplace_back([&, c] {
      for (int i = 0; i < 20; ++i) write_file(folder / "out", std::string(5000, c));
    });
  for (auto& t : writers) t.join();
  const std::string text = text_of(folder / "out");
  EXPECT_EQ(text, std::string(5000, text.at(0)));
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"out"});
}

TEST(PendingFile, NothingPlantedIsFollowed) {
  const TemporaryFolder folder;
  std::ofstream(folder / "victim") << "precious";
  fs::create_symlink(folder / "victim", folder / ("out.tmp" + std::to_string(::getpid())));
  fs::create_symlink(folder / "victim", folder / "out.0123456789abcdef.nibble-tmp");
  fs::create_symlink(folder / "victim", folder / "out");
  write_file(folder / "out", "new");
  EXPECT_EQ(text_of(folder / "victim"), "precious");
  EXPECT_EQ(text_of(folder / "out"), "new");
  EXPECT_FALSE(fs::is_symlink(folder / "out"));
}

TEST(PendingFile, AnAbandonedOneLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_file(folder / "out", "old");
  {
    PendingFile file(folder / "out");
    write(file, "half");
  }
  EXPECT_EQ(text_of(folder / "out"), "old");
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"out"});
}

TEST(PendingFile, AWriteThatFailsLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_file(folder / "out", "old");
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(write_file(folder / "out", std::string(10000, 'x')), Error);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(text_of(folder / "out"), "old");
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"out"});
}

TEST(PendingFile, TheLongestNameThatAFileCanHaveServes) {
  const TemporaryFolder folder;
  const std::string name(255, 'n'), cut = std::string(225, 'n') + "äöüäöüäöüäöüäöü";
  ASSERT_EQ(cut.size(), 255u);
  write_file(folder / name, "long");
  write_file(folder / cut, "long");
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{name, cut}));
}

TEST(PendingFile, WhatAKilledProcessLeftIsRemovedByTheNext) {
  const TemporaryFolder folder;
  killed_after([&] {
    new PendingFile(folder / "out");
    const auto* directory = new PendingDirectory(folder / "model");
    write_file(directory->path() / "config.json", "{}");
    new PendingFile(directory->path() / "model.safetensors");
  });
  ASSERT_EQ(names_in(folder.path()).size(), 2u);
  write_file(folder / "other", "text");
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"other"});
}

TEST(PendingFile, WhatALivingProcessWritesIsNotTouched) {
  const TemporaryFolder folder;
  PendingFile file(folder / "out");
  PendingDirectory directory(folder / "model");
  write_file(directory.path() / "config.json", "{}");
  killed_after([&] { write_file(folder / "other", "text"); });  // a process of its own looks for dead ones
  write(file, "whole");
  file.commit();
  directory.commit();
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"out", "model", "other"}));
  EXPECT_EQ(text_of(folder / "model/config.json"), "{}");
}

TEST(PendingFile, FilesOfOtherMakersAreNotTouched) {
  const TemporaryFolder folder;
  for (const char* name : {"a.tmp", "nibble-tmp", "a.nibble-tmp", "a.0123.nibble-tmp", "a.0123456789abcdeX.nibble-tmp"})
    std::ofstream(folder / name) << "mine";
  write_file(folder / "out", "text");
  EXPECT_EQ(names_in(folder.path()).size(), 6u);
}

TEST(RemoveQuietly, TakesAFolderWithAllInItAndFollowsNoLink) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "tree/a/b");
  std::ofstream(folder / "tree/a/file") << "x";
  std::ofstream(folder / "kept") << "x";
  fs::create_directory_symlink(folder.path(), folder / "tree/link");
  fs::create_symlink(folder / "nowhere", folder / "tree/a/b/dead");
  EXPECT_TRUE(remove_quietly(folder / "tree"));
  EXPECT_FALSE(fs::exists(folder / "tree"));
  EXPECT_TRUE(fs::exists(folder / "kept"));
  EXPECT_TRUE(remove_quietly(folder / "tree")) << "what is not there is gone";
  EXPECT_TRUE(remove_quietly(folder / "kept"));
  EXPECT_FALSE(fs::exists(folder / "kept"));
}

TEST(PendingDirectory, TheSecondOfTwoAtOnceReplacesNothing) {
  const TemporaryFolder folder;
  PendingDirectory one(folder / "model"), two(folder / "model");
  write_file(one.path() / "config.json", "one");
  write_file(two.path() / "config.json", "two");
  one.commit();
  expect_error(ErrorCode::invalid_argument, "by another process meanwhile", [&] { two.commit(); });
  EXPECT_EQ(text_of(folder / "model/config.json"), "one");
}

TEST(PendingDirectory, NotEvenAnEmptyFolderIsReplaced) {
  const TemporaryFolder folder;
  std::optional<PendingDirectory> model(folder / "model");
  fs::create_directory(folder / "model");
  expect_error(ErrorCode::invalid_argument, "nothing was replaced", [&] { model->commit(); });
  model.reset();
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"model"});
}

TEST(PendingDirectory, AnAbandonedOneTakesTheFoldersMadeForItAlong) {
  const TemporaryFolder folder;
  { const PendingDirectory model(folder / "a/b/model/"); }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  PendingDirectory model(folder / "a/b/model/.");
  model.commit();
  EXPECT_TRUE(fs::is_directory(folder / "a/b/model"));
}

TEST(PendingDirectory, AScratchFolderIsForThisUserAlone) {
  const TemporaryFolder folder;
  {
    const PendingDirectory scratch(PendingDirectory::Scratch{}, folder / "work");
    struct stat status {};
    ASSERT_EQ(::stat(scratch.path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::files
