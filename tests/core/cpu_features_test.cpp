#include "nibble/core/cpu_features.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

namespace nibble {
namespace {

// Kernels of a wider set are built with the narrower ones, too.
TEST(CpuFeatures, AWiderSetHasTheNarrowerOnes) {
  const CpuFeatures cpu = cpu_features();
  EXPECT_TRUE(cpu.avx2 || !(cpu.avx_vnni || cpu.avx512));
  EXPECT_TRUE(cpu.avx512 || !cpu.avx512_vnni);
  EXPECT_TRUE(cpu.avx512_vnni || !cpu.amx_int8);
}

// Linux lists what it has enabled, under another name on each architecture.
TEST(CpuFeatures, AreThoseThatTheSystemTells) {
#if defined(__x86_64__)
  const std::string key = "flags";
#else
  const std::string key = "Features";
#endif
  std::string flags, line;
  for (std::ifstream in("/proc/cpuinfo"); flags.empty() && std::getline(in, line);)
    if (line.starts_with(key)) flags = line;
  if (flags.empty()) GTEST_SKIP() << "this system lists none in /proc/cpuinfo";
  const auto has = [&](const std::string& name) {
    std::istringstream words(flags);
    for (std::string word; words >> word;)
      if (word == name) return true;
    return false;
  };
  const CpuFeatures cpu = cpu_features();
#if defined(__x86_64__)
  EXPECT_EQ(cpu.avx2, has("avx2") && has("fma") && has("f16c"));
  EXPECT_EQ(cpu.avx_vnni, cpu.avx2 && has("avx_vnni"));
  EXPECT_EQ(cpu.avx512, has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl"));
  EXPECT_EQ(cpu.avx512_vnni, cpu.avx512 && has("avx512_vnni"));
  EXPECT_TRUE(!cpu.amx_int8 || has("amx_int8"));
  EXPECT_FALSE(cpu.neon_dot);
#else
  EXPECT_FALSE(cpu.avx2);
  EXPECT_EQ(cpu.neon_dot, has("asimddp"));
#endif
}

}  // namespace
}  // namespace nibble
