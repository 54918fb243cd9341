// Rows of packed matrices: what dequantize gives of the same matrix, bit for bit.
#include <gtest/gtest.h>

#include <numeric>

#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr std::size_t kRows = 67, kCols = 300;
constexpr std::int32_t kIds[] = {66, 0, 31, 32, 31, 64};

/// The rows kIds of `packed`, beside `expected` [kRows, kCols].
void expect_rows(const Backend& b, const PackedMatrix& packed, const std::vector<float>& expected, const char* what) {
  ASSERT_TRUE(b.has_gather_rows(packed));
  constexpr std::size_t stride = kCols + 5;
  std::vector<float> out(std::size(kIds) * stride, -7);
  b.gather_rows(packed, kIds, {out.data(), std::size(kIds), kCols, stride}, default_executor());
  for (std::size_t i = 0; i < std::size(kIds); ++i)
    for (std::size_t c = 0; c < stride; ++c)
      ASSERT_EQ(out[i * stride + c], c < kCols ? expected[static_cast<std::size_t>(kIds[i]) * kCols + c] : -7)
          << what << " on " << b.name() << ", row " << kIds[i] << ", column " << c;
}

TEST(GatherRows, GivesWhatDequantizeGives) {
  const auto w = normal(kRows * kCols, 1);
  for (const char* spec :
       {"int4-g20-sym", "int4-g100-asym", "int8", "int3-g60-asym", "int2-g20-sym", "int5-channel-sym", "int6-g50-sym",
        "int7-channel-asym", "nf4", "nf4-dq", "fp4", "llm-int8", "int4-g7-sym"}) {
    const QuantizedMatrix q = quantize(MatrixView<const float>(w.data(), kRows, kCols), spec);
    std::vector<float> expected(kRows * kCols);
    find_backend("scalar").dequantize(q, 0, {expected.data(), kRows, kCols}, serial_executor());
    for (const Backend* b : available()) expect_rows(*b, *b->pack(q), expected, spec);
  }
}

TEST(GatherRows, PutsColumnsOfActOrderBack) {
  const auto w = normal(kRows * kCols, 2);
  QuantizedMatrix q = quantize(MatrixView<const float>(w.data(), kRows, kCols), "int4-g100-asym");
  for (std::size_t c = 0; c < kCols; ++c) q.g_idx.push_back(static_cast<std::int32_t>(c % 3));
  std::vector<float> expected(kRows * kCols);
  find_backend("scalar").dequantize(q, 0, {expected.data(), kRows, kCols}, serial_executor());
  for (const Backend* b : available()) expect_rows(*b, *b->pack(q), expected, "act-order");
}

TEST(GatherRows, GivesUnquantizedValuesThemselves) {
  const auto w = normal(kRows * kCols, 3);
  std::vector<bf16> half(w.begin(), w.end());
  const std::vector<float> upcast(half.begin(), half.end());
  for (const Backend* b : available()) {
    expect_rows(*b, *b->pack(MatrixView<const float>(w.data(), kRows, kCols)), w, "fp32");
    expect_rows(*b, *b->pack(FloatMatrix(MatrixView<const bf16>(half.data(), kRows, kCols))), upcast, "bf16");
  }
}

TEST(GatherRows, DecodesBlocks) {
  const auto w = normal(kRows * 512, 4);
  for (const BlockType type : {BlockType::q4_0, BlockType::q6_k, BlockType::q4_k}) {
    const BlockMatrix m =
        BlockMatrix::encode(MatrixView<const float>(w.data(), kRows, 512), type, "w", serial_executor());
    std::vector<float> expected(512), out(512);
    m.decode_row(40, expected.data());
    for (const Backend* b : available()) {
      const std::int32_t row = 40;
      b->gather_rows(*b->pack(m), {&row, 1}, {out.data(), 1, 512}, serial_executor());
      EXPECT_EQ(out, expected) << b->name();
    }
  }
}

TEST(GatherRows, RefusesRowsAndShapesThatAreNotThere) {
  const auto w = normal(kRows * kCols, 5);
  for (const Backend* b : available()) {
    const auto packed = b->pack(quantize(MatrixView<const float>(w.data(), kRows, kCols), "nf4"));
    std::vector<float> out(2 * kCols, -7);
    const auto gather = [&](std::vector<std::int32_t> ids, std::size_t rows, std::size_t cols) {
      b->gather_rows(*packed, ids, {out.data(), rows, cols}, serial_executor());
    };
    expect_error(ErrorCode::invalid_argument, "is 67; the matrix has rows 0 to 66", [&] { gather({0, 67}, 2, kCols); });
    expect_error(ErrorCode::invalid_argument, "is -1", [&] { gather({-1, 0}, 2, kCols); });
    expect_error(ErrorCode::shape_mismatch, "do not fit", [&] { gather({0, 1}, 1, kCols); });
    expect_error(ErrorCode::shape_mismatch, "do not fit", [&] { gather({0, 1}, 2, kCols - 1); });
    EXPECT_EQ(out, std::vector<float>(2 * kCols, -7));
  }
}

}  // namespace
}  // namespace nibble
