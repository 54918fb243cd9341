// Every kind of mistake that the machine itself reports, by a kernel that makes it, and what the report says.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_emulation/emulation.h"
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_emulation::Fault;
using cuda_emulation::options;

/// The message of the fault that a launch of 64 threads with 512 shared bytes ends in.
template <class... Parameters, class... Arguments>
std::string fault_of(void (*kernel)(Parameters...), dim3 grid, const Arguments&... arguments) {
  try {
    (void)launch(kernel, grid, dim3(64), 512, nullptr, arguments...);
  } catch (const Fault& fault) {
    return fault.what();
  }
  return "no fault";
}

#define EXPECT_FAULT(message, text) EXPECT_NE((message).find(text), std::string::npos) << (message)

NIBBLE_KERNEL(64, 1)
void barrier_in_each_branch(int* sink) {
  if (threadIdx.x < 32) {
    sink[threadIdx.x] = 1;
    __syncthreads();
  } else {
    __syncthreads();
    sink[threadIdx.x] = 1;
  }
}
// One line, two barriers: only the place in the compiled code tells them apart.
NIBBLE_KERNEL(64, 1)
void barriers_on_one_line(int* sink) {
  // clang-format off
  if (threadIdx.x < 32) { __syncthreads(); sink[threadIdx.x] = 1; } else { sink[threadIdx.x] = 1; __syncthreads(); sink[threadIdx.x] = 2; }
  // clang-format on
}

TEST(Fault, DivergentBarriers) {
  int sink[64];
  cuda_emulation::for_each_order([&] {
    const std::string message = fault_of(barrier_in_each_branch, 1, &sink[0]);
    EXPECT_FAULT(message, "divergent __syncthreads");
    EXPECT_FAULT(message, "fault_test.cpp:");
    EXPECT_FAULT(message, "block (0,0,0) thread (");
    EXPECT_FAULT(fault_of(barriers_on_one_line, 1, &sink[0]), "divergent __syncthreads");
  });
}

NIBBLE_KERNEL(64, 1)
void barrier_for_some() {
  if (threadIdx.x != 5) __syncthreads();
  else __syncwarp(0x60);
}

TEST(Fault, DeadlockNamesWhoWaitsWhere) {
  const std::string message = fault_of(barrier_for_some, 1);
  EXPECT_FAULT(message, "deadlock: no thread can go on.");
  EXPECT_FAULT(message, "Block (0,0,0): threads 0-4, 6-63 in __syncthreads at");
  EXPECT_FAULT(message, "thread 5 in __syncwarp at");
}

NIBBLE_KERNEL(64, 1)
void wait_for_flag(const int* flag) {
  if (threadIdx.x != 3) return;
  while (load_acquire(flag) == 0) spin_hint();
}

TEST(Fault, WaitsForEver) {
  const int flag = 0;
  const std::string message = fault_of(wait_for_flag, 1, &flag);
  EXPECT_FAULT(message, "deadlock");
  EXPECT_FAULT(message, "thread 3 in a loop that waits for another thread at");
}

NIBBLE_KERNEL(64, 1)
void wait_for_next_block(int* turn) {
  if (threadIdx.x != 0) return;
  while (load_acquire(turn) != static_cast<int>(gridDim.x - 1 - blockIdx.x)) spin_hint();
  add_release(turn, 1);
}

TEST(Fault, WaitsForABlockThatIsNotResident) {
  int turn = 0;
  EXPECT_FAULT(fault_of(wait_for_next_block, 3, &turn), "deadlock");
  turn = 0;
  options().resident_blocks = 3;
  EXPECT_EQ(fault_of(wait_for_next_block, 3, &turn), "no fault");
  options() = {};
}

NIBBLE_KERNEL(64, 1)
void wait_for_lower_block(int* turn) {
  if (threadIdx.x != 0) return;
  while (load_acquire(turn) != static_cast<int>(blockIdx.x)) spin_hint();
  add_release(turn, 1);
}

/// What for_each_order does beside the orders: a device need not have room for every block, but starts them in order.
TEST(Fault, WaitsForBlocksThatBeginLater) {
  const auto under_each_order = [](auto kernel, int resident) {
    std::string faults;
    cuda_emulation::for_each_order(
        [&] {
          int turn = 0;
          const std::string fault = fault_of(kernel, 5, &turn);
          if (fault != "no fault") faults += fault;
        },
        resident);
    return faults;
  };
  EXPECT_EQ(under_each_order(wait_for_lower_block, 5), "");
  EXPECT_FAULT(under_each_order(wait_for_next_block, 5), "deadlock");
}

