// The rows of headers alone against the compiled library, bit for bit, and their errors. (That they compile without
// exceptions and link nothing, tests/consumer shows.)
#include "nibble/quantize/rows.h"

#include <gtest/gtest.h>

#include <cstring>

#include "nibble/nibble.h"
#include "nibble/quantize/typed.h"
#include "tests/support/expect_error.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using namespace testing_support;

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

template <class S>
class Rows : public testing::Test {};

using Schemes =
    testing::Types<Symmetric<2>, Symmetric<3>, Symmetric<4>, Symmetric<5>, Symmetric<6>, Symmetric<7>, Symmetric<8>,
                   Symmetric<3, true>, Symmetric<8, false>, Asymmetric<2>, Asymmetric<3>, Asymmetric<4>, Asymmetric<5>,
                   Asymmetric<6>, Asymmetric<7>, Asymmetric<8>, Asymmetric<3, false>, Asymmetric<4, false>,
                   Asymmetric<8, false>, Codebook<nf4>, Codebook<fp4>, Codebook<dynamic_map<true>>, LlmInt8>;
TYPED_TEST_SUITE(Rows, Schemes);

template <class S>
std::vector<QuantSpec> specs_of() {
  std::vector<QuantSpec> out;
  if constexpr (std::is_same_v<typename S::Params, AffineParams>) {
    for (const Granularity where : {Granularity::tensor, Granularity::channel, Granularity::group, Granularity::block})
      for (const std::size_t size : {std::size_t{7}, std::size_t{32}, std::size_t{1000}})
        for (const ScaleType type : {ScaleType::f32, ScaleType::bf16})
          out.push_back(spec_of<S>({.granularity = where, .group_size = size, .scale_type = type}));
  } else {
    for (const std::size_t size : {std::size_t{7}, std::size_t{64}, std::size_t{4096}})
      out.push_back(spec_of<S>({.block_size = size}));
  }
  return out;
}

template <class S, class T>
void check(const QuantSpec& spec, const std::vector<T>& x, std::size_t rows, std::size_t cols) {
  const MatrixView<const T> m(x.data(), rows, cols);
  const QuantizedMatrix q = quantize(m, spec);
  std::vector<std::uint8_t> codes(rows * packed_bytes(cols, S::bits), 0xee);
  std::vector<typename S::Params> params(spec.group_count(rows, cols));
  const auto result = quantize_rows<S>(m, spec.grouping(), codes, params, spec.scale_type);
  ASSERT_TRUE(result) << spec.to_string() << ": " << result.why;
  ASSERT_EQ(std::memcmp(codes.data(), q.codes.data(), codes.size()), 0) << spec.to_string();
  for (std::size_t g = 0; g < params.size(); ++g) {
    ASSERT_EQ(bits_of(detail::scale_of(params[g])), bits_of(q.scale(g))) << spec.to_string() << ", group " << g;
    if constexpr (requires { params[g].zero_point; })
      ASSERT_EQ(params[g].zero_point, q.zero_point(g)) << spec.to_string() << ", group " << g;
  }
  std::vector<float> decoded(x.size()), expected(x.size());
  ASSERT_TRUE((dequantize_rows<S>(codes, params, spec.grouping(), MatrixView<float>(decoded.data(), rows, cols))));
  dequantize(q, {expected.data(), rows, cols});
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(bits_of(decoded[i]), bits_of(expected[i])) << spec.to_string();
}

TYPED_TEST(Rows, AreTheLibrarysBits) {
  const struct { std::size_t rows, cols; } shapes[] = {{3, 131}, {5, 64}, {1, 1}, {2, 17}};
  for (const QuantSpec& spec : specs_of<TypeParam>())
    for (const auto& s : shapes) {
      const std::size_t n = s.rows * s.cols;
      for (const auto& data : {normal(n, 1), ties(n, 2), denormals(n, 3), any_finite(n, 4), std::vector<float>(n, 0.0f),
                               std::vector<float>(n, -0.7f)})
        ASSERT_NO_FATAL_FAILURE((check<TypeParam, float>(spec, data, s.rows, s.cols)));
    }
}

