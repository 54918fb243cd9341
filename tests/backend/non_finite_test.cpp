// What a narrower type cannot hold is an error that names the place, never an infinity that looks like a number.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "nibble/format/quantized_tensors.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::size_t kRows = 3, kCols = 4224;  // more than the columns that are decoded together

/// Small values, but one.
QuantizedMatrix with_one(const std::string& spec, float value, std::size_t row, std::size_t col) {
  auto w = normal(kRows * kCols, 1);
  w[row * kCols + col] = value;
  return quantize(MatrixView<const float>(w.data(), kRows, kCols), spec);
}

template <class T>
void decode(const Backend& b, const QuantizedMatrix& q, std::size_t first = 0) {
  std::vector<T> out((q.rows - first) * q.cols);
  b.dequantize_to(q, first, MatrixView<T>(out.data(), q.rows - first, q.cols), default_executor());
  for (const T v : out) ASSERT_TRUE(is_finite(static_cast<float>(v)));
}

TEST(Dequantize, RefusesWhatF16CannotHold) {
  for (const Backend* b : available())
    for (const char* spec : {"int4-g64-sym-f32", "int4-g128-asym-f32", "int4-channel-sym", "int4-g32-asymraw-f32",
                             "int3-g64-sym-f32", "int8", "nf4", "nf4-b64-dq", "fp4", "dynamic8", "llm-int8"}) {
      const QuantizedMatrix q = with_one(spec, 1e5f, 1, 4100);
      decode<float>(*b, q);
      decode<bf16>(*b, q);
      decode<f16>(*b, q, 2);
      expect_error(ErrorCode::non_finite, "row 1, column 4100: the value is ", [&] { decode<f16>(*b, q); });
      expect_error(ErrorCode::non_finite, "beyond what F16 holds", [&] { decode<f16>(*b, q, 1); });
    }
}

TEST(Dequantize, TakesTheLargestF16) {
  QuantizedMatrix q = QuantizedMatrix::allocate(QuantSpec::parse("int4-g64-sym-f32"), 1, 64);
  q.scales.writable<float>()[0] = 65504.0f / 7;
  set_code(q.codes.writable<std::uint8_t>(), 5, 4, 15);
  for (std::size_t c = 0; c < 64; ++c)
    if (c != 5) set_code(q.codes.writable<std::uint8_t>(), c, 4, 8);
  for (const Backend* b : available()) {
    std::vector<f16> out(64);
    b->dequantize_to(q, 0, MatrixView<f16>(out.data(), 1, 64), serial_executor());
    EXPECT_EQ(static_cast<float>(out[5]), 65504.0f) << b->name();
    EXPECT_EQ(static_cast<float>(out[6]), 0.0f) << b->name();
  }
}

TEST(Dequantize, RefusesWhatF32AndBF16CannotHold) {
  for (const char* spec : {"int4-g64-sym-f32", "int8-g64-sym-f32", "nf4"}) {
    QuantizedMatrix q = with_one(spec, 1, 0, 0);
    q.scales.writable<float>()[1] = 3e38f;
    if (q.spec.is_codebook()) q.codebook[15] = 1.5f;
    for (std::size_t c = 64; c < 128; ++c)
      set_code(q.codes.writable<std::uint8_t>(), c, q.spec.bits, static_cast<std::uint8_t>((1 << q.spec.bits) - 1));
    for (const Backend* b : available()) {
      expect_error(ErrorCode::non_finite, "row 0, column 64", [&] { decode<float>(*b, q); });
      expect_error(ErrorCode::non_finite, "row 0, column 64", [&] { decode<bf16>(*b, q); });
      decode<float>(*b, q, 1);
    }
  }
}

TEST(WithScaleType, NamesTheLayerWhoseScaleIsTooLarge) {
  QuantizedMatrix q = with_one("int8", 1, 0, 0);
  q.scales.writable<float>()[1] = 1e5f;
  expect_error(ErrorCode::non_finite, "layer 'down_proj': the scale of group 1 is beyond the range of F16",
               [&] { (void)with_scale_type(q, ScaleType::f16, "down_proj"); });
  EXPECT_NO_THROW((void)with_scale_type(q, ScaleType::bf16, "down_proj"));
}

TEST(Quantize, RefusesAScaleThatItsTypeCannotHold) {
  auto w = normal(kRows * kCols, 1);
  w[kCols + 70] = 1e6f;
  const MatrixView<const float> view(w.data(), kRows, kCols);
  for (const std::string spec : {"int4-g64-sym", "int4-g64-asym", "int4-tensor-sym", "int3-b128-sym"}) {
    expect_error(ErrorCode::non_finite, "does not fit its type", [&] { (void)quantize(view, spec + "-f16"); });
    EXPECT_NO_THROW((void)quantize(view, spec + "-bf16")) << spec;
  }
  for (const BlockType type : {BlockType::f16, BlockType::q4_0, BlockType::q5_1, BlockType::q8_0, BlockType::q4_k})
    if (const std::size_t cols = kCols / 256 * 256; can_encode(type)) {
      auto large = std::vector<float>(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(2 * cols));
      large[cols + 70] = 3e38f;
      expect_error(ErrorCode::non_finite, "'blk.0', row 1", [&] {
        (void)BlockMatrix::encode(MatrixView<const float>(large.data(), 2, cols), type, "blk.0", serial_executor());
      });
    }
}

}  // namespace
}  // namespace nibble
