// GGUF's blocks as weights on the device.
#include "nibble/cuda/blocks.h"

#include <cmath>
#include <cstring>

#include "tests/cuda/backend_support.h"
#include "tests/cuda/blocks_support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

constexpr std::size_t kRows = 3, kCols = 256;

/// y = x·Wᵀ of two tokens against exact sums, by the bound of the tier that made it (cuda.h).
void check_product(const cuda::Context& context, const cuda::Matrix& w, const BlockMatrix& m) {
  const std::size_t tokens = 2;
  const auto x = normal(tokens * kCols, 72);
  const DeviceArray<float> dx(x), dy(tokens * kRows);
  const cuda::DeviceBuffer scratch(cuda::matmul_workspace(w, tokens, DType::f32), context.allocator(), nullptr);
  cuda::matmul(context, {dx.get(), DType::f32, tokens, kCols, kCols}, w, {dy.get(), DType::f32, tokens, kRows, kRows},
               scratch.span(), nullptr);
  const auto y = dy.host();
  const bool few = cuda::matmul_tier(w, tokens, DType::f32) == cuda::Tier::gemv;
  const double in = kCols, roundings = few ? in / 1024 + 40 : in + 1;
  std::vector<float> row(kCols);
  for (std::size_t r = 0; r < kRows; ++r) {
    m.decode_row(r, 0, kCols, row.data());
    for (std::size_t t = 0; t < tokens; ++t) {
      double exact = 0, size = 0;
      for (std::size_t c = 0; c < kCols; ++c) {
        const double product = static_cast<double>(x[t * kCols + c]) * static_cast<double>(row[c]);
        exact += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(static_cast<double>(y[t * kRows + r]), exact, 1.01 * roundings * 0x1p-24 * size)
          << name_of(m.type) << ", row " << r;
    }
  }
}

TEST(CudaBlockMatrix, MultipliesByWhatTheBlocksDecodeTo) {
  power_on();
  {
    const cuda::Context context;
    for (const BlockType type : kBlockTypes) {
      if (type == BlockType::f16 || type == BlockType::bf16) continue;  // matmul() wants x of their type
      const BlockMatrix m = blocks_of(type, kRows, kCols);
      const auto w = cuda::pack(context, m, DType::f32, nullptr);
      EXPECT_EQ(w->is_quantized(), exact_spec(type).has_value()) << name_of(type);
      ASSERT_NO_FATAL_FAILURE(check_product(context, *w, m));
    }
    const BlockMatrix half = blocks_of(BlockType::f16, kRows, kCols);
    const auto w = cuda::pack(context, half, DType::f32, nullptr);
    EXPECT_FALSE(w->is_quantized());
    EXPECT_EQ(w->storage_bytes(), kRows * kCols * sizeof(f16));
  }
  expect_no_leaks();
  expect_clean();
}

/// Few tokens and many of every type, floats included, from host memory and back.
TEST(CudaBlockMatrix, BehindTheInterface) {
  power_on();
  cuda::register_backend();
  const Backend& backend = find_backend("cuda");
  for (const BlockType type : kBlockTypes) {
    const BlockMatrix m = blocks_of(type, kRows, kCols);
    const auto packed = backend.pack(m);
    std::vector<float> w(kRows * kCols);
    for (std::size_t r = 0; r < kRows; ++r) m.decode_row(r, 0, kCols, w.data() + r * kCols);
    const Weights weights{kRows, kCols, [&](std::size_t r, std::size_t c) { return w[r * kCols + c]; }};
    for (const std::size_t n : {1u, 9u}) {
      const auto x = normal(n * kCols, 73);
      std::vector<float> y(n * kRows, NAN);
      backend.matmul({x.data(), n, kCols}, *packed, {y.data(), n, kRows}, serial_executor());
      ASSERT_NO_FATAL_FAILURE(
          expect_product(x, weights, y, n, 1.01 * (kCols + 1) * 0x1p-24, 0, std::string(name_of(type))));
    }
    if (exact_spec(type)) expect_same(backend.unpack(*packed), to_quantized(m), std::string(name_of(type)));
  }
  BlockMatrix m = blocks_of(BlockType::q4_k, kRows, kCols);
  m.rows = 4;
  expect_error(ErrorCode::corrupt_file, "(Q4_K, 4 × 256)", [&] { (void)backend.pack(m); });
  expect_clean();
  expect_bytes_in_use(0);
}

TEST(CudaBlockMatrix, NamesWhatItCannotTake) {
  power_on();
  const cuda::Context context;
  BlockMatrix m = blocks_of(BlockType::q4_k, kRows, kCols);
  expect_error(ErrorCode::unsupported, "tensor 'up': Q4_K blocks decode to F32, F16 and BF16, not to I32",
               [&] { (void)cuda::pack(context, m, DType::i32, nullptr, "up"); });
  m.rows = 4;
  expect_error(ErrorCode::corrupt_file, "tensor 'up' (Q4_K, 4 × 256)",
               [&] { (void)cuda::pack(context, m, DType::f32, nullptr, "up"); });
  const DeviceArray<float> out(256);
  const auto decode = [&](BlockType type, std::size_t offset, DType to, std::size_t cols, std::size_t stride) {
    cuda::dequantize(context, type, reinterpret_cast<const std::byte*>(out.get()) + offset,
                     {out.get(), to, 1, cols, stride}, nullptr);
  };
  expect_error(ErrorCode::shape_mismatch, "Q4_K blocks of 256 values cannot fill rows of 64 columns, 64 apart",
               [&] { decode(BlockType::q4_k, 0, DType::f32, 64, 64); });
  expect_error(ErrorCode::shape_mismatch, "64 columns, 32 apart",
               [&] { decode(BlockType::q4_0, 0, DType::f32, 64, 32); });
  expect_error(ErrorCode::invalid_argument, "aligned to 4 bytes",
               [&] { decode(BlockType::q4_0, 2, DType::f32, 64, 64); });
  expect_error(ErrorCode::unsupported, "not to I32", [&] { decode(BlockType::q4_0, 0, DType::i32, 64, 64); });
  expect_error(ErrorCode::unsupported, "F16 blocks are plain floats",
               [&] { decode(BlockType::f16, 0, DType::f32, 64, 64); });
}

}  // namespace
}  // namespace nibble
