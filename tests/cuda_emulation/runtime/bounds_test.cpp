// Reads and writes beside each kind of memory that the emulated device hands out. In the program that the address
// sanitizer watches, the first byte beside an array is found; in the others, writes are, afterwards.
#include <gtest/gtest.h>

#include "cuda_emulation/emulation.h"
#include "cuda_emulation/sanitizer.h"
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"
#include "tests/cuda/machine.h"

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_emulation::detects_bounds;
using cuda_test::DeviceArray;

template <class T>
NIBBLE_KERNEL(1, 1)
void read_kernel(const T* array, std::ptrdiff_t at, T* sink) {
  *sink = array[at];
}
template <class T>
NIBBLE_KERNEL(1, 1)
void write_kernel(T* array, std::ptrdiff_t at) {
  array[at] = T(1);
}
template <class T>
NIBBLE_KERNEL(1, 1)
void read_fixed_kernel(std::ptrdiff_t at, T* sink) {
  NIBBLE_SHARED(T, array, 5);
  const T* const first = array;
  *sink = first[at];
}
/// `at`: bytes behind the end.
template <class T>
NIBBLE_KERNEL(1, 1)
void read_dynamic_kernel(unsigned bytes, std::ptrdiff_t at, T* sink) {
  NIBBLE_DYNAMIC_SHARED(dynamic);
  *sink = *reinterpret_cast<const T*>(dynamic + static_cast<std::ptrdiff_t>(bytes) + at);
}

template <class T>
void read(const T* array, std::ptrdiff_t at) {
  T sink{};
  (void)launch(read_kernel<T>, dim3(1), dim3(1), 0, nullptr, array, at, &sink);
}
template <class T>
void write(T* array, std::ptrdiff_t at) {
  (void)launch(write_kernel<T>, dim3(1), dim3(1), 0, nullptr, array, at);
}

/// Whether any access to the byte would be reported.
bool is_refused(const void* p) { return __asan_address_is_poisoned(p) != 0; }

TEST(DeviceBounds, AReadOneElementBesideAnAllocationIsFound) {
  const DeviceArray<float> array(7);
  const DeviceArray<std::uint8_t> bytes(21);
  read(array.get(), 6);
  read(bytes.get(), 20);
  if (!detects_bounds()) GTEST_SKIP() << "without the address sanitizer nothing sees reads";
  EXPECT_DEATH(read(array.get(), 7), "AddressSanitizer");
  EXPECT_DEATH(read(array.get(), -1), "AddressSanitizer");
  EXPECT_DEATH(write(array.get(), 7), "AddressSanitizer");
  EXPECT_DEATH(read(bytes.get(), 21), "AddressSanitizer");
}

/// Lengths that are no multiple of anything, and as far as a warp's next access.
TEST(DeviceBounds, GuardsBeginAtTheFirstByteBeside) {
  if (!detects_bounds()) GTEST_SKIP() << "without the address sanitizer nothing sees reads";
  for (const std::size_t n : {1u, 7u, 20u, 255u, 256u, 1000u, 100001u}) {
    const DeviceArray<std::uint8_t> array(n);
    for (std::size_t i = 0; i < n; ++i) ASSERT_FALSE(is_refused(array.get() + i)) << i << " of " << n;
    for (std::ptrdiff_t i = 0; i < 512; ++i) {
      ASSERT_TRUE(is_refused(array.get() + n + i)) << i << " behind " << n;
      ASSERT_TRUE(is_refused(array.get() - 1 - i)) << i << " before " << n;
    }
  }
}

TEST(DeviceBounds, AReadOfFreedMemoryIsFound) {
  if (!detects_bounds()) GTEST_SKIP() << "without the address sanitizer nothing sees reads";
  const float* freed = nullptr;
  {
    const DeviceArray<float> array(20);
    freed = array.get();
  }
  EXPECT_DEATH(read(freed, 0), "AddressSanitizer");
}

/// From 1 GiB on, where an allocation has no memory of its own.
TEST(DeviceBounds, AReadBesideAHugeAllocationIsFound) {
  void* memory = nullptr;
  const std::size_t bytes = (std::size_t{5} << 30) + 3;
  ASSERT_EQ(cudaMalloc(&memory, bytes), cudaSuccess);
  const auto* array = static_cast<std::uint8_t*>(memory);
  read(array, 0);
  read(array, static_cast<std::ptrdiff_t>(bytes) - 1);
  if (detects_bounds()) {
    EXPECT_DEATH(read(array, static_cast<std::ptrdiff_t>(bytes)), "AddressSanitizer");
    EXPECT_DEATH(read(array, -1), "AddressSanitizer");
  }
  write(static_cast<std::uint8_t*>(memory), static_cast<std::ptrdiff_t>(bytes) - 1);
  std::uint8_t last = 0;
  ASSERT_EQ(cudaMemcpy(&last, array + bytes - 1, 1, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(last, 1);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(cuda_emulation::bytes_in_use(), 0u);
}

TEST(DeviceBounds, AWriteBesideAnAllocationIsNotedWithoutASanitizer) {
  if (detects_bounds()) GTEST_SKIP() << "the address sanitizer finds it first";
  for (const std::ptrdiff_t outside : {std::ptrdiff_t{-1}, std::ptrdiff_t{7}, std::ptrdiff_t{1000}}) {
    cuda_test::power_on();
    {
      const DeviceArray<float> array(7);
      write(array.get(), outside);
      EXPECT_NE(cuda_emulation::faults().find("beside an allocation of 28 bytes"), std::string::npos) << outside;
    }
    cuda_test::power_on();
  }
}

/// Arrays of fixed size and the launch's own; the zone behind them is as wide as what a warp reads at once.
TEST(DeviceBounds, AReadOneElementBesideSharedMemoryIsFound) {
  float sink = 0;
  const auto fixed = [&](std::ptrdiff_t at) {
    (void)launch(read_fixed_kernel<float>, dim3(1), dim3(1), 0, nullptr, at, &sink);
  };
  const auto dynamic = [&](unsigned bytes, std::ptrdiff_t at) {
    (void)launch(read_dynamic_kernel<float>, dim3(1), dim3(1), bytes, nullptr, bytes, at, &sink);
  };
  constexpr unsigned sizes[] = {4, 20, 128, 516, 4096};
  fixed(4);
  for (const unsigned bytes : sizes) dynamic(bytes, -4);
  if (!detects_bounds()) GTEST_SKIP() << "without the address sanitizer nothing sees reads";
  for (const std::ptrdiff_t at : {std::ptrdiff_t{5}, std::ptrdiff_t{-1}})
    EXPECT_DEATH(fixed(at), "AddressSanitizer") << at;
  for (const std::ptrdiff_t behind : {std::ptrdiff_t{0}, std::ptrdiff_t{508}})
    EXPECT_DEATH(dynamic(516, behind), "AddressSanitizer") << behind;
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
