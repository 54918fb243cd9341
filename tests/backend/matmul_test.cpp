#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nibble/backend/fixed_point.h"
#include "nibble/core/error.h"
#include "nibble/quantize/quantize.h"
#include "nibble/scheme/int8_codebook.h"
#include "nibble/scheme/llm_int8.h"
#include "tests/support/backends.h"
#include "tests/support/llm_int8_activations.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::available;
using testing_support::normal;
using testing_support::quantize_activations_llm_int8;

/// y[t][o] against fp64 within the documented bound; `at(o, i)` is the weight that was multiplied.
template <class Weight>
void expect_product(const std::vector<float>& y, const std::vector<float>& x, std::size_t tokens, std::size_t in,
                    std::size_t out, Weight at) {
  const double eps = (256 + static_cast<double>(in) / 256 + 2) * 0x1p-24;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t o = 0; o < out; ++o) {
      double exact = 0, size = 0;
      for (std::size_t i = 0; i < in; ++i) {
        const double product = static_cast<double>(x[t * in + i]) * static_cast<double>(at(o, i));
        exact += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(static_cast<double>(y[t * out + o]), exact, 1.01 * eps * size) << "token " << t << ", output " << o;
    }
}

struct Shape {
  std::size_t tokens, in, out;
};
constexpr Shape kShapes[] = {{1, 300, 33}, {2, 64, 1}, {3, 17, 70}, {13, 520, 32}, {64, 128, 96}};

TEST(Matmul, KeepsItsBoundAndIsTheSameOnEveryBackend) {
  for (const Shape s : kShapes) {
    const auto w = normal(s.in * s.out, 1), x = normal(s.tokens * s.in, 2);
    for (const char* text : {"int4-g32-asym",
                             "int3-g7-sym",
                             "int5-g32-sym",
                             "int6-g16-asym",
                             "int7-channel-sym",
                             "nf4-b64-dq",
                             "fp4-b48",
                             "int8",
                             "dynamic8-b100",
                             "int2-tensor-sym",
                             "fp8",
                             "e4m3-t32",
                             "e5m2-tensor",
                             "mxfp4",
                             "mxfp6",
                             "mxfp8",
                             "nvfp4",
                             "int4-g32-asymreal",
                             "int3-g32-asymreal-f32",
                             "int2-g64-asymreal",
                             "int5-channel-asymreal",
                             "int6-g16-asymreal",
                             "int4-g7-asymreal"}) {
      const auto q = quantize(MatrixView<const float>(w.data(), s.out, s.in), text);
      std::vector<float> first, first_t;
      for (const Backend* b : available()) {
        const auto packed = b->pack(q);
        std::vector<float> y(s.tokens * s.out), back(s.tokens * s.in), serial(y.size());
        b->matmul({x.data(), s.tokens, s.in}, *packed, {y.data(), s.tokens, s.out}, default_executor());
        b->matmul({x.data(), s.tokens, s.in}, *packed, {serial.data(), s.tokens, s.out}, serial_executor());
        EXPECT_EQ(y, serial) << "depends on the threads";
        ASSERT_NO_FATAL_FAILURE(
            expect_product(y, x, s.tokens, s.in, s.out, [&](std::size_t o, std::size_t i) { return q.value(o, i); }));
        b->matmul_transposed({y.data(), s.tokens, s.out}, *packed, {back.data(), s.tokens, s.in}, default_executor());
        ASSERT_NO_FATAL_FAILURE(expect_product(back, y, s.tokens, s.out, s.in,
                                               [&](std::size_t i, std::size_t o) { return q.value(o, i); }));
        if (first.empty()) {
          first = y;
          first_t = back;
        }
        EXPECT_EQ(y, first) << b->name() << " differs on " << text;
        EXPECT_EQ(back, first_t) << b->name() << " differs on " << text << " transposed";
      }
    }
  }
}