TYPED_TEST(Rows, TakeAndGiveHalfPrecision) {
  constexpr std::size_t rows = 4, cols = 96;
  const auto x = normal(rows * cols, 5);
  std::vector<f16> half;
  std::vector<bf16> brain;
  for (const float v : x) {
    half.emplace_back(v);
    brain.emplace_back(v);
  }
  const QuantSpec spec = specs_of<TypeParam>().back();
  ASSERT_NO_FATAL_FAILURE((check<TypeParam, f16>(spec, half, rows, cols)));
  ASSERT_NO_FATAL_FAILURE((check<TypeParam, bf16>(spec, brain, rows, cols)));

  const Grouping groups = spec.grouping();
  std::vector<std::uint8_t> codes(rows * packed_bytes(cols, TypeParam::bits));
  std::vector<typename TypeParam::Params> params(groups.count(rows, cols));
  ASSERT_TRUE((quantize_rows<TypeParam>(MatrixView<const float>(x.data(), rows, cols), groups, codes, params)));
  std::vector<float> wide(x.size());
  ASSERT_TRUE((dequantize_rows<TypeParam>(codes, params, groups, MatrixView<float>(wide.data(), rows, cols))));
  ASSERT_TRUE((dequantize_rows<TypeParam>(codes, params, groups, MatrixView<f16>(half.data(), rows, cols))));
  ASSERT_TRUE((dequantize_rows<TypeParam>(codes, params, groups, MatrixView<bf16>(brain.data(), rows, cols))));
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(half[i], f16(wide[i])) << i;
    ASSERT_EQ(brain[i], bf16(wide[i])) << i;
  }
}

TEST(RowsOfBlocks, AreTheLibrarysBits) {
  constexpr std::size_t rows = 3, cols = 512;
  for (const auto& x : {normal(rows * cols, 6), ties(rows * cols, 7), denormals(rows * cols, 8)})
    for (const BlockType type : kBlockTypes)
      visit_block(type, [&](auto block) {
        using Block = decltype(block);
        const MatrixView<const float> m(x.data(), rows, cols);
        std::vector<Block> blocks(rows * cols / Block::size);
        BlockMatrix expected = BlockMatrix::allocate(type, rows, cols);
        if (can_encode(type)) expected = BlockMatrix::encode(m, type, "w", serial_executor());
        if constexpr (requires { quantize_rows(m, std::span(blocks)); }) {
          ASSERT_TRUE(quantize_rows(m, std::span(blocks)));
          ASSERT_EQ(std::memcmp(blocks.data(), expected.blocks.data(), expected.blocks.size()), 0) << name_of(type);
        }
        std::memcpy(blocks.data(), expected.blocks.data(), expected.blocks.size());
        std::vector<float> decoded(x.size()), row(cols);
        ASSERT_TRUE(dequantize_rows(std::span<const Block>(blocks), MatrixView<float>(decoded.data(), rows, cols)));
        for (std::size_t r = 0; r < rows; ++r) {
          expected.decode_row(r, row.data());
          ASSERT_EQ(std::memcmp(decoded.data() + r * cols, row.data(), cols * sizeof(float)), 0) << name_of(type);
        }
      });
}

