// The benchmarks' limit must read what it says it reads: every byte, once.
#include "bench/cuda/read_memory.h"

#include <numeric>

#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;

TEST(CudaReadMemory, ReadsEveryWordOnce) {
  for (const std::size_t quads : {0u, 1u, 255u, 256u, 5000u})
    for (const unsigned blocks : {1u, 3u, 7u}) {
      std::vector<std::uint32_t> words(4 * quads);
      for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint32_t>(i * 2654435761u);
      const auto expected = std::accumulate(words.begin(), words.end(), std::uint32_t{0});
      const DeviceArray<std::uint32_t> memory(words);
      for_each_order([&] {
        const DeviceArray<std::uint32_t> sums(blocks);
        require(bench::read_memory(memory.get(), 16 * quads, sums.get(), blocks, nullptr), "read_memory");
        const auto of_blocks = sums.host();
        EXPECT_EQ(std::accumulate(of_blocks.begin(), of_blocks.end(), std::uint32_t{0}), expected);
      });
    }
  EXPECT_NE(bench::read_memory(nullptr, 8, nullptr, 1, nullptr), cudaSuccess);
  EXPECT_NE(bench::read_memory(nullptr, 16, nullptr, 0, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace nibble