template <class T>
void check_dense(DType type) {
  for (const Shape s : kShapes) {
    const auto values = normal(s.in * s.out, 5), x = normal(s.tokens * s.in, 6);
    std::vector<T> w;
    for (float v : values) w.push_back(T(v));
    for (const Backend* b : available()) {
      const auto packed = b->pack(FloatMatrix(w.data(), type, s.out, s.in, s.in));
      std::vector<float> y(s.tokens * s.out), back(s.tokens * s.in);
      b->matmul({x.data(), s.tokens, s.in}, *packed, {y.data(), s.tokens, s.out}, default_executor());
      ASSERT_NO_FATAL_FAILURE(expect_product(y, x, s.tokens, s.in, s.out, [&](std::size_t o, std::size_t i) {
        return static_cast<float>(w[o * s.in + i]);
      }));
      b->matmul_transposed({y.data(), s.tokens, s.out}, *packed, {back.data(), s.tokens, s.in}, default_executor());
      ASSERT_NO_FATAL_FAILURE(expect_product(back, y, s.tokens, s.out, s.in, [&](std::size_t i, std::size_t o) {
        return static_cast<float>(w[o * s.in + i]);
      }));
    }
  }
}

TEST(Matmul, MultipliesDenseWeightsOfEveryType) {
  check_dense<float>(DType::f32);
  check_dense<f16>(DType::f16);
  check_dense<bf16>(DType::bf16);
}

/// Few tokens are multiplied by weights decoded in registers, many by decoded panels: no one may see which.
TEST(Matmul, ATokensResultDoesNotDependOnItsBatch) {
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{130, 1056}, {64, 300}, {1, 8}, {200, 260}}) {
    const auto w = normal(rows * cols, 11), x = normal(9 * cols, 12);
    for (const char* text :
         {"int4-g32-sym", "int4-g32-asym", "int4-g128-sym-f32", "int4-channel-asym", "int4-g48-sym-bf16",
          "int2-g16-asym", "int3-g40-sym", "int5-g128-sym", "int6-g32-asym", "int7-g64-sym", "int8", "int8-tensor-asym",
          "int8-g64-sym", "nf4", "nf4-b64-dq", "fp4-b8", "int4-g12-asym", "int4-g32-asymraw-f32", "nf4-b100"})
      for (const Backend* b : available()) {
        const auto packed = b->pack(quantize(MatrixView<const float>(w.data(), rows, cols), text));
        std::vector<float> together(9 * rows), alone(9 * rows), three(9 * rows);
        b->matmul({x.data(), 9, cols}, *packed, {together.data(), 9, rows}, default_executor());
        for (std::size_t t = 0; t < 9; ++t)
          b->matmul({x.data() + t * cols, 1, cols}, *packed, {alone.data() + t * rows, 1, rows}, serial_executor());
        for (std::size_t t = 0; t < 9; t += 3)
          b->matmul({x.data() + t * cols, 3, cols}, *packed, {three.data() + t * rows, 3, rows}, serial_executor());
        ASSERT_EQ(together, alone) << text << " on " << b->name();
        ASSERT_EQ(together, three) << text << " on " << b->name();
      }
  }
}

// Tokens are taken 512 at a time and columns several panels, as many as there are threads for.
TEST(Matmul, ATransposedProductDoesNotDependOnItsBatchOrThreads) {
  constexpr std::size_t rows = 300, cols = 1100, tokens = 520;
  const auto w = normal(rows * cols, 11), x = normal(tokens * rows, 12);
  for (const char* text : {"nf4-b64-dq", "int4-g32-asym", "int5-g32-asym", "int6-g16-sym", "int7-channel-sym", "int8"})
    for (const Backend* b : available()) {
      const auto packed = b->pack(quantize(MatrixView<const float>(w.data(), rows, cols), text));
      std::vector<float> serial(tokens * cols), threads(tokens * cols), alone(cols);
      const MatrixView<const float> all(x.data(), tokens, rows);
      b->matmul_transposed(all, *packed, {serial.data(), tokens, cols}, serial_executor());
      b->matmul_transposed(all, *packed, {threads.data(), tokens, cols}, default_executor());
      ASSERT_EQ(serial, threads) << text << " on " << b->name();
      for (const std::size_t t : {0u, 511u, 512u, 519u}) {
        b->matmul_transposed(all.row_range(t, 1), *packed, {alone.data(), 1, cols}, default_executor());
        ASSERT_TRUE(std::equal(alone.begin(), alone.end(), serial.begin() + static_cast<std::ptrdiff_t>(t * cols)))
            << text << " on " << b->name() << ", token " << t;
      }
    }
}

