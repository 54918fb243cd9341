#include "nibble/matrix/quantized_matrix.h"

#include <gtest/gtest.h>

#include "nibble/quantize/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

QuantizedMatrix make(const char* spec, std::size_t rows = 5, std::size_t cols = 100) {
  const auto w = normal(rows * cols, 3);
  return quantize(MatrixView<const float>(w.data(), rows, cols), spec);
}

TEST(QuantizedMatrix, KnowsTheGroupOfEveryWeight) {
  EXPECT_EQ(make("int4-tensor-sym").group_of(4, 99), 0u);
  EXPECT_EQ(make("int4-channel-sym").group_of(4, 99), 4u);
  const auto grouped = make("int4-g32-sym");  // four groups a row, the last of 4 columns
  EXPECT_EQ(grouped.group_count(), 20u);
  EXPECT_EQ(grouped.group_of(2, 0), 8u);
  EXPECT_EQ(grouped.group_of(2, 99), 11u);
  const auto blocks = make("nf4-b64");  // over the flat matrix: row 1 begins inside block 1
  EXPECT_EQ(blocks.group_count(), 8u);
  EXPECT_EQ(blocks.group_of(1, 0), 1u);
  EXPECT_EQ(blocks.group_of(4, 99), 7u);
}

TEST(QuantizedMatrix, ActOrderNamesTheGroupOfEachColumn) {
  auto q = make("int4-g32-asym");
  q.g_idx.resize(100);
  for (std::size_t c = 0; c < 100; ++c) q.g_idx[c] = static_cast<std::int32_t>(c % 4);
  EXPECT_NO_THROW(q.validate("w"));
  EXPECT_EQ(q.group_of(1, 6), 4u + 2u);
  std::vector<float> row(100);
  default_backend().dequantize(q, 1, {row.data(), 1, 100}, default_executor());
  for (std::size_t c = 0; c < 100; ++c) {
    const std::size_t g = 4 + c % 4;
    EXPECT_EQ(row[c], static_cast<float>(q.code(1, c) - q.zero_point(g)) * q.scale(g));
    EXPECT_EQ(row[c], q.value(1, c));
  }
}

TEST(QuantizedMatrix, ValidateNamesWhatIsWrong) {
  const auto refuse = [](const char* spec, const std::string& says, auto&& damage) {
    auto q = make(spec);
    EXPECT_NO_THROW(q.validate("layer.weight"));
    damage(q);
    expect_error(ErrorCode::corrupt_file, says, [&] { q.validate("layer.weight"); });
  };
  refuse("int4-g32-sym", "codes has 1 bytes or entries, 250 are needed",
         [](auto& q) { q.codes = Buffer::allocate(1); });
  refuse("int4-g32-sym", "'layer.weight' (int4-g32-sym, 5 × 100): scales",
         [](auto& q) { q.scales = Buffer::allocate(1); });
  refuse("int4-g32-asym", "zero_points", [](auto& q) { q.zero_points = {}; });
  refuse("nf4", "codebook has 15", [](auto& q) { q.codebook.pop_back(); });
  refuse("nf4-b64-dq", "nested absmax has 0", [](auto& q) { q.nested.absmax.clear(); });
  refuse("nf4-b64-dq", "nested map has 255", [](auto& q) { q.nested.map.pop_back(); });
  refuse("int4-g32-sym", "g_idx has 3", [](auto& q) { q.g_idx.assign(3, 0); });
  refuse("int4-g32-sym", "g_idx[7] is 4; it must be 0 to 3", [](auto& q) { q.g_idx.assign(100, 0), q.g_idx[7] = 4; });
  refuse("int4-g32-sym", "g_idx[0] is -1", [](auto& q) { q.g_idx.assign(100, 0), q.g_idx[0] = -1; });
}

TEST(QuantizedMatrix, StorageIsWhatTheSpecSays) {
  for (const char* spec : {"int4-g32-sym", "int8", "llm-int8", "int3-g50-sym"}) {
    const auto q = make(spec, 64, 1600);
    EXPECT_NEAR(8.0 * static_cast<double>(q.storage_bytes()) / (64 * 1600), q.spec.bits_per_weight(64, 1600), 1e-9)
        << spec;
  }
  EXPECT_THROW((void)QuantizedMatrix::allocate(QuantSpec::parse("nf4"), 0, 5), Error);
}

}  // namespace
}  // namespace nibble
