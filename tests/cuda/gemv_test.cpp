// The kernels for few tokens against exact products, within the bound that gemv.h derives.
#include "kernels/cuda/gemv.h"

#include <cmath>

#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

/// What rounding to T adds: half of the last bit of a normal value, or of the least one that there is.
template <class T>
double rounding(double value) {
  if constexpr (std::is_same_v<T, f16>) return std::max(std::abs(value) * 0x1p-11, 0x1p-25);
  else if constexpr (std::is_same_v<T, bf16>) return std::abs(value) * 0x1p-8;
  else return 0;  // the sum is in fp32 already
}

/// y on the device, for `tokens` rows of x, which are `cols` + 8 apart; what lies between must not be read.
template <class X, class Y>
std::vector<Y> multiply(const DeviceCanonical& w, const std::vector<X>& x, std::size_t tokens) {
  const std::size_t cols = w.view().cols, rows = w.view().rows, stride = cols + 8, y_stride = rows + 3;
  std::vector<X> spread((tokens - 1) * stride + cols, X(NAN));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < cols; ++c) spread[t * stride + c] = x[t * cols + c];
  const DeviceArray<X> device(spread);
  const DeviceArray<Y> out(tokens * y_stride);
  require(cuda::gemv(w.view(), device.get(), element_type<X>, stride, tokens, out.get(), element_type<Y>, y_stride,
                     nullptr),
          "gemv");
  const std::vector<Y> written = out.host();
  std::vector<Y> y;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t r = 0; r < rows; ++r) y.push_back(written[t * y_stride + r]);
    for (std::size_t r = rows; r < y_stride; ++r)
      EXPECT_NE(static_cast<float>(written[t * y_stride + r]), static_cast<float>(written[t * y_stride + r]));
  }
  return y;
}

template <class X, class Y>
void check(const std::string& name, const QuantizedMatrix& q, std::size_t tokens) {
  const auto x = converted<X>(normal(tokens * q.cols, 21));
  const DeviceCanonical w(q, cuda::kGemvPitch);
  std::vector<Y> first;
  for_each_order([&] {
    const std::vector<Y> y = multiply<X, Y>(w, x, tokens);
    if (first.empty()) first = y;
    ASSERT_EQ(std::memcmp(y.data(), first.data(), y.size() * sizeof(Y)), 0) << name << " depends on the order";
  });
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t r = 0; r < q.rows; ++r) {
      double exact = 0, size = 0;
      for (std::size_t c = 0; c < q.cols; ++c) {
        const double product =
            static_cast<double>(static_cast<float>(x[t * q.cols + c])) * static_cast<double>(q.value(r, c));
        exact += product;
        size += std::abs(product);
      }
      const double bound = cuda::gemv_relative_error(q.cols, q.spec.bits) * size;
      ASSERT_NEAR(static_cast<double>(static_cast<float>(first[t * q.rows + r])), exact,
                  bound + rounding<Y>(std::abs(exact) + bound))
          << name << ", " << tokens << " tokens: token " << t << ", row " << r;
    }
}

const char* const kSpecs[] = {"int4-g32-sym",
                              "int4-g128-asym",
                              "int4-g7-asym",
                              "int4-channel-asymraw-f32",
                              "int3-g32-sym",
                              "int3-g128-asym-bf16",
                              "int3-g20-asym",
                              "int2-g64-sym",
                              "int2-tensor-asym",
                              "int2-b50-sym",
                              "int8",
                              "int8-g16-asym",
                              "int8-g100-sym-f32",
                              "llm-int8",
                              "nf4-b64",
                              "nf4-b64-dq",
                              "nf4-b24-dq",
                              "fp4-b128",
                              "fp4-b33",
                              "nf4-b4096"};

TEST(CudaGemv, KeepsItsBoundForEverySpec) {
  const struct { std::size_t rows, cols; } shapes[] = {{1, 8}, {9, 1056}, {5, 301}, {3, 2200}};
  for (const char* text : kSpecs)
    for (const auto& s : shapes) {
      const auto w = normal(s.rows * s.cols, 22);
      const auto q = quantize(MatrixView<const float>(w.data(), s.rows, s.cols), text);
      for (const std::size_t tokens : {1u, 3u, 8u}) ASSERT_NO_FATAL_FAILURE((check<float, float>(text, q, tokens)));
    }
}