NIBBLE_KERNEL(64, 1)
void collectives_diverge(int* sink) {
  if (threadIdx.x % 2 == 0) sink[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
  else sink[threadIdx.x] = __any_sync(0xffffffffu, 1);
}
NIBBLE_KERNEL(64, 1)
void outside_own_mask(int* sink) { sink[threadIdx.x] = __shfl_sync(0x1u, 1, 0); }
NIBBLE_KERNEL(64, 1)
void shuffle_beyond_mask(int* sink) {
  if (threadIdx.x % 32 < 4) sink[threadIdx.x] = __shfl_sync(0xfu, 1, 4);
}
NIBBLE_KERNEL(64, 1)
void masks_differ() {
  if (threadIdx.x == 0) __syncwarp(0x3);
  if (threadIdx.x == 1) __syncwarp(0x6);
}

TEST(Fault, Collectives) {
  int sink[64];
  cuda_emulation::for_each_order([&] {
    EXPECT_FAULT(fault_of(collectives_diverge, 1, &sink[0]), "divergent warp");
    EXPECT_FAULT(fault_of(outside_own_mask, 1, &sink[0]), "a lane outside the mask calls a shuffle");
    EXPECT_FAULT(fault_of(shuffle_beyond_mask, 1, &sink[0]), "a shuffle reads lane 4, which is not in its mask");
    const std::string message = fault_of(masks_differ, 1);
    EXPECT_FAULT(message, "thread 0 in __syncwarp at");
    EXPECT_FAULT(message, "thread 1 in __syncwarp at");
  });
}

NIBBLE_KERNEL(64, 1)
void one_lane_skips_a_product(float* sink) {
  float c[4] = {};
  const std::uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x != 5) mma(c, a, b, half{});
  sink[threadIdx.x] = c[0];
}
NIBBLE_KERNEL(8, 1)
void product_of_part_of_a_warp() {
  float c[4] = {};
  const std::uint32_t a[4] = {}, b[2] = {};
  mma(c, a, b, half{});
}

TEST(Fault, MatrixProducts) {
  float sink[64];
  EXPECT_FAULT(fault_of(one_lane_skips_a_product, 1, &sink[0]), "threads 0-4, 6-31 in a matrix product");
  EXPECT_THROW((void)launch(product_of_part_of_a_warp, dim3(1), dim3(8), 0, nullptr), Fault);
}

NIBBLE_KERNEL(64, 1)
void load_matrices_at(unsigned offset, const void* elsewhere) {
  NIBBLE_DYNAMIC_SHARED(shared);
  std::uint32_t r[4];
  ldmatrix_x4(r, elsewhere != nullptr ? elsewhere : shared + offset);
}
NIBBLE_KERNEL(64, 1)
void copy_to(unsigned offset, const unsigned char* from) {
  NIBBLE_DYNAMIC_SHARED(shared);
  if (threadIdx.x == 0) cp_async_16(shared + offset, from);
}

TEST(Fault, AddressesOfMatrixLoadsAndCopies) {
  alignas(16) unsigned char global[32] = {};
  const void* const none = nullptr;
  EXPECT_EQ(fault_of(load_matrices_at, 1, 496u, none), "no fault");
  EXPECT_FAULT(fault_of(load_matrices_at, 1, 8u, none), "a matrix load's row is not aligned to 16 bytes");
  EXPECT_FAULT(fault_of(load_matrices_at, 1, 512u, none), "a matrix load's row is not in the block's shared memory");
  EXPECT_FAULT(fault_of(load_matrices_at, 1, 0u, &global[0]), "is not in the block's shared memory");
  EXPECT_EQ(fault_of(copy_to, 1, 0u, &global[0]), "no fault");
  EXPECT_FAULT(fault_of(copy_to, 1, 500u, &global[0]),
               "an asynchronous copy's target is not in the block's shared memory");
  EXPECT_FAULT(fault_of(copy_to, 1, 4u, &global[0]), "an asynchronous copy's target is not aligned");
  EXPECT_FAULT(fault_of(copy_to, 1, 0u, &global[4]), "an asynchronous copy's source is not aligned to 16 bytes");
}

NIBBLE_KERNEL(64, 1)
void no_dynamic_memory() {
  NIBBLE_DYNAMIC_SHARED(shared);
  shared[0] = 1;
}
NIBBLE_KERNEL(64, 1)
void throws_an_exception() { throw std::runtime_error("seven"); }

TEST(Fault, OtherMistakes) {
  EXPECT_THROW((void)launch(no_dynamic_memory, dim3(1), dim3(1), 0, nullptr), Fault);
  EXPECT_FAULT(fault_of(throws_an_exception, 1), "an exception left the kernel: seven");
}

NIBBLE_KERNEL(64, 1)
void nothing() {}

TEST(Fault, ConfigurationsThatNoDeviceTakes) {
  EXPECT_EQ(launch(nothing, dim3(0), dim3(64), 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(nothing, dim3(1), dim3(64, 0), 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(nothing, dim3(1), dim3(1025), 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(nothing, dim3(1), dim3(32, 64), 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(nothing, dim3(1, 65536), dim3(64), 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(nothing, dim3(1), dim3(64), 228 << 10, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(nothing, dim3(1), dim3(1024), 227 << 10, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
