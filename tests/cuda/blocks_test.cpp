// GGUF's blocks on the device against the CPU's decoder, bit for bit.
#include "kernels/cuda/blocks.h"

#include <cstring>
#include <random>

#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;

/// Bytes at random, but for scales: NaN has many bits, and only one of them is a definition.
std::vector<std::uint8_t> random_blocks(BlockType type, std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> out(count * block_bytes(type));
  for (auto& byte : out) byte = static_cast<std::uint8_t>(random());
  const auto scale = [&] { return static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 5000; };
  const auto half = [&](std::uint8_t* at) {
    const f16 value(scale());
    std::memcpy(at, &value, sizeof value);
  };
  for (std::size_t i = 0; i < count; ++i) {
    std::uint8_t* at = out.data() + i * block_bytes(type);
    if (type == BlockType::q8_k) {
      const float value = scale();
      std::memcpy(at, &value, sizeof value);
    } else if (type == BlockType::q6_k) {
      half(at + offsetof(blocks::Q6_K, d));
    } else {
      half(at);
      if (type == BlockType::q4_1 || type == BlockType::q5_1 || type == BlockType::q4_k || type == BlockType::q5_k)
        half(at + 2);  // the minimum
    }
  }
  return out;
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
      if (is_float(type)) continue;
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
}

}  // namespace
}  // namespace nibble
