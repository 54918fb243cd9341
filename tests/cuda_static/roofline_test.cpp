// The arithmetic of the roofline sheet.
#include "bench/roofline/roofline.h"

#include <gtest/gtest.h>

#include "bench/roofline/table.h"

namespace nibble::roofline {
namespace {

const cuda_static::Gpu kGpu{"one", 8, 0, 1, 2048, 1, 1, 1e9, 1e10, 1e12, 2e12};  // 1 GB/s, 10 and 1000 Gop/s, 2000 int8

TEST(Roofline, TheFloorIsTheLongerOfMemoryAndArithmetic) {
  const Tier tier{"t", Unit::half_tensor, 2, 2, 2, 0};
  const Floor f = floor_of(tier, kGpu, 100, 200, 3);
  EXPECT_DOUBLE_EQ(f.bytes, 2 * 100 * 200 + 3 * 2 * (100 + 200));
  EXPECT_DOUBLE_EQ(f.operations, 2.0 * 100 * 200 * 3);
  EXPECT_DOUBLE_EQ(f.memory_seconds, f.bytes / 1e9);
  EXPECT_DOUBLE_EQ(f.compute_seconds, f.operations / 1e12);
  EXPECT_DOUBLE_EQ(f.seconds(), f.memory_seconds);
  EXPECT_FALSE(floor_of(tier, kGpu, 4096, 4096, 4096).is_memory_bound());
}

TEST(Roofline, FourBitsAreAtMost388TimesAsFastAsSixteen) {
  const Tier &fp16 = products()[0], &w4 = products()[2];
  const auto ratio = [&](std::size_t n) {
    return floor_of(fp16, kGpu, 1u << 20, 1u << 20, n).seconds() / floor_of(w4, kGpu, 1u << 20, 1u << 20, n).seconds();
  };
  EXPECT_NEAR(ratio(1), 2 / (0.5 + 2.0 / 128), 1e-3);
  EXPECT_NEAR(ratio(1), 3.88, 0.005);
  EXPECT_DOUBLE_EQ(ratio(100000), 1);  // both wait for the tensor cores
}

TEST(Roofline, TheCrossoverIsWhereArithmeticBeginsToTakeLonger) {
  for (const cuda_static::Gpu& gpu : cuda_static::gpus())
    for (const Tier& tier : products()) {
      const std::size_t n = crossover(tier, gpu, 4096, 14336);
      ASSERT_GT(n, 1u) << tier.name;
      EXPECT_FALSE(floor_of(tier, gpu, 4096, 14336, n).is_memory_bound()) << gpu.name << " " << tier.name;
      EXPECT_TRUE(floor_of(tier, gpu, 4096, 14336, n - 1).is_memory_bound()) << gpu.name << " " << tier.name;
    }
}

TEST(Roofline, APassWithArithmeticIsBoundByTheLonger) {
  const Tier pass{"p", Unit::cuda_cores, 10, 0, 0, 0, 200};
  const Floor f = floor_of(pass, kGpu, 10, 20, 0);
  EXPECT_DOUBLE_EQ(f.bytes, 10 * 200);
  EXPECT_DOUBLE_EQ(f.operations, 200 * 200);
  EXPECT_DOUBLE_EQ(f.seconds(), 200 * 200 / 1e10);
}

TEST(Roofline, LoopsCoverTheProduct) {
  const auto passes = [](const char* name, std::size_t tokens) {
    return loop_of({name, Unit::none, 0, 0, 0, 0}, 256, 2048, tokens).passes;
  };
  EXPECT_DOUBLE_EQ(passes("GEMV int4-g128", 5), 128 * 2);
  EXPECT_DOUBLE_EQ(passes("W4A16 int4-g128", 16), 8 * 32);
  EXPECT_DOUBLE_EQ(passes("W4A16 int4-g128", 64), 2 * 8 * 32);       // two warps share 64 tokens
  EXPECT_DOUBLE_EQ(passes("W4A16 int4-g128", 129), 2 * 2 * 8 * 32);  // two tiles
  EXPECT_DOUBLE_EQ(passes("W8A8 int8", 32), 8 * 16);
  EXPECT_EQ(loop_of(products()[0], 256, 2048, 1).file, nullptr);
  cuda_static::Gpu gpu = kGpu;
  gpu.issue_rate = 1e6;
  EXPECT_DOUBLE_EQ(issue_seconds({"f", "k", "FFMA", 500}, 40, gpu), 0.02);
}

TEST(Table, IsAlignedOrMarkedOrSeparated) {
  Table table(1, {"what", "n"});
  table.add({"a", "1000"});
  EXPECT_EQ(table.written(Style::text), "what     n\na     1000\n");
  EXPECT_EQ(table.written(Style::markdown), "| what | n |\n|---|---:|\n| a | 1000 |\n");
  EXPECT_EQ(table.written(Style::csv), "what,n\na,1000\n");
}

}  // namespace
}  // namespace nibble::roofline
