#include "nibble/core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace nibble {
namespace {

TEST(ParallelFor, CoversEveryIndexOnce) {
  for (std::size_t count : {0u, 1u, 2u, 7u, 1000u}) {
    std::vector<std::atomic<int>> hits(count);
    parallel_for(default_executor(), count, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ++hits[i];
    });
    for (auto& h : hits) EXPECT_EQ(h, 1);
  }
}

TEST(ParallelFor, RethrowsTheErrorOfTheLowestRange) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    try {
      parallel_for(default_executor(), 100, 1,
                   [](std::size_t begin, std::size_t) { throw std::out_of_range(std::to_string(begin)); });
      FAIL();
    } catch (const std::out_of_range& e) {
      EXPECT_STREQ(e.what(), "0");
    }
  }
}

TEST(DefaultExecutor, ServesSeveralCallersAtOnce) {
  std::atomic<long> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat)
        parallel_for(default_executor(), 64, 1,
                     [&](std::size_t begin, std::size_t end) { sum += static_cast<long>(end - begin); });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(sum, 4 * 200 * 64);
}

}  // namespace
}  // namespace nibble
