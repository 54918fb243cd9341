// What is left to the sanitizers: accesses outside arrays, and races. In a build without the sanitizer at hand, the
// part of it that the machine sees by itself.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "cuda_emulation/emulation.h"
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NIBBLE_WITH_ASAN 1
#elif __has_feature(thread_sanitizer)
#define NIBBLE_WITH_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define NIBBLE_WITH_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define NIBBLE_WITH_TSAN 1
#endif

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_emulation::Fault;

// ---- Accesses outside arrays
// ------------------------------------------------------------------------------------------

NIBBLE_KERNEL(32, 1)
void write_shared(unsigned at) {
  NIBBLE_SHARED(float, array, 30);
  NIBBLE_DYNAMIC_SHARED(dynamic);
  float* const p = array;
  if (threadIdx.x == 0) p[at] = 1;
  if (threadIdx.x == 1) reinterpret_cast<float*>(dynamic)[at] = 1;
}

TEST(Bounds, WritesBeyondSharedMemory) {
  const auto write = [](unsigned at) { (void)launch(write_shared, dim3(1), dim3(32), 120, nullptr, at); };
  EXPECT_NO_THROW(write(29));
#ifdef NIBBLE_WITH_ASAN
  EXPECT_DEATH(write(30), "use-after-poison|heap-buffer-overflow");
#else
  EXPECT_THROW(write(30), Fault);
  EXPECT_THROW(write(61), Fault);
#endif
}

#ifdef NIBBLE_WITH_ASAN
NIBBLE_KERNEL(32, 1)
void read_shared(unsigned at, float* sink) {
  NIBBLE_DYNAMIC_SHARED(dynamic);
  sink[0] = reinterpret_cast<const float*>(dynamic)[at];
}
NIBBLE_KERNEL(32, 1)
void read_global(const float* in, unsigned n, float* sink) {
  if (threadIdx.x <= n) sink[0] = __ldg(in + threadIdx.x);
}
NIBBLE_KERNEL(32, 1)
void copy_global(const uint4* in) {
  NIBBLE_SHARED(uint4, target, 32);
  cp_async_16(&target[threadIdx.x], &in[threadIdx.x]);
}
NIBBLE_KERNEL(32, 1)
void misaligned(const unsigned char* in, float* sink) { sink[0] = __ldg(reinterpret_cast<const float*>(in + 1)); }

TEST(Bounds, ReadsOutsideArrays) {
  float sink = 0;
  const auto array = std::make_unique<float[]>(20);
  const std::vector<uint4> quads(31);
  EXPECT_DEATH((void)launch(read_shared, dim3(1), dim3(32), 64, nullptr, 16, &sink), "use-after-poison");
  EXPECT_DEATH((void)launch(read_global, dim3(1), dim3(32), 0, nullptr, array.get(), 20, &sink),
               "heap-buffer-overflow");
  EXPECT_DEATH((void)launch(copy_global, dim3(1), dim3(32), 0, nullptr, quads.data()), "heap-buffer-overflow");
  EXPECT_DEATH((void)launch(misaligned, dim3(1), dim3(1), 0, nullptr,
                            reinterpret_cast<const unsigned char*>(array.get()), &sink),
               "misaligned address");
}
#endif

// ---- Races
// ------------------------------------------------------------------------------------------------------------

/// How threads of one warp pass a value on to their neighbours through shared memory.
enum class By { nothing, shuffle, syncwarp, syncthreads };

template <By by>
NIBBLE_KERNEL(32, 1)
void pass_on(int* out) {
  NIBBLE_SHARED(int, value, 32);
  value[threadIdx.x] = static_cast<int>(threadIdx.x);
  if constexpr (by == By::shuffle) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
  if constexpr (by == By::syncwarp) __syncwarp();
  if constexpr (by == By::syncthreads) __syncthreads();
  out[threadIdx.x] = value[threadIdx.x ^ 1];
}

NIBBLE_KERNEL(32, 1)
void add_in_turn(int* sum, int* turn) {
  if (threadIdx.x != 0) return;
  while (load_acquire(turn) != static_cast<int>(blockIdx.x)) spin_hint();
  *sum += 1;
  add_release(turn, 1);
}
NIBBLE_KERNEL(32, 1)
void add_atomically(int* sum) { atomicAdd(sum, 1); }

/// Reads what a neighbour copied, waiting for its own copy only.
template <bool WithBarrier>
NIBBLE_KERNEL(32, 1)
void read_neighbours_copy(const uint4* in, uint4* out) {
  NIBBLE_SHARED(uint4, target, 32);
  cp_async_16(&target[threadIdx.x], &in[threadIdx.x]);
  cp_async_commit();
  cp_async_wait<0>();
  if constexpr (WithBarrier) __syncthreads();
  out[threadIdx.x] = target[threadIdx.x ^ 1];
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), unsigned blocks, const Arguments&... arguments) {
  ASSERT_EQ(launch(kernel, dim3(blocks), dim3(32), 0, nullptr, arguments...), cudaSuccess);
}

TEST(Races, OrderedAccessesAreNone) {
  int out[32], sum = 0, turn = 0, orders = 0;
  std::vector<uint4> in(32), copied(32);
  cuda_emulation::for_each_order(
      [&] {
        ++orders;
        run(pass_on<By::syncwarp>, 1, &out[0]);
        run(pass_on<By::syncthreads>, 1, &out[0]);
        turn = 0;
        run(add_in_turn, 4, &sum, &turn);
        run(add_atomically, 4, &sum);
        run(read_neighbours_copy<true>, 1, in.data(), copied.data());
      },
      4);
  EXPECT_EQ(sum, orders * (4 + 128));
}

#ifdef NIBBLE_WITH_TSAN
/// One thread of each block adds to a common sum.
NIBBLE_KERNEL(32, 1)
void add_without_lock(int* sum) {
  if (threadIdx.x == 0) *sum += 1;
}

TEST(Races, UnorderedAccessesAre) {
  int out[32], sum = 0;
  std::vector<uint4> in(32), copied(32);
  EXPECT_DEATH(run(pass_on<By::nothing>, 1, &out[0]), "data race");
  EXPECT_DEATH(run(pass_on<By::shuffle>, 1, &out[0]), "data race") << "a shuffle orders no memory";
  EXPECT_DEATH(run(add_without_lock, 2, &sum), "data race") << "though one block runs after the other";
  EXPECT_DEATH(run(read_neighbours_copy<false>, 1, in.data(), copied.data()), "data race");
}
#endif

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