/// The definition in backend.h, spelled out.
TEST(Matmul, EightBitActivationsGiveTheExactIntegerResult) {
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{70, 544}, {64, 300}, {1, 8}, {129, 37}})
    for (const char* text :
         {"int4-g32-sym", "int4-g32-asym", "int4-channel-sym-f32", "int3-g40-asym", "int2-g16-sym-bf16", "int5-g32-sym",
          "int5-g32-asym", "int5-channel-sym", "int6-g32-sym", "int6-g16-asym", "int6-g128-sym", "int7-g64-asym",
          "int7-channel-asym", "int7-g40-sym", "int8", "int8-g64-asym", "int8-tensor-sym"}) {
      const auto w = normal(rows * cols, 21), x = normal(7 * cols, 22, 3);
      const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
      std::vector<float> expected(7 * rows);
      for (std::size_t t = 0; t < 7; ++t) {
        float absmax = 0;
        for (std::size_t c = 0; c < cols; ++c) absmax = std::max(absmax, std::abs(x[t * cols + c]));
        const float factor = LlmInt8::multiplier(absmax);
        for (std::size_t r = 0; r < rows; ++r) {
          float sum = 0;
          for (std::size_t c = 0; c < cols;) {
            const std::size_t group = q.group_of(r, c);
            std::int64_t exact = 0;
            for (; c < cols && q.group_of(r, c) == group; ++c)
              exact += (q.code(r, c) - q.zero_point(group)) * (LlmInt8::encode_scaled(x[t * cols + c], factor) - 128);
            sum = std::fma(static_cast<float>(exact), q.scale(group), sum);
          }
          expected[t * rows + r] = sum * (absmax * LlmInt8::inverse_127);
        }
      }
      for (const Backend* b : available()) {
        const auto packed = b->pack(q);
        ASSERT_TRUE(b->has_int8_matmul(*packed)) << text;
        std::vector<float> y(7 * rows), one(rows);
        b->matmul_int8({x.data(), 7, cols}, *packed, {y.data(), 7, rows}, default_executor());
        EXPECT_EQ(y, expected) << text << " on " << b->name();
        b->matmul_int8({x.data(), 1, cols}, *packed, {one.data(), 1, rows}, serial_executor());
        EXPECT_EQ(one, std::vector<float>(y.begin(), y.begin() + static_cast<std::ptrdiff_t>(rows))) << text;
      }
    }
}

TEST(Matmul, EightBitActivationsMeetCodebooksRoundedToEightBits) {
  const std::size_t rows = 70, cols = 192, tokens = 9;
  const auto w = normal(rows * cols, 51), x = normal(tokens * cols, 52, 3);
  for (const std::string text : {"nf4", "fp4", "nf4-dq"}) {
    const QuantizedMatrix q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
    const Int8Codebook book = Int8Codebook::of(std::span<const float, 16>(q.codebook));
    std::vector<float> expected(tokens * rows);
    std::vector<double> exact(tokens * rows), bound(tokens * rows);
    for (std::size_t t = 0; t < tokens; ++t) {
      float absmax = 0;
      for (std::size_t c = 0; c < cols; ++c) absmax = std::max(absmax, std::abs(x[t * cols + c]));
      const float token_scale = absmax * LlmInt8::inverse_127;
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t at = t * rows + r;
        float sum = 0;
        for (std::size_t c = 0; c < cols;) {
          const std::size_t group = q.group_of(r, c);
          std::int64_t of_group = 0;
          for (; c < cols && q.group_of(r, c) == group; ++c) {
            const int rounded = LlmInt8::encode_scaled(x[t * cols + c], LlmInt8::multiplier(absmax)) - 128;
            of_group += (book.codes[q.code(r, c)] - 128) * rounded;
            const double activation = rounded * static_cast<double>(token_scale);
            exact[at] += static_cast<double>(q.codebook[q.code(r, c)] * q.multiplier(group)) * activation;
            bound[at] += static_cast<double>(q.multiplier(group) * book.unit / 2) * std::abs(activation);
          }
          sum = std::fma(static_cast<float>(of_group), q.multiplier(group), sum);
        }
        expected[at] = sum * token_scale * book.unit;
      }
    }
    for (const Backend* b : available()) {
      const auto packed = b->pack(q);
      ASSERT_TRUE(b->has_int8_matmul(*packed)) << text;
      std::vector<float> y(tokens * rows);
      b->matmul_int8({x.data(), tokens, cols}, *packed, {y.data(), tokens, rows}, default_executor());
      EXPECT_EQ(y, expected) << text << " on " << b->name();
    }
    for (std::size_t i = 0; i < exact.size(); ++i)
      EXPECT_NEAR(static_cast<double>(expected[i]), exact[i], bound[i] * 1.001) << text << ", " << i;
  }
}

