// Weights laid out for the tensor cores give the canonical form back, and the packer refuses by name what it cannot
// take.
#include "backend/cuda/layout.h"

#include <gtest/gtest.h>

#include <cstring>

#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::normal;

QuantizedMatrix quantized(const char* spec, std::size_t rows, std::size_t cols) {
  const auto w = normal(rows * cols, 51);
  return quantize(MatrixView<const float>(w.data(), rows, cols), spec);
}

void check_w4(const QuantizedMatrix& q, std::size_t group) {
  const auto packed = cuda::pack_w4(q);
  EXPECT_EQ(packed.group, group);
  const auto codes = cuda::unpack_w4_codes(packed);
  ASSERT_EQ(codes.size(), q.codes.size());
  EXPECT_EQ(std::memcmp(codes.data(), q.codes.data(), codes.size()), 0);
  for (std::size_t row = 0; row < q.rows; ++row)
    for (std::size_t k = 0; k < q.cols; ++k) {
      const std::size_t col = packed.column_order.empty() ? k : static_cast<std::size_t>(packed.column_order[k]);
      const std::size_t own = q.group_of(row, col);
      ASSERT_EQ(packed.scale(row, k), q.scale(own));
      if (!q.spec.is_codebook()) ASSERT_EQ(packed.zero_point(row, k), q.zero_point(own));
      ASSERT_EQ(packed.code(row, col), q.code(row, col));
    }
}

TEST(CudaGemmLayout, GivesFourBitsBack) {
  check_w4(quantized("int4-g128-asym", 5, 264), 128);
  check_w4(quantized("int4-g96-sym", 3, 208), 32);
  check_w4(quantized("int4-g64-asym-bf16", 131, 72), 64);
  check_w4(quantized("int4-channel-sym-f32", 3, 200), 256);
  check_w4(quantized("int4-tensor-asym", 3, 40), 64);
  check_w4(quantized("nf4-b64-dq", 6, 192), 64);
  check_w4(quantized("fp4-b32", 2, 96), 32);
}

TEST(CudaGemmLayout, SortsActOrderColumns) {
  auto q = quantized("int4-g32-asym", 4, 128);
  for (std::int32_t c = 0; c < 128; ++c) q.g_idx.push_back(3 - c % 4);
  check_w4(q, 32);
  q.g_idx[0] = 0;  // a group of 33 columns
  EXPECT_NE(cuda::why_not_w4(q).find("32 neighbouring columns"), std::string::npos);
}

TEST(CudaGemmLayout, GivesEightBitsBack) {
  for (const char* spec : {"int8", "llm-int8", "int8-tensor-sym"}) {
    const auto q = quantized(spec, 9, 131);
    const auto packed = cuda::pack_int8(q);
    const auto codes = cuda::unpack_int8_codes(packed);
    ASSERT_EQ(codes.size(), q.codes.size());
    EXPECT_EQ(std::memcmp(codes.data(), q.codes.data(), codes.size()), 0);
    for (std::size_t row = 0; row < q.rows; ++row) EXPECT_EQ(packed.multipliers[row], q.multiplier(q.group_of(row, 0)));
  }
}

TEST(CudaGemmLayout, RefusesByName) {
  const auto why = [](const char* spec, std::size_t cols) { return cuda::why_not_w4(quantized(spec, 2, cols)); };
  EXPECT_EQ(why("int4-g128-sym", 256), "");
  EXPECT_NE(why("int3-g128-sym", 256).find("3 bits"), std::string::npos);
  EXPECT_NE(why("int4-g128-asymraw", 256).find("raw range"), std::string::npos);
  EXPECT_NE(why("int4-g128-sym", 257).find("multiple of 8"), std::string::npos);
  EXPECT_NE(why("int4-g16-sym", 256).find("32 neighbouring"), std::string::npos);
  EXPECT_NE(why("nf4-b64", 72).find("32 neighbouring"), std::string::npos);
  EXPECT_NE(cuda::why_not_int8(quantized("int8-g32-sym", 2, 64)).find("several scales"), std::string::npos);
  EXPECT_NE(cuda::why_not_int8(quantized("int8-channel-asym", 2, 64)).find("symmetric"), std::string::npos);
  try {
    (void)cuda::pack_w4(quantized("int4-g16-sym", 2, 256));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(e.what()).find("int4-g16-sym of 2 x 256"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace nibble
