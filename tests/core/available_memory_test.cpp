#include "core/available_memory.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tests/support/temporary_folder.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST(AvailableMemory, IsWhatTheMachineHas) {
  const testing_support::TemporaryFolder root;
  EXPECT_EQ(available_memory(root.path()), 0u) << "a system that does not say";
  write(root / "proc/meminfo", "MemTotal:       8000 kB\nMemFree:  10 kB\nMemAvailable:    3000 kB\n");
  EXPECT_EQ(available_memory(root.path()), 3000u * 1024);
}

TEST(AvailableMemory, IsNoMoreThanAGroupOrOneAboveItLeaves) {
  const testing_support::TemporaryFolder root;
  write(root / "proc/meminfo", "MemAvailable:    3000 kB\n");
  write(root / "proc/self/cgroup", "12:cpu:/old\n0::/slice/unit\n");
  const fs::path groups = root / "sys/fs/cgroup";
  write(groups / "slice/unit/memory.max", "max\n");
  write(groups / "slice/unit/memory.current", "900000\n");
  EXPECT_EQ(available_memory(root.path()), 3000u * 1024) << "no limit";
  write(groups / "slice/memory.max", "1000000\n");
  write(groups / "slice/memory.current", "900000\n");
  EXPECT_EQ(available_memory(root.path()), 100000u) << "the one above";
  write(groups / "slice/memory.stat", "anon 300000\ninactive_file 200000\n");
  EXPECT_EQ(available_memory(root.path()), 300000u) << "pages of files can go";
  write(groups / "slice/unit/memory.max", "800000\n");
  EXPECT_EQ(available_memory(root.path()), 0u) << "more is held than allowed";
}

TEST(AvailableMemory, OfAContainerIsAtTheTop) {
  const testing_support::TemporaryFolder root;
  write(root / "proc/meminfo", "MemAvailable:    3000 kB\n");
  write(root / "proc/self/cgroup", "0::/\n");
  write(root / "sys/fs/cgroup/memory.max", "5000\n");
  write(root / "sys/fs/cgroup/memory.current", "1000\n");
  EXPECT_EQ(available_memory(root.path()), 4000u);
}

#ifdef __linux__
TEST(AvailableMemory, IsKnownHere) { EXPECT_GT(available_memory(), std::size_t{1} << 20); }
#endif

}  // namespace
}  // namespace nibble