TEST(CudaGemv, TakesEveryTypeAndNumberOfTokens) {
  const auto w = normal(10 * 1100, 23);
  for (const char* text : {"int4-g128-asym", "nf4-b64-dq", "int8", "int3-g7-sym"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), 10, 1100), text);
    for (std::size_t tokens = 1; tokens <= cuda::kMaxGemvTokens; ++tokens) {
      ASSERT_NO_FATAL_FAILURE((check<f16, f16>(text, q, tokens)));
      ASSERT_NO_FATAL_FAILURE((check<bf16, bf16>(text, q, tokens)));
    }
    ASSERT_NO_FATAL_FAILURE((check<f16, float>(text, q, 2)));
    ASSERT_NO_FATAL_FAILURE((check<float, bf16>(text, q, 5)));
  }
}

/// More columns than are staged at once.
TEST(CudaGemv, StagesLongRowsInParts) {
  const auto w = normal(3 * 9300, 24);
  for (const char* text : {"int4-g128-sym", "int8", "nf4-b64", "int2-g32-asym"}) {
    const auto q = quantize(MatrixView<const float>(w.data(), 3, 9300), text);
    for (const std::size_t tokens : {1u, 4u, 7u}) ASSERT_NO_FATAL_FAILURE((check<f16, float>(text, q, tokens)));
  }
}

TEST(CudaGemv, FollowsActOrderGroups) {
  const auto w = normal(6 * 288, 25);
  for (const char* text : {"int4-g32-asym", "int3-g32-sym", "int8-g32-sym"}) {
    auto q = quantize(MatrixView<const float>(w.data(), 6, 288), text);
    for (std::int32_t c = 0; c < 288; ++c) q.g_idx.push_back(c * 5 % 9);
    q.validate("w");
    ASSERT_NO_FATAL_FAILURE((check<f16, float>(text, q, 2)));
  }
}

/// A token's result is the same, bit for bit, whoever its neighbours are.
TEST(CudaGemv, TokensDoNotMeet) {
  const auto weights = normal(7 * 1500, 26), x = normal(8 * 1500, 27);
  for (const char* text : {"int4-g32-asym", "nf4-b64-dq", "int8", "int3-g7-sym"}) {
    const DeviceCanonical w(quantize(MatrixView<const float>(weights.data(), 7, 1500), text), cuda::kGemvPitch);
    const auto together = multiply<float, float>(w, x, 8);
    for (std::size_t t = 0; t < 8; ++t) {
      const std::vector<float> own(x.begin() + static_cast<std::ptrdiff_t>(t * 1500),
                                   x.begin() + static_cast<std::ptrdiff_t>((t + 1) * 1500));
      const auto alone = multiply<float, float>(w, own, 1);
      ASSERT_EQ(std::memcmp(alone.data(), together.data() + t * 7, 7 * sizeof(float)), 0) << text << ", token " << t;
    }
  }
}

TEST(CudaGemv, RefusesWhatItHasNoKernelFor) {
  const auto status = [](const char* text, std::size_t tokens, std::size_t alignment) {
    const DeviceCanonical w(QuantizedMatrix::allocate(QuantSpec::parse(text), 2, 40), alignment);
    const DeviceArray<float> x(40 * tokens), y(2 * tokens);
    return cuda::gemv(w.view(), x.get(), DType::f32, 40, tokens, y.get(), DType::f32, 2, nullptr);
  };
  EXPECT_EQ(status("int4-g32-asym", 8, 16), cudaSuccess);
  EXPECT_NE(status("int4-g32-asym", 9, 16), cudaSuccess);
  EXPECT_NE(status("int4-g32-asym", 1, 1), cudaSuccess);
  EXPECT_NE(status("int5-g32-asym", 1, 16), cudaSuccess);
  EXPECT_NE(status("dynamic8-b64", 1, 16), cudaSuccess);
}

}  // namespace
}  // namespace nibble
