// The demonstration kernels under every order, and in each build of the mutation suite with one of their defects.
#include "tests/cuda_emulation/demonstration.cuh"

#include <numeric>
#include <vector>

#include "tests/cuda/machine.h"

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_test::DeviceArray;
using cuda_test::for_each_order;

std::vector<float> counting(std::size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

TEST(Demonstration, Transposes) {
  const unsigned rows = 37, cols = 21;
  const std::vector<float> in = counting(rows * cols);
  const DeviceArray<float> from(in);
  for_each_order([&] {
    const DeviceArray<float> to(rows * cols);
    ASSERT_EQ(launch(transpose_kernel, dim3(2, 3), dim3(16, 16), 0, nullptr, from.get(), to.get(), rows, cols),
              cudaSuccess);
    const std::vector<float> out = to.host();
    for (unsigned r = 0; r < rows; ++r)
      for (unsigned c = 0; c < cols; ++c) ASSERT_EQ(out[c * rows + r], in[r * cols + c]) << r << ", " << c;
  });
}

TEST(Demonstration, SumsInOrder) {
  const DeviceArray<float> x(counting(1000));
  for_each_order(
      [&] {
        const DeviceArray<float> out(std::vector<float>{0});
        const DeviceArray<int> turn(std::vector<int>{0});
        ASSERT_EQ(launch(ordered_sum_kernel, dim3(4), dim3(128), 0, nullptr, x.get(), 1000u, out.get(), turn.get()),
                  cudaSuccess);
        EXPECT_EQ(out.host()[0], 500500.0f);
        EXPECT_EQ(turn.host()[0], 4);
      },
      4);
}

TEST(Demonstration, CopiesThroughTwoStages) {
  const unsigned tiles = 5;
  std::vector<uint4> in(tiles * 32);
  for (unsigned i = 0; i < in.size(); ++i) in[i] = {i, i + 1, i + 2, i + 3};
  const DeviceArray<uint4> from(in);
  for_each_order([&] {
    const DeviceArray<uint4> to(in.size());
    ASSERT_EQ(
        launch(neighbour_copy_kernel, dim3(1), dim3(32), 2 * 32 * sizeof(uint4), nullptr, from.get(), to.get(), tiles),
        cudaSuccess);
    const std::vector<uint4> out = to.host();
    for (unsigned t = 0; t < tiles; ++t)
      for (unsigned i = 0; i < 32; ++i) ASSERT_EQ(out[t * 32 + i].y, in[t * 32 + (i + 1) % 32].y) << t << ", " << i;
  });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
