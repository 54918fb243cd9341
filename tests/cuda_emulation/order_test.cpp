// Which thread runs when, what each sees of itself, and what shared memory holds at first.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <vector>

#include "cuda_emulation/emulation.h"
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_emulation::options;
using cuda_emulation::ThreadOrder;

/// The order in which threads come to the end, in two blocks of two warps, after a barrier.
NIBBLE_KERNEL(64, 1)
void arrival_kernel(int* count, unsigned* arrivals) {
  __syncthreads();
  arrivals[atomicAdd(count, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> arrivals(ThreadOrder order, std::uint64_t seed, int resident_blocks = 1) {
  const auto before = options();
  options() = {order, seed, resident_blocks};
  int count = 0;
  std::vector<unsigned> out(128, 999);
  EXPECT_EQ(launch(arrival_kernel, dim3(2), dim3(64), 0, nullptr, &count, out.data()), cudaSuccess);
  options() = before;
  return out;
}

TEST(Order, AscendsAndDescends) {
  std::vector<unsigned> up(128);
  std::iota(up.begin(), up.end(), 0u);
  const std::vector<unsigned> down(up.rbegin(), up.rend());
  // The last to come to the barrier opens it and goes on at once.
  const auto sorted_ends = [](std::vector<unsigned> v, bool descending) {
    for (auto half = v.begin(); half != v.end(); half += 64)
      descending ? std::sort(half, half + 64, std::greater<>()) : std::sort(half, half + 64);
    return v;
  };
  const auto ascending = arrivals(ThreadOrder::ascending, 1), descending = arrivals(ThreadOrder::descending, 1);
  EXPECT_EQ(sorted_ends(ascending, false), up);
  EXPECT_EQ(sorted_ends(descending, true), down);
  EXPECT_EQ(ascending[0], 63u);
  EXPECT_EQ(ascending[1], 0u);
  EXPECT_EQ(descending[0], 64u);
  EXPECT_EQ(descending[1], 127u);
}

TEST(Order, RandomOrdersRepeatThemselvesAndDiffer) {
  std::set<std::vector<unsigned>> seen;
  std::set<bool> first_block;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const auto order = arrivals(ThreadOrder::random, seed);
    EXPECT_EQ(order, arrivals(ThreadOrder::random, seed));
    seen.insert(order);
    first_block.insert(order[0] < 64);
  }
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(first_block.size(), 2u) << "blocks are shuffled, too";
}

TEST(Order, ResidentBlocksInterleave) {
  const auto alone = arrivals(ThreadOrder::random, 3), together = arrivals(ThreadOrder::random, 3, 2);
  const auto changes = [](const std::vector<unsigned>& order) {
    int n = 0;
    for (std::size_t i = 1; i < order.size(); ++i) n += (order[i] < 64) != (order[i - 1] < 64);
    return n;
  };
  EXPECT_EQ(changes(alone), 1);
  EXPECT_GT(changes(together), 1);
}

/// Blocks in the order in which they begin, whatever their threads' order, and those alone that were asked for.
TEST(Order, BlocksBeginInOrderAndAtTheFarEnd) {
  const auto before = options();
  for (const ThreadOrder order : {ThreadOrder::ascending, ThreadOrder::descending, ThreadOrder::random}) {
    options() = {order, 1, 1, true};
    int count = 0;
    std::vector<unsigned> seen(128, 999);
    ASSERT_EQ(launch(arrival_kernel, dim3(2), dim3(64), 0, nullptr, &count, seen.data()), cudaSuccess);
    for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i] / 64, i / 64) << i;
    options() = {order, 1, 1, false, (std::uint64_t{1} << 31) - 2, (std::uint64_t{1} << 31) - 1};
    count = 0;
    ASSERT_EQ(launch(arrival_kernel, dim3(0x7fffffff), dim3(64), 0, nullptr, &count, seen.data()), cudaSuccess);
    EXPECT_EQ(count, 64) << "one block";
    EXPECT_EQ(seen[0] / 64, (0x7ffffffeu * 64u) / 64u);
  }
  options() = before;
}

struct Position {
  uint3 thread, block;
  dim3 block_shape, grid_shape;
};
NIBBLE_KERNEL(24, 1)
void position_kernel(Position* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  __syncthreads();
  out[block * 24 + thread] = {threadIdx, blockIdx, blockDim, gridDim};
}