TEST(RowsOfBlocks, SayWhatTheyRefuse) {
  std::vector<float> x(2 * 64, 1.0f);
  std::vector<blocks::Q4_0> blocks(4);
  EXPECT_EQ(quantize_rows(MatrixView<const float>(x.data(), 2, 48, 64), std::span(blocks)).need, 64u);
  EXPECT_EQ(quantize_rows(MatrixView<const float>(x.data(), 1, 64), std::span(blocks)).need, 2u);
  x[64 + 33] = NAN;
  const auto nan = quantize_rows(MatrixView<const float>(x.data(), 2, 64), std::span(blocks));
  EXPECT_EQ(nan.code, ErrorCode::non_finite);
  EXPECT_EQ(nan.row, 1u);
  EXPECT_EQ(nan.col, 33u);
  x[64 + 33] = 1e30f;
  const auto large = quantize_rows(MatrixView<const float>(x.data(), 2, 64), std::span(blocks));
  EXPECT_EQ(large.code, ErrorCode::non_finite);
  EXPECT_EQ(large.col, 32u);
}

/// A scheme with nothing but what the concept asks for: each value's sign, times the largest magnitude.
struct Sign {
  struct Params {
    float largest = 0;
  };
  static constexpr int bits = 2;
  static constexpr Params fit(std::span<const float> values) { return {range_of(values).absmax()}; }
  static constexpr std::uint8_t encode(float x, Params) { return x < 0 ? 0 : 1; }
  static constexpr float decode(std::uint8_t code, Params p) { return code == 0 ? -p.largest : p.largest; }
};

TEST(RowsOfOnesOwn, NeedNoMoreThanTheConcept) {
  const float x[] = {1, -2, 3, -4, 5, 6};
  std::vector<std::uint8_t> codes(2);
  std::vector<Sign::Params> params(3);
  const Grouping blocks{Granularity::block, 2};
  ASSERT_TRUE(quantize_rows<Sign>(MatrixView<const float>(x, 2, 3), blocks, codes, params));
  float out[6];
  ASSERT_TRUE(dequantize_rows<Sign>(codes, params, blocks, MatrixView<float>(out, 2, 3)));
  EXPECT_EQ(std::vector<float>(out, out + 6), (std::vector<float>{2, -2, 4, -4, 6, 6}));
  const float apart[] = {1, -2, 3, 0, -4, 5, 6, 0};
  EXPECT_EQ(quantize_rows<Sign>(MatrixView<const float>(apart, 2, 3, 4), blocks, codes, params).code,
            ErrorCode::unsupported);
  params.resize(2);
  EXPECT_TRUE(quantize_rows<Sign>(MatrixView<const float>(apart, 2, 3, 4), {Granularity::channel}, codes, params));
  EXPECT_EQ(params[1].largest, 6.0f);
}

TEST(Rows, AreConstantExpressions) {
  constexpr auto codes = [] {
    const std::array<float, 4> x{-1, 0, 1, 0.5f};
    std::array<std::uint8_t, 2> out{};
    std::array<CodebookParams, 1> params{};
    const bool ok{quantize_rows<Codebook<nf4>>(MatrixView<const float>(x.data(), 1, 4), {}, out, params)};
    return ok ? out : std::array<std::uint8_t, 2>{};
  }();
  static_assert(codes[0] == 0x70 && codes[1] == 0xcf);
}

TEST(Rows, AbsmaxValuesAreQuantizedInTurn) {
  const auto x = normal(40 * 64, 9);
  const auto q = quantize(MatrixView<const float>(x.data(), 40, 64), "nf4-b8-dq");
  std::vector<float> absmax;
  for (std::size_t g = 0; g < q.group_count(); ++g)
    absmax.push_back(Codebook<nf4>::fit(std::span(x).subspan(8 * g, 8)).absmax);
  std::vector<std::uint8_t> bytes(absmax.size());
  std::vector<float> nested(nested_count(absmax.size()));
  const float offset = quantize_nested(absmax, bytes.data(), nested.data());
  EXPECT_EQ(offset, q.nested.offset);
  EXPECT_EQ(nested, q.nested.absmax);
  EXPECT_EQ(std::memcmp(bytes.data(), q.scales.data(), bytes.size()), 0);
  dequantize_nested(bytes.data(), nested.data(), offset, absmax);
  for (std::size_t g = 0; g < absmax.size(); ++g) ASSERT_EQ(absmax[g], q.scale(g)) << g;
}