/// Activations of three kinds of trouble: ordinary, with an outlier a thousand times larger, and tiny.
std::vector<float> hard_activations(std::size_t tokens, std::size_t cols) {
  auto x = normal(tokens * cols, 41, 2);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < cols; ++c) {
      if (t % 3 == 1 && c % 97 == 5) x[t * cols + c] *= 1000;
      if (t % 3 == 2) x[t * cols + c] *= 0x1p-120f;
    }
  return x;
}

/// The definition of matmul for integer codes, spelled out: exact sums of fixed-point activations within chunks. The
/// bound of backend.h follows each result.
struct FixedResult {
  float value = 0;
  double bound = 0;
};
FixedResult fixed_product(const QuantizedMatrix& q, std::size_t r, const float* x, std::size_t chunk) {
  FixedResult out;
  double sums = 0, chunks = 0;
  for (std::size_t c = 0; c < q.cols;) {
    const std::size_t group = q.group_of(r, c);
    std::size_t group_end = c;
    while (group_end < q.cols && q.group_of(r, group_end) == group) ++group_end;
    for (; c < group_end; ++chunks) {
      const std::size_t end = std::min(c + chunk, group_end);
      float absmax = 0;
      for (std::size_t k = c; k < end; ++k) absmax = std::max(absmax, std::abs(x[k]));
      const float factor = FixedPoint24::factor(absmax);
      std::int64_t exact = 0;
      double size = 0;
      for (; c < end; ++c) {
        const int code = q.code(r, c) - q.zero_point(group);
        exact += static_cast<std::int64_t>(code) * FixedPoint24::encode(x[c], factor);
        size += std::abs(code * static_cast<double>(q.scale(group)));
      }
      const float scale = q.scale(group) * FixedPoint24::inverse(factor);
      out.value = std::fma(static_cast<float>(exact), scale, out.value);
      out.bound += size * 0.5 / static_cast<double>(factor);
      sums += std::abs(static_cast<double>(exact) * static_cast<double>(scale));
    }
  }
  out.bound += (chunks + 1) * 0x1p-24 * sums + static_cast<double>(q.cols) * 0x1p-149;
  return out;
}

