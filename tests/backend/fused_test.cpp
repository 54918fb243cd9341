// Products that share an input, act-order columns, 16-bit activations: each against the plain product.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "nibble/scheme/llm_int8.h"
#include "tests/support/backends.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::available;
using testing_support::normal;

QuantizedMatrix quantized(std::size_t rows, std::size_t cols, const char* spec, unsigned seed) {
  const auto w = normal(rows * cols, seed, 0.1f);
  return quantize(MatrixView<const float>(w.data(), rows, cols), spec);
}

/// What GPTQ's act-order leaves: groups of group_size columns each, scattered over the row.
QuantizedMatrix act_order(std::size_t rows, std::size_t cols, const char* spec, unsigned seed) {
  QuantizedMatrix q = quantized(rows, cols, spec, seed);
  std::vector<std::int32_t> groups(cols);
  for (std::size_t c = 0; c < cols; ++c) groups[c] = static_cast<std::int32_t>(c / q.spec.group_size);
  std::mt19937 random(seed);
  std::shuffle(groups.begin(), groups.end(), random);
  q.g_idx = groups;
  q.validate("w");
  return q;
}

TEST(MatmulFused, GivesWhatSeparateProductsGive) {
  constexpr std::size_t tokens = 37, in = 300;
  auto x = normal(tokens * in, 1);
  x[5 * in + 7] = 11;  // an outlier for llm-int8
  const MatrixView<const float> input(x.data(), tokens, in);
  const struct {
    std::size_t rows;
    const char* spec;
  } cases[] = {{130, "int4-g32-sym"}, {64, "int4-g32-sym"},  {70, "int8"},
               {33, "nf4"},           {65, "llm-int8"},      {64, "int4-g7-sym"},
               {64, "int5-g32-sym"},  {65, "int6-g32-asym"}, {64, "int7-g32-sym"}};
  for (const Backend* b : available())
    for (const Activations how : {Activations::fp32, Activations::int8})
      for (const std::size_t n : {std::size_t{1}, std::size_t{4}, tokens}) {
        const auto part = input.row_range(0, n);
        std::vector<PackedMatrixPtr> packed;
        std::vector<std::vector<float>> y, bias;
        for (const auto& c : cases) {
          packed.push_back(b->pack(quantized(c.rows, in, c.spec, 2)));
          y.emplace_back(n * c.rows);
          bias.push_back(normal(c.rows, 3));
        }
        bias[1].clear();
        std::vector<Projection> projections;
        for (std::size_t i = 0; i < packed.size(); ++i)
          projections.push_back({packed[i].get(), {y[i].data(), n, cases[i].rows}, bias[i]});
        b->matmul_fused(part, projections, how, default_executor());
        for (std::size_t i = 0; i < packed.size(); ++i) {
          std::vector<float> expected(y[i].size());
          const MatrixView<float> out(expected.data(), n, cases[i].rows);
          if (how == Activations::int8 && b->has_int8_matmul(*packed[i]))
            b->matmul_int8(part, *packed[i], out, serial_executor());
          else b->matmul(part, *packed[i], out, serial_executor());
          for (std::size_t k = 0; k < expected.size() && !bias[i].empty(); ++k)
            expected[k] += bias[i][k % cases[i].rows];
          EXPECT_EQ(y[i], expected) << cases[i].spec << ", " << n << " tokens on " << b->name();
        }
        std::vector<float> gated(n * 130), gate(n * 130), up(n * 130);
        const auto other = b->pack(quantized(130, in, "int8", 9));
        const Projection both[] = {{packed[0].get(), {gate.data(), n, 130}}, {other.get(), {up.data(), n, 130}}};
        b->matmul_fused(part, both, how, serial_executor());
        for (const auto activation : {GatedActivation::silu, GatedActivation::gelu_tanh, GatedActivation::gelu}) {
          std::vector<float> expected(gate.size());
          apply_gate(activation, gate, up, expected);
          b->matmul_gated(part, *packed[0], *other, activation, {gated.data(), n, 130}, how, default_executor());
          ASSERT_EQ(gated, expected) << b->name();
        }
      }
}

TEST(MatmulFused, AScalePerTokenAndGroupIsTheExactIntegerResult) {
  constexpr std::size_t tokens = 5, in = 200, out = 70;
  const auto x = normal(tokens * in, 4, 2);
  for (const char* spec :
       {"int4-g32-asym", "int4-g64-sym", "int5-g32-asym", "int6-g16-sym", "int7-g64-sym", "int8", "int8-g16-sym-f32"}) {
    const auto q = quantized(out, in, spec, 5);
    std::vector<float> expected(tokens * out);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < out; ++r) {
        float sum = 0;
        for (std::size_t c = 0, end = 0; c < in; c = end) {
          float absmax = 0;
          for (end = c; end < in && q.group_of(r, end) == q.group_of(r, c); ++end)
            absmax = std::max(absmax, std::abs(x[t * in + end]));
          std::int64_t exact = 0;
          for (std::size_t k = c; k < end; ++k)
            exact += (q.code(r, k) - q.zero_point(q.group_of(r, c))) *
                     (LlmInt8::encode_scaled(x[t * in + k], LlmInt8::multiplier(absmax)) - 128);
          sum = std::fma(static_cast<float>(exact), q.scale(q.group_of(r, c)) * (absmax * LlmInt8::inverse_127), sum);
        }
        expected[t * out + r] = sum;
      }
    for (const Backend* b : available()) {
      std::vector<float> y(tokens * out);
      const auto packed = b->pack(q);
      const Projection only{packed.get(), {y.data(), tokens, out}};
      b->matmul_fused({x.data(), tokens, in}, {&only, 1}, Activations::int8_group, default_executor());
      EXPECT_EQ(y, expected) << spec << " on " << b->name();
    }
  }
}