TEST(Rows, SayWhatTheyRefuse) {
  using S = Symmetric<4>;
  auto x = normal(4 * 8, 10);
  std::vector<std::uint8_t> codes(16);
  std::vector<AffineParams> params(4);
  const Grouping rows{Granularity::channel};
  const auto run = [&](MatrixView<const float> m, Grouping groups, ScaleType type = ScaleType::f32) {
    return quantize_rows<S>(m, groups, codes, params, type);
  };
  const MatrixView<const float> m(x.data(), 4, 8);
  EXPECT_TRUE(run(m, rows));
  EXPECT_EQ(run({x.data(), 0, 8}, rows).code, ErrorCode::invalid_argument);
  EXPECT_EQ(run({nullptr, 4, 8}, rows).code, ErrorCode::invalid_argument);
  EXPECT_EQ(run({x.data(), SIZE_MAX / 8, 8}, rows).code, ErrorCode::invalid_argument);
  EXPECT_EQ(run(m, {Granularity::group, 0}).code, ErrorCode::invalid_argument);
  EXPECT_EQ(run({x.data(), 4, 8, 7}, rows).need, 8u);
  EXPECT_EQ(run({x.data(), 4, 6}, rows).need, 12u);
  EXPECT_EQ(run(m, {Granularity::group, 4}).need, 8u);
  EXPECT_EQ(quantize_rows<LlmInt8>(m, rows, codes, std::span<LlmInt8::Params>(), ScaleType::f32).need, 32u);
  std::vector<std::uint8_t> bytes(32);
  std::vector<LlmInt8::Params> absmax(4);
  EXPECT_EQ(quantize_rows<LlmInt8>(m, rows, bytes, absmax, ScaleType::f16).code, ErrorCode::unsupported);
  x[2 * 8 + 3] = 3e38f;
  const auto overflow = run(m, rows, ScaleType::f16);
  EXPECT_EQ(overflow.code, ErrorCode::non_finite);
  EXPECT_EQ(overflow.row, 2u);
  x[1 * 8 + 5] = -INFINITY;
  const auto infinite = run(m, rows);
  EXPECT_EQ(infinite.code, ErrorCode::non_finite);
  EXPECT_EQ(infinite.row, 1u);
  EXPECT_EQ(infinite.col, 5u);
  EXPECT_EQ(infinite.value, -INFINITY);
}

TEST(Rows, NameTheValueThatATypeCannotHold) {
  const std::vector<std::uint8_t> codes{0x8f, 0x08};
  const std::vector<AffineParams> params{{1e4f, 8}};
  std::vector<f16> out(3);
  const auto r =
      dequantize_rows<Symmetric<4>>(codes, params, {Granularity::channel}, MatrixView<f16>(out.data(), 1, 3));
  EXPECT_EQ(r.code, ErrorCode::non_finite);
  EXPECT_EQ(r.col, 0u);
  EXPECT_EQ(r.value, 7e4f);
}

TEST(Rows, BecomeErrorsWithTheNameOfTheTensor) {
  const auto with = [](const RowsResult& r) { return [r] { throw_on_error(r, "layer.weight"); }; };
  EXPECT_NO_THROW(throw_on_error({}, "layer.weight"));
  expect_error(ErrorCode::non_finite, "tensor 'layer.weight', row 3, column 7: the value is not finite",
               with(detail::bad_value("the value is not finite", 3, 7, NAN)));
  expect_error(ErrorCode::shape_mismatch, "tensor 'layer.weight': codes need more (10 given, 12 needed)",
               with(detail::wrong_size("codes need more", 10, 12)));
  expect_error(ErrorCode::invalid_argument, "tensor 'layer.weight': the matrix is empty",
               with({"the matrix is empty"}));
}

}  // namespace
}  // namespace nibble