TEST(Matmul, FloatActivationsGiveTheExactFixedPointResult) {
  constexpr std::size_t tokens = 7;
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{70, 1088}, {64, 300}, {1, 8}, {129, 37}})
    for (const char* text :
         {"int4-g32-sym",   "int4-g32-asym",     "int4-channel-sym-f32", "int4-g512-asym",   "int4-g40-sym",
          "int3-g40-asym",  "int3-g32-sym",      "int3-g128-asym",       "int3-channel-sym", "int2-g16-sym-bf16",
          "int2-g64-asym",  "int2-tensor-sym",   "int5-g32-sym",         "int5-g64-asym",    "int5-g128-sym",
          "int5-g40-sym",   "int5-channel-asym", "int6-g16-sym",         "int6-g32-asym",    "int6-g64-sym",
          "int6-g512-asym", "int6-channel-sym",  "int7-g32-sym",         "int7-g128-asym",   "int7-channel-sym",
          "int8",           "int8-g64-asym",     "int8-g20-sym",         "int8-tensor-sym"}) {
      const auto w = normal(rows * cols, 43), x = hard_activations(tokens, cols);
      const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
      std::vector<float> expected(tokens * rows);
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t r = 0; r < rows; ++r) {
          const FixedResult result = fixed_product(q, r, x.data() + t * cols, q.spec.bits > 4 ? 128 : 256);
          expected[t * rows + r] = result.value;
          double exact = 0;
          for (std::size_t c = 0; c < cols; ++c)
            exact += static_cast<double>(x[t * cols + c]) * static_cast<double>(q.value(r, c));
          // A decoded weight is rounded once where the sum's scale is not.
          ASSERT_NEAR(static_cast<double>(result.value), exact, result.bound + std::abs(exact) * 0x1p-23)
              << text << ", token " << t << ", row " << r;
        }
      for (const Backend* b : available()) {
        const auto packed = b->pack(q);
        for (const std::size_t n : {tokens, std::size_t{1}, std::size_t{3}}) {
          std::vector<float> y(n * rows);
          b->matmul({x.data(), n, cols}, *packed, {y.data(), n, rows}, default_executor());
          ASSERT_EQ(y, std::vector<float>(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(n * rows)))
              << text << " on " << b->name() << ", " << n << " tokens";
        }
      }
    }
}

/// What "no loss" means: about as close to the exact product as fp32 sums of fp32 products are (0.6 to 1.1 times their
/// error here; with many small groups the sum of the chunks is most of it).
TEST(Matmul, FixedPointIsAsCloseAsSumsInFloat) {
  constexpr std::size_t rows = 64, cols = 4096;
  const auto w = normal(rows * cols, 48), x = normal(cols, 49);
  for (const char* text : {"int4-g32-sym", "int4-g128-asym", "int8", "int3-g128-sym"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
    std::vector<float> y(rows);
    default_backend().matmul({x.data(), 1, cols}, *default_backend().pack(q), {y.data(), 1, rows}, serial_executor());
    double fixed = 0, in_float = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      double exact = 0;
      float sum = 0, part = 0;
      for (std::size_t c = 0; c < cols; ++c) {
        const float weight = q.value(r, c);
        exact += static_cast<double>(x[c]) * static_cast<double>(weight);
        part = std::fma(x[c], weight, c % 256 == 0 ? 0.0f : part);
        if (c % 256 == 255) sum += part;
      }
      fixed += std::pow(static_cast<double>(y[r]) - exact, 2);
      in_float += std::pow(static_cast<double>(sum) - exact, 2);
    }
    EXPECT_LT(std::sqrt(fixed), 1.25 * std::sqrt(in_float)) << text;
  }
}

TEST(Matmul, CodebooksGiveScaledSumsOfTheirValues) {
  constexpr std::size_t rows = 70, cols = 1088, tokens = 41;  // more than few_tokens of any unit
  const auto w = normal(rows * cols, 44), x = normal(tokens * cols, 45);
  for (const char* text : {"nf4", "nf4-b64-dq", "fp4-b32", "nf4-b1088"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
    std::vector<float> expected(tokens * rows);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t r = 0; r < rows; ++r) {
        float sum = 0;
        for (std::size_t c = 0; c < cols;) {
          float part = 0;
          const std::size_t group = q.group_of(r, c);
          for (std::size_t k = 0; k < 256 && c < cols && q.group_of(r, c) == group; ++k, ++c)
            part = std::fma(x[t * cols + c], q.codebook[q.code(r, c)], part);
          sum = std::fma(part, q.scale(group), sum);
        }
        expected[t * rows + r] = sum;
      }
    for (const Backend* b : available()) {
      const auto packed = b->pack(q);
      std::vector<float> y(tokens * rows), few(5 * rows);
      b->matmul({x.data(), tokens, cols}, *packed, {y.data(), tokens, rows}, default_executor());
      b->matmul({x.data(), 5, cols}, *packed, {few.data(), 5, rows}, default_executor());
      EXPECT_EQ(y, expected) << text << " on " << b->name();
      EXPECT_TRUE(std::equal(few.begin(), few.end(), expected.begin())) << text << " on " << b->name();
    }
  }
}

