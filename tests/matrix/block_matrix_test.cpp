#include "nibble/matrix/block_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "tests/support/backends.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_blocks.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::expect_error;
using testing_support::random_blocks;

std::vector<float> values_of(const BlockMatrix& m) {
  std::vector<float> out(m.rows * m.cols);
  for (std::size_t r = 0; r < m.rows; ++r) m.decode_row(r, out.data() + r * m.cols);
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::ranges::equal(a, b, {}, std::bit_cast<std::uint32_t, float>, std::bit_cast<std::uint32_t, float>);
}

class EveryBlockType : public testing::TestWithParam<BlockType> {};

TEST_P(EveryBlockType, AnyPartOfARowIsDecoded) {
  const BlockMatrix m = random_blocks(GetParam(), 3, 768, 1);
  const auto all = values_of(m);
  for (const auto& [first, last] :
       {std::pair{0u, 768u}, {0u, 1u}, {5u, 6u}, {31u, 33u}, {32u, 64u}, {250u, 600u}, {767u, 768u}, {9u, 9u}}) {
    std::vector<float> part(last - first);
    m.decode_row(1, first, last, part.data());
    EXPECT_TRUE(same_bits(part, {all.begin() + 768 + first, all.begin() + 768 + last})) << first << " " << last;
  }
}

TEST_P(EveryBlockType, TheExactFormHasTheSameValues) {
  const BlockMatrix m = random_blocks(GetParam(), 5, 768, 2);
  const auto spec = exact_spec(m.type);
  if (!spec) {
    expect_error(ErrorCode::unsupported, std::string(name_of(m.type)), [&] { (void)to_quantized(m); });
    return;
  }
  const QuantizedMatrix q = to_quantized(m);
  EXPECT_NO_THROW(q.validate("q"));
  std::vector<float> decoded(5 * 768);
  dequantize(q, {decoded.data(), 5, 768});
  EXPECT_TRUE(same_bits(decoded, values_of(m)));
  if (const auto back = exact_block_type(q)) {
    EXPECT_EQ(*back, m.type);
    const BlockMatrix again = to_blocks(q);
    ASSERT_EQ(again.blocks.size(), m.blocks.size());
    EXPECT_EQ(std::memcmp(again.blocks.data(), m.blocks.data(), m.blocks.size()), 0);
  }
}

/// Every backend multiplies by blocks as by the fp32 matrix that they decode to.
TEST_P(EveryBlockType, EveryBackendMultipliesByIt) {
  const std::size_t rows = 70, cols = 768;
  const BlockMatrix m = random_blocks(GetParam(), rows, cols, 3);
  const auto w = values_of(m);
  for (const std::size_t tokens : {1u, 40u}) {
    const auto x = testing_support::normal(tokens * cols, 4), z = testing_support::normal(tokens * rows, 5);
    for (const Backend* b : testing_support::available()) {
      const PackedMatrixPtr packed = b->pack(m);
      std::vector<float> y(tokens * rows), back(tokens * cols);
      b->matmul({x.data(), tokens, cols}, *packed, {y.data(), tokens, rows}, serial_executor());
      b->matmul_transposed({z.data(), tokens, rows}, *packed, {back.data(), tokens, cols}, serial_executor());
      const auto near = [&](float got, std::size_t n, auto term) {
        double sum = 0, size = 0;
        for (std::size_t k = 0; k < n; ++k) {
          sum += term(k);
          size += std::abs(term(k));
        }
        // The documented bound, with room for the terms of second order.
        ASSERT_NEAR(got, sum, 1.01 * (256 + static_cast<double>(n) / 256) * 0x1p-24 * size) << b->name();
      };
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < rows; ++r)
          near(y[t * rows + r], cols, [&](std::size_t k) {
            return static_cast<double>(x[t * cols + k]) * static_cast<double>(w[r * cols + k]);
          });
        for (std::size_t c = 0; c < cols; c += 7)
          near(back[t * cols + c], rows, [&](std::size_t k) {
            return static_cast<double>(z[t * rows + k]) * static_cast<double>(w[k * cols + c]);
          });
      }
    }
  }
}