TEST(Order, EachThreadKnowsItsPlace) {
  cuda_emulation::for_each_order([] {
    std::vector<Position> out(24 * 24);
    ASSERT_EQ(launch(position_kernel, dim3(3, 4, 2), dim3(2, 3, 4), 0, nullptr, out.data()), cudaSuccess);
    for (unsigned block = 0; block < 24; ++block)
      for (unsigned thread = 0; thread < 24; ++thread) {
        const Position& p = out[block * 24 + thread];
        EXPECT_EQ(p.thread.x, thread % 2);
        EXPECT_EQ(p.thread.y, thread / 2 % 3);
        EXPECT_EQ(p.thread.z, thread / 6);
        EXPECT_EQ(p.block.x, block % 3);
        EXPECT_EQ(p.block.y, block / 3 % 4);
        EXPECT_EQ(p.block.z, block / 12);
        EXPECT_EQ(p.block_shape.z, 4u);
        EXPECT_EQ(p.grid_shape.y, 4u);
      }
  });
}

NIBBLE_KERNEL(32, 1)
void first_sight_kernel(float* out) {
  NIBBLE_SHARED(float, array, 32);
  NIBBLE_DYNAMIC_SHARED(dynamic);
  out += blockIdx.x * 64;
  out[2 * threadIdx.x] = array[threadIdx.x];
  out[2 * threadIdx.x + 1] = reinterpret_cast<const float*>(dynamic)[threadIdx.x];
  __syncthreads();
  array[threadIdx.x] = reinterpret_cast<float*>(dynamic)[threadIdx.x] = 1;  // the next block must not find it
}

TEST(Order, SharedMemoryBeginsAsNaN) {
  std::vector<float> out(3 * 64);
  ASSERT_EQ(launch(first_sight_kernel, dim3(3), dim3(32), 128, nullptr, out.data()), cudaSuccess);
  for (const float v : out) EXPECT_TRUE(std::isnan(v));
}

struct Counted {
  int value;
};
NIBBLE_KERNEL(32, 1)
void own_parameters_kernel(Counted counted, int* out) {
  ++counted.value;
  __syncthreads();
  out[threadIdx.x] = counted.value;
}

TEST(Order, ParametersAreEachThreadsOwn) {
  std::vector<int> out(32);
  ASSERT_EQ(launch(own_parameters_kernel, dim3(1), dim3(32), 0, nullptr, Counted{41}, out.data()), cudaSuccess);
  EXPECT_EQ(out, std::vector<int>(32, 42));
}

/// Threads that have ended do not keep the others of their block from a barrier.
NIBBLE_KERNEL(64, 1)
void early_end_kernel(int* out) {
  NIBBLE_SHARED(int, value, 1);
  if (threadIdx.x >= 40) return;
  if (threadIdx.x == 39) value[0] = 7;
  __syncthreads();
  out[threadIdx.x] = value[0];
}

TEST(Order, EndedThreadsAreNotWaitedFor) {
  cuda_emulation::for_each_order([] {
    std::vector<int> out(40);
    ASSERT_EQ(launch(early_end_kernel, dim3(1), dim3(64), 0, nullptr, out.data()), cudaSuccess);
    EXPECT_EQ(out, std::vector<int>(40, 7));
  });
}

TEST(Order, StatisticsCount) {
  cuda_emulation::reset_statistics();
  arrivals(ThreadOrder::ascending, 1);
  EXPECT_EQ(cuda_emulation::statistics().blocks, 2u);
  EXPECT_EQ(cuda_emulation::statistics().barriers, 2u);
  EXPECT_EQ(cuda_emulation::statistics().bank_conflict_ratio(), 1.0);
}

TEST(Order, OptionsComeBack) {
  options() = {ThreadOrder::descending, 9, 3};
  int calls = 0;
  cuda_emulation::for_each_order([&] { ++calls; }, 5, 4);
  EXPECT_EQ(calls, 8);
  cuda_emulation::for_each_order([&] { ++calls; });
  EXPECT_EQ(calls, 8 + 4);
  EXPECT_EQ(options().seed, 9u);
  EXPECT_EQ(options().resident_blocks, 3);
  options() = {};
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