TEST(MatmulFused, RefusesBeforeItWrites) {
  const auto a = default_backend().pack(quantized(8, 16, "int8", 1)),
             b = default_backend().pack(quantized(8, 24, "int8", 1));
  const std::vector<float> x(16, 1.0f), bias(7);
  std::vector<float> y(8, -5.0f), z(8, -5.0f);
  const Projection wrong_shape[] = {{a.get(), {y.data(), 1, 8}}, {b.get(), {z.data(), 1, 8}}};
  const Projection wrong_bias[] = {{a.get(), {y.data(), 1, 8}}, {a.get(), {z.data(), 1, 8}, bias}};
  for (const auto& projections : {wrong_shape, wrong_bias}) try {
      default_backend().matmul_fused({x.data(), 1, 16}, {projections, 2}, Activations::fp32, serial_executor());
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::shape_mismatch) << e.what();
    }
  EXPECT_EQ(y, std::vector<float>(8, -5.0f));
}

TEST(ActOrder, IsPackedUnpackedAndMultiplied) {
  constexpr std::size_t tokens = 40, in = 144, out = 70;
  const auto x = normal(tokens * in, 6), g = normal(tokens * out, 7);
  for (const char* spec : {"int4-g16-asym", "int4-g32-sym", "int8-g64-asym", "int3-g16-sym", "int2-g48-asym",
                           "int5-g32-sym", "int6-g16-asym", "int7-g32-asym"}) {
    const auto q = act_order(out, in, spec, 8);
    std::vector<float> first, first_int8;
    for (const Backend* b : available()) {
      const auto packed = b->pack(q);
      const auto back = b->unpack(*packed);
      EXPECT_EQ(std::memcmp(back.codes.data(), q.codes.data(), q.codes.size()), 0) << spec;
      EXPECT_EQ(std::memcmp(back.scales.data(), q.scales.data(), q.scales.size()), 0) << spec;
      EXPECT_EQ(back.g_idx, q.g_idx);
      std::vector<float> y(tokens * out), few(2 * out), in8(tokens * out), gradient(tokens * in);
      b->matmul({x.data(), tokens, in}, *packed, {y.data(), tokens, out}, default_executor());
      b->matmul({x.data(), 2, in}, *packed, {few.data(), 2, out}, default_executor());
      EXPECT_TRUE(std::equal(few.begin(), few.end(), y.begin())) << spec << " on " << b->name();
      ASSERT_TRUE(b->has_int8_matmul(*packed));
      b->matmul_int8({x.data(), tokens, in}, *packed, {in8.data(), tokens, out}, default_executor());
      b->matmul_transposed({g.data(), tokens, out}, *packed, {gradient.data(), tokens, in}, default_executor());
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < out; ++r) {
          double exact = 0, size = 0;
          for (std::size_t c = 0; c < in; ++c) {
            exact += static_cast<double>(x[t * in + c]) * static_cast<double>(q.value(r, c));
            size += std::abs(static_cast<double>(x[t * in + c]) * static_cast<double>(q.value(r, c)));
          }
          ASSERT_NEAR(static_cast<double>(y[t * out + r]), exact, 260 * 0x1p-24 * size) << spec;
        }
        for (std::size_t c = 0; c < in; ++c) {
          double exact = 0, size = 0;
          for (std::size_t r = 0; r < out; ++r) {
            exact += static_cast<double>(g[t * out + r]) * static_cast<double>(q.value(r, c));
            size += std::abs(static_cast<double>(g[t * out + r]) * static_cast<double>(q.value(r, c)));
          }
          ASSERT_NEAR(static_cast<double>(gradient[t * in + c]), exact, 260 * 0x1p-24 * size) << spec;
        }
      }
      if (first.empty()) {
        first = y;
        first_int8 = in8;
      }
      EXPECT_EQ(y, first) << b->name();
      EXPECT_EQ(in8, first_int8) << b->name();
    }
  }
}

TEST(Matmul, TakesHalfPrecisionActivations) {
  constexpr std::size_t tokens = 3, in = 77, out = 40;
  const auto values = normal(tokens * in, 10);
  const auto check = [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> x;
    std::vector<float> wide;
    for (float v : values) {
      x.push_back(T(v));
      wide.push_back(static_cast<float>(x.back()));
    }
    for (const Backend* b : available()) {
      const auto packed = b->pack(quantized(out, in, "int4-channel-sym", 11));
      std::vector<float> y(tokens * out), expected(tokens * out);
      matmul(MatrixView<const T>(x.data(), tokens, in), *packed, {y.data(), tokens, out});
      b->matmul({wide.data(), tokens, in}, *packed, {expected.data(), tokens, out}, serial_executor());
      EXPECT_EQ(y, expected) << b->name();
    }
  };
  check(f16());
  check(bf16());
}

}  // namespace
}  // namespace nibble