TEST_P(EveryBlockType, TheErrorOfEncodingIsThatOfItsBits) {
  const BlockType type = GetParam();
  const auto x = testing_support::normal(4 * 512, 6, 0.05f);
  const FloatMatrix w = MatrixView<const float>(x.data(), 4, 512);
  if (!can_encode(type)) {
    expect_error(ErrorCode::unsupported, "can be read, not written",
                 [&] { (void)BlockMatrix::encode(w, type, "w", serial_executor()); });
    return;
  }
  const BlockMatrix m = BlockMatrix::encode(w, type, "w", default_executor());
  const auto values = values_of(m);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(x[i] - values[i]), 2);
    size += std::pow(static_cast<double>(x[i]), 2);
  }
  // A step of a uniform quantizer over ±3.5 sigma with one level fewer than it has: an upper bound for each type.
  const double bits = type == BlockType::q4_0 || type == BlockType::q4_1 || type == BlockType::q4_k   ? 4
                      : type == BlockType::iq4_nl || type == BlockType::iq4_xs                        ? 4
                      : type == BlockType::q5_0 || type == BlockType::q5_1 || type == BlockType::q5_k ? 5
                      : type == BlockType::q2_k                                                       ? 2.3
                      : type == BlockType::mxfp4                                                      ? 3.9
                      : type == BlockType::q3_k                                                       ? 3
                      : type == BlockType::q6_k                                                       ? 6
                                                                                                      : 8;
  EXPECT_LT(std::sqrt(error / size), 7 / (std::exp2(bits) - 2) / std::sqrt(12.0));
  EXPECT_EQ(
      std::memcmp(BlockMatrix::encode(w, type, "w", serial_executor()).blocks.data(), m.blocks.data(), m.blocks.size()),
      0)
      << "depends on threads";
}