TEST(Matmul, WhatIsNotFiniteStaysWithItsToken) {
  constexpr std::size_t rows = 70, cols = 300;
  const auto w = normal(rows * cols, 46);
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    auto x = normal(3 * cols, 47);
    x[cols + 123] = bad;
    for (const Backend* b : available()) {
      const auto packed = b->pack(quantize(MatrixView<const float>(w.data(), rows, cols), "int4-g32-asym"));
      std::vector<float> y(3 * rows), alone(rows);
      b->matmul({x.data(), 3, cols}, *packed, {y.data(), 3, rows}, default_executor());
      b->matmul({x.data() + 2 * cols, 1, cols}, *packed, {alone.data(), 1, rows}, default_executor());
      for (std::size_t r = 0; r < rows; ++r) {
        EXPECT_TRUE(std::isfinite(y[r])) << b->name();
        EXPECT_TRUE(std::isnan(y[rows + r])) << b->name();
        EXPECT_EQ(y[2 * rows + r], alone[r]) << b->name();
      }
    }
  }
}

TEST(Pack, UnpackGivesTheCanonicalFormBack) {
  const auto same = [](const Buffer& a, const Buffer& b) {
    return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
  };
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{70, 544}, {64, 300}, {1, 1}, {129, 37}}) {
    const auto w = normal(rows * cols, 31);
    for (const char* text : {"int4-g32-sym",
                             "int4-g32-asym",
                             "int2-g16-asym-bf16",
                             "int2-g24-sym",
                             "int3-g7-sym",
                             "int3-g64-asym",
                             "int3-channel-sym",
                             "int5-channel-sym",
                             "int5-g32-asym",
                             "int6-g16-sym",
                             "int6-tensor-asym",
                             "int7-g64-sym",
                             "int8",
                             "int8-g48-asym",
                             "int4-g32-asymraw-f32",
                             "nf4",
                             "nf4-b64-dq",
                             "fp4-b20",
                             "dynamic8-b64",
                             "llm-int8",
                             "fp8",
                             "e4m3-t32",
                             "mxfp4",
                             "nvfp4"}) {
      const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
      const auto back = default_backend().unpack(*default_backend().pack(q));
      EXPECT_EQ(back.spec, q.spec);
      EXPECT_TRUE(same(back.codes, q.codes) && same(back.scales, q.scales) && same(back.zero_points, q.zero_points))
          << text;
      EXPECT_TRUE(std::equal(back.codebook.begin(), back.codebook.end(), q.codebook.begin(), q.codebook.end(),
                             [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }));
      EXPECT_EQ(back.nested.absmax, q.nested.absmax);
      EXPECT_EQ(back.nested.map, q.nested.map);
      EXPECT_EQ(back.nested.offset, q.nested.offset);
      EXPECT_EQ(back.tensor_scale, q.tensor_scale);
    }
  }
  const std::vector<float> dense(64);
  EXPECT_THROW((void)default_backend().unpack(*default_backend().pack(MatrixView<const float>(dense.data(), 8, 8))),
               Error);
}

/// What a packed matrix takes beside what is stored: the table of values, and the bytes that may be read past the end.
TEST(Pack, HoldsCodesAtTheirOwnWidth) {
  constexpr std::size_t rows = 128, cols = 1024;
  const auto w = normal(rows * cols, 32);
  for (int bits = 2; bits <= 8; ++bits)
    for (const char* where : {"g32", "g128", "channel"})
      for (const char* how : {"sym", "asym"}) {
        const auto q = quantize(MatrixView<const float>(w.data(), rows, cols),
                                "int" + std::to_string(bits) + "-" + where + "-" + how);
        EXPECT_LE(default_backend().pack(q)->storage_bytes(), q.storage_bytes() + 128) << q.spec.to_string();
      }
}

TEST(Matmul, EightBitActivationsRefuseWhatTheyCannotTake) {
  const auto w = normal(64 * 64, 1);
  std::vector<float> x(64, 1.0f), y(64);
  const Backend& b = default_backend();
  const auto dense = b.pack(MatrixView<const float>(w.data(), 64, 64));
  const auto int4 = b.pack(quantize(MatrixView<const float>(w.data(), 64, 64), "int4-g32-sym"));
  EXPECT_FALSE(b.has_int8_matmul(*dense));
  // Its own product rounds activations, always.
  EXPECT_FALSE(b.has_int8_matmul(*b.pack(quantize(MatrixView<const float>(w.data(), 64, 64), "llm-int8"))));
  EXPECT_THROW(b.matmul_int8({x.data(), 1, 64}, *dense, {y.data(), 1, 64}, serial_executor()), Error);
  x[17] = std::nanf("");
  try {
    b.matmul_int8({x.data(), 1, 64}, *int4, {y.data(), 1, 64}, default_executor());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::non_finite);
    EXPECT_STREQ(e.what(), "activation row 0, column 17 is not finite");
  }
}

TEST(Matmul, FollowsActOrderGroups) {
  const auto w = normal(40 * 64, 3), x = normal(2 * 64, 4);
  auto q = quantize(MatrixView<const float>(w.data(), 40, 64), "int4-g16-asym");
  for (std::int32_t c = 0; c < 64; ++c) q.g_idx.push_back(c * 7 % 4);
  q.validate("w");
  for (const Backend* b : available()) {
    std::vector<float> y(2 * 40);
    b->matmul({x.data(), 2, 64}, *b->pack(q), {y.data(), 2, 40}, default_executor());
    ASSERT_NO_FATAL_FAILURE(
        expect_product(y, x, 2, 64, 40, [&](std::size_t o, std::size_t i) { return q.value(o, i); }));
  }
}

TEST(Matmul, LlmInt8IsTheExactIntegerResultPlusItsOutliers) {
  const std::size_t tokens = 5, in = 300, out = 50;
  const auto w = normal(in * out, 7, 0.02f);
  auto x = normal(tokens * in, 8);
  x[1 * in + 40] = 9;
  x[3 * in + 299] = -20;
  for (const char* text : {"llm-int8", "llm-int8-t0"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), out, in), text);
    const auto a = quantize_activations_llm_int8({x.data(), tokens, in}, q.spec.threshold);
    EXPECT_EQ(a.outlier_columns,
              q.spec.threshold > 0 ? (std::vector<std::size_t>{40, 299}) : std::vector<std::size_t>{});
    for (const Backend* b : available()) {
      std::vector<float> y(tokens * out);
      b->matmul({x.data(), tokens, in}, *b->pack(q), {y.data(), tokens, out}, default_executor());
      for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t o = 0; o < out; ++o) {
          std::int64_t sum = 0;
          for (std::size_t i = 0; i < in; ++i)
            sum += static_cast<std::int64_t>(a.codes[t * in + i]) * (q.code(o, i) - 128);
          double exact =
              static_cast<double>(sum) * static_cast<double>(a.absmax[t]) / 127 * static_cast<double>(q.scale(o)) / 127;
          double size = std::abs(exact);
          for (std::size_t c : a.outlier_columns) {
            exact += static_cast<double>(x[t * in + c]) * static_cast<double>(q.value(o, c));
            size += std::abs(static_cast<double>(x[t * in + c]) * static_cast<double>(q.value(o, c)));
          }
          ASSERT_NEAR(static_cast<double>(y[t * out + o]), exact, 10 * 0x1p-24 * size)
              << text;  // ten roundings at most
        }
    }
  }
}

TEST(Matmul, RefusesShapesThatDoNotFit) {
  const auto w = normal(8 * 8, 1);
  const auto packed = default_backend().pack(MatrixView<const float>(w.data(), 8, 8));
  std::vector<float> x(7), y(8);
  try {
    matmul({x.data(), 1, 7}, *packed, {y.data(), 1, 8});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::shape_mismatch);
  }
}

}  // namespace
}  // namespace nibble
