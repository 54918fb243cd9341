// Addresses that launches carry to the device.
#include "kernels/cuda/pointers.h"

#include "tests/cuda/machine.h"

namespace nibble {
namespace {

using namespace cuda_test;

TEST(CudaPointers, ArriveInOrderAndNoMore) {
  for_each_order([&] {
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, cuda::kPointersALaunch - 1, cuda::kPointersALaunch,
                                cuda::kPointersALaunch + 1, 3 * cuda::kPointersALaunch}) {
      std::vector<const void*> pointers;
      for (std::size_t i = 0; i < n; ++i) pointers.push_back(reinterpret_cast<const void*>(i * 0x0001'0203'0405 + 1));
      const std::vector<const void*> expected = pointers;
      const DeviceArray<const void*> out(n);
      require(cuda::store_pointers(pointers, out.get(), nullptr), "store_pointers");
      pointers.assign(n, nullptr);
      ASSERT_EQ(out.host(), expected) << n;
    }
    expect_clean();  // nothing was written beyond the array
  });
}

}  // namespace
}  // namespace nibble
