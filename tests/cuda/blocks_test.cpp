// GGUF's blocks on the device against the CPU's decoder, bit for bit.
#include "kernels/cuda/blocks.h"

#include <cstring>

#include "tests/cuda/support.h"
#include "tests/support/random_blocks.h"

namespace nibble {
namespace {

using namespace cuda_test;

/// Bytes at random, but for scales: NaN has many bits, and only one of them is a definition.
std::vector<std::uint8_t> random_blocks(BlockType type, std::size_t count, unsigned seed) {
  const BlockMatrix m = testing_support::random_blocks(type, 1, count * block_size(type), seed);
  const auto* bytes = m.blocks.as<std::uint8_t>();
  return {bytes, bytes + m.blocks.size()};
}

/// Rows `stride` apart; what lies between rows must not be written.
template <class T>
void check(BlockType type, std::size_t rows, std::size_t cols, std::size_t stride) {
  const auto coded = random_blocks(type, rows * cols / block_size(type), 61);
  std::vector<float> expected(rows * cols);
  decode_blocks(type, reinterpret_cast<const std::byte*>(coded.data()), rows * cols, expected.data());
  const Bytes device(coded);
  const DeviceArray<T> out(rows * stride);
  const std::vector<T> untouched = out.host();
  require(cuda::dequantize_blocks(type, device.get(), rows, cols, out.get(), element_type<T>, stride, nullptr),
          "dequantize_blocks");
  const std::vector<T> actual = out.host();
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < stride; ++c) {
      const T value = c < cols ? T(expected[r * cols + c]) : untouched[r * stride + c];
      ASSERT_EQ(std::memcmp(&actual[r * stride + c], &value, sizeof value), 0)
          << name_of(type) << " at " << r << ", " << c << ": " << static_cast<float>(actual[r * stride + c]) << " for "
          << static_cast<float>(value);
    }
}

TEST(CudaBlocks, DecodeAsOnTheCpu) {
  for_each_order([&] {
    for (const BlockType type : kBlockTypes) {
      if (is_float(type) || !decodes_on_device(type)) continue;
      const std::size_t size = block_size(type);
      ASSERT_NO_FATAL_FAILURE(check<float>(type, 3, size, size));
      ASSERT_NO_FATAL_FAILURE(check<float>(type, 9, 3 * size, 3 * size + 5));  // rows of results at odd addresses
      ASSERT_NO_FATAL_FAILURE(check<f16>(type, 2, 512, 512));
      ASSERT_NO_FATAL_FAILURE(check<bf16>(type, 1, 768, 776));
    }
  });
}

TEST(CudaBlocks, RefuseWhatIsNoMatrixOfThem) {
  const auto status = [](BlockType type, std::size_t cols, DType out, std::size_t stride) {
    return cuda::dequantize_blocks(type, nullptr, 1, cols, nullptr, out, stride, nullptr);
  };
  EXPECT_EQ(status(BlockType::q4_0, 33, DType::f32, 64), cudaErrorInvalidValue);
  EXPECT_EQ(status(BlockType::q4_k, 32, DType::f32, 64), cudaErrorInvalidValue);
  EXPECT_EQ(status(BlockType::q4_0, 64, DType::f32, 63), cudaErrorInvalidValue);
  EXPECT_EQ(status(BlockType::q4_0, 64, DType::i32, 64), cudaErrorInvalidValue);
  EXPECT_EQ(status(BlockType::f16, 64, DType::f32, 64), cudaErrorInvalidValue);
  EXPECT_EQ(status(BlockType::mxfp4, 64, DType::f32, 64), cudaErrorInvalidValue);
  EXPECT_EQ(status(BlockType::iq2_xs, 256, DType::f32, 256), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble
