#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nibble/core/error.h"
#include "nibble/quantize/llm_int8.h"
#include "nibble/quantize/quantize.h"
#include "nibble/scheme/llm_int8.h"
#include "tests/support/backends.h"
#include "tests/support/random_data.h"

namespace nibble {
namespace {

using testing_support::available;
using testing_support::normal;

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
    for (const char* text :
         {"int4-g32-asym", "int3-g7-sym", "nf4-b64-dq", "fp4-b48", "int8", "dynamic8-b100", "int2-tensor-sym"}) {
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
          "int2-g16-asym", "int3-g40-sym", "int6-g32-asym", "int8", "int8-tensor-asym", "int8-g64-sym", "nf4",
          "nf4-b64-dq", "fp4-b8", "int4-g12-asym", "int4-g32-asymraw-f32", "nf4-b100"})
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

/// The definition in backend.h, spelled out.
TEST(Matmul, EightBitActivationsGiveTheExactIntegerResult) {
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{70, 544}, {64, 300}, {1, 8}, {129, 37}})
    for (const char* text : {"int4-g32-sym", "int4-g32-asym", "int4-channel-sym-f32", "int3-g40-asym",
                             "int2-g16-sym-bf16", "int8", "int8-g64-asym", "int8-tensor-sym", "int6-g32-sym"}) {
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

TEST(Pack, UnpackGivesTheCanonicalFormBack) {
  const auto same = [](const Buffer& a, const Buffer& b) {
    return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
  };
  for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{70, 544}, {64, 300}, {1, 1}, {129, 37}}) {
    const auto w = normal(rows * cols, 31);
    for (const char* text : {"int4-g32-sym", "int4-g32-asym", "int2-g16-asym-bf16", "int3-g7-sym", "int5-channel-sym",
                             "int6-tensor-asym", "int7-g64-sym", "int8", "int8-g48-asym", "int4-g32-asymraw-f32", "nf4",
                             "nf4-b64-dq", "fp4-b20", "dynamic8-b64", "llm-int8"}) {
      const auto q = quantize(MatrixView<const float>(w.data(), rows, cols), text);
      const auto back = default_backend().unpack(*default_backend().pack(q));
      EXPECT_EQ(back.spec, q.spec);
      EXPECT_TRUE(same(back.codes, q.codes) && same(back.scales, q.scales) && same(back.zero_points, q.zero_points))
          << text;
      EXPECT_EQ(back.codebook, q.codebook);
      EXPECT_EQ(back.nested.absmax, q.nested.absmax);
      EXPECT_EQ(back.nested.map, q.nested.map);
      EXPECT_EQ(back.nested.offset, q.nested.offset);
    }
  }
  const std::vector<float> dense(64);
  EXPECT_THROW((void)default_backend().unpack(*default_backend().pack(MatrixView<const float>(dense.data(), 8, 8))),
               Error);
}

TEST(Matmul, EightBitActivationsRefuseWhatTheyCannotTake) {
  const auto w = normal(64 * 64, 1);
  std::vector<float> x(64, 1.0f), y(64);
  const Backend& b = default_backend();
  const auto nf4 = b.pack(quantize(MatrixView<const float>(w.data(), 64, 64), "nf4"));
  const auto int4 = b.pack(quantize(MatrixView<const float>(w.data(), 64, 64), "int4-g32-sym"));
  EXPECT_FALSE(b.has_int8_matmul(*nf4));
  EXPECT_THROW(b.matmul_int8({x.data(), 1, 64}, *nf4, {y.data(), 1, 64}, serial_executor()), Error);
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