INSTANTIATE_TEST_SUITE_P(All, EveryBlockType, testing::ValuesIn(kBlockTypes),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST(BlockMatrix, Q8KIsReadAsItsStructSays) {
  blocks::Q8_K b{};
  b.d = 0.3f;
  for (int j = 0; j < 256; ++j) b.codes[j] = static_cast<std::int8_t>(j - 128);
  std::vector<std::byte> bytes(292);
  std::memcpy(bytes.data(), &b.d, 4);
  std::memcpy(bytes.data() + 4, b.codes, 256);
  float out[256];
  decode_blocks(BlockType::q8_k, bytes.data(), 256, out);
  for (int j = 0; j < 256; ++j) EXPECT_EQ(out[j], static_cast<float>(j - 128) * 0.3f);
}

TEST(BlockMatrix, OnlyWhatIsExactBecomesBlocks) {
  const auto x = testing_support::normal(4 * 64, 7);
  const MatrixView<const float> w(x.data(), 4, 64);
  for (const char* text :
       {"int4-g32-sym", "int5-g32-sym", "int8-g32-sym", "int8-g32-sym-full", "int4-g32-sym-restricted"}) {
    const QuantizedMatrix q = quantize(w, text);
    ASSERT_TRUE(exact_block_type(q)) << text;
    const BlockMatrix m = to_blocks(q);
    std::vector<float> decoded(x.size());
    dequantize(q, {decoded.data(), 4, 64});
    EXPECT_TRUE(same_bits(decoded, values_of(m))) << text;
  }
  for (const char* text : {"int4-g64-sym", "int4-g32-asym", "int4-g32-sym-f32", "int3-g32-sym", "nf4", "int8"}) {
    const QuantizedMatrix q = quantize(w, text);
    EXPECT_FALSE(exact_block_type(q)) << text;
    expect_error(ErrorCode::unsupported, q.spec.to_string(), [&] { (void)to_blocks(q); });
  }
  QuantizedMatrix q = quantize(w, "int4-g32-sym");
  q.g_idx.assign(64, 0);
  EXPECT_FALSE(exact_block_type(q)) << "columns in another order";
}

TEST(BlockMatrix, RefusesWhatItCannotHold) {
  const auto encode = [](float bad, BlockType type) {
    auto x = testing_support::normal(2 * 256, 8);
    x[256 + 40] = bad;
    (void)BlockMatrix::encode(MatrixView<const float>(x.data(), 2, 256), type, "w", serial_executor());
  };
  for (const BlockType type : kBlockTypes) {
    if (!can_encode(type)) continue;
    expect_error(ErrorCode::non_finite, "'w', row 1, column 40: the value is NaN", [&] { encode(NAN, type); });
    expect_error(ErrorCode::non_finite, "'w', row 1, column 40: the value is -infinity",
                 [&] { encode(-INFINITY, type); });
    if (type == BlockType::f32 || type == BlockType::bf16 || type == BlockType::mxfp4)
      EXPECT_NO_THROW(encode(1e38f, type));
    else expect_error(ErrorCode::non_finite, "f16 cannot hold the scale", [&] { encode(1e38f, type); });
    EXPECT_NO_THROW(encode(1e-44f, type)) << name_of(type);
  }
  expect_error(ErrorCode::invalid_argument, "whole blocks of 32",
               [] { (void)BlockMatrix::allocate(BlockType::q8_0, 2, 48); });
  BlockMatrix m = BlockMatrix::allocate(BlockType::q8_0, 2, 64);
  m.rows = 3;
  expect_error(ErrorCode::corrupt_file, "'w' (Q8_0, 3 × 64): it has 136 bytes", [&] { m.validate("w"); });
}

TEST(BlockMatrix, ThePowerOfMxfp4IsTheBestOfTheThreeThatMayBe) {
  const auto error_of = [](const float* x, const float* weights, int e) {
    blocks::MXFP4 b{};
    b.e = static_cast<std::uint8_t>(e);
    double error = 0;
    for (std::size_t i = 0; i < 32; ++i) {  // the nearest of all fifteen, looked for one by one
      float least = INFINITY;
      for (const int level : blocks::doubled_e2m1_table())
        least = std::min(least, std::abs(x[i] - static_cast<float>(level) * b.scale()));
      error += static_cast<double>(weights[i]) * static_cast<double>(least) * static_cast<double>(least);
    }
    return error;
  };
  int larger = 0, smaller = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    const auto x = testing_support::normal(32, seed, 0.05f);
    auto weights = testing_support::normal(32, seed + 1000, 1);
    for (float& w : weights) w = w * w * (seed % 2 == 0 ? 1.0f : w * w);
    const std::vector<float> ones(32, 1.0f);
    for (const bool weighs : {false, true}) {
      const std::vector<float>& counts = weighs ? weights : ones;
      blocks::MXFP4 b;
      const bool fits = weighs
                            ? encode_block(BlockType::mxfp4, x.data(), counts.data(), reinterpret_cast<std::byte*>(&b))
                            : encode_block(BlockType::mxfp4, x.data(), reinterpret_cast<std::byte*>(&b));
      ASSERT_TRUE(fits);
      float most = 0;
      for (const float v : x) most = std::max(most, std::abs(v));
      const int middle = std::ilogb(most) + 125;
      larger += b.e > middle ? 1 : 0;
      smaller += b.e < middle ? 1 : 0;
      float out[32];
      blocks::decode(b, out);
      double error = 0;
      for (std::size_t i = 0; i < 32; ++i)
        error += static_cast<double>(counts[i]) * std::pow(static_cast<double>(x[i] - out[i]), 2);
      for (const int e : {middle - 1, middle, middle + 1})
        EXPECT_LE(error, error_of(x.data(), counts.data(), e) * (weighs ? 1.02 : 1.00001)) << seed << " " << e;
    }
  }
  EXPECT_GT(larger, 10);
  EXPECT_GT(smaller, 0) << "where the largest value counts for little";
}

TEST(BlockMatrix, EncodersTakeAnyFiniteValue) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::vector<float> x = seed % 4 == 0   ? testing_support::denormals(256, seed)
                           : seed % 4 == 1 ? testing_support::ties(256, seed)
                                           : testing_support::any_finite(256, seed);
    if (seed % 4 == 3)
      for (float& v : x) v = std::ldexp(std::frexp(v, std::array<int, 1>{}.data()), static_cast<int>(seed) - 30);
    for (const BlockType type : kBlockTypes)
      for (std::size_t i = 0; i < 256 && can_encode(type) && !is_float(type); i += block_size(type)) {
        std::vector<std::byte> block(block_bytes(type));
        if (!encode_block(type, x.data() + i, block.data())) continue;  // refused for its size
        std::vector<float> out(block_size(type));
        decode_blocks(type, block.data(), out.size(), out.data());
        float most = 0, error = 0;
        for (std::size_t j = 0; j < out.size(); ++j) {
          most = std::max(most, std::abs(x[i + j]));
          error = std::max(error, std::abs(x[i + j] - out[j]));
        }
        EXPECT_LE(error, std::max(most * 1.01f, 0x1p-20f)) << name_of(type) << " seed " << seed;
      }
  }
}

}  // namespace
}  // namespace nibble
