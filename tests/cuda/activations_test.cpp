// Rounding activations, LLM.int8's outlier columns and the gather of columns, against the CPU bit for bit.
#include "kernels/cuda/activations.h"

#include <cmath>
#include <numeric>

#include "kernels/cuda/gather.h"
#include "tests/cuda/support.h"
#include "tests/support/llm_int8_activations.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

/// x [tokens, cols] as fp32, and the same on the device in type T, `stride` apart.
template <class T>
struct Activations {
  std::vector<float> x;
  DeviceArray<T> device;
  cuda::ActivationMatrix view;

  Activations(const std::vector<float>& values, std::size_t tokens, std::size_t cols, std::size_t stride)
      : device(spread(values, tokens, cols, stride)), view{device.get(), element_type<T>, tokens, cols, stride} {
    for (const float v : values) x.push_back(static_cast<float>(T(v)));
  }
  static std::vector<T> spread(const std::vector<float>& values, std::size_t tokens, std::size_t cols,
                               std::size_t stride) {
    std::vector<T> out(tokens * stride, T(NAN));
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t c = 0; c < cols; ++c) out[t * stride + c] = T(values[t * cols + c]);
    return out;
  }
};

/// Rounds by the definition: LlmInt8 with the row's absmax.
template <class T>
void check_rounding(const std::vector<float>& values, std::size_t tokens, std::size_t cols, std::size_t stride) {
  const Activations<T> a(values, tokens, cols, stride);
  const std::size_t codes_stride = (cols + 31) / 32 * 32;
  const DeviceArray<std::int8_t> codes(tokens * codes_stride);
  const DeviceArray<float> absmax(tokens);
  const DeviceArray<unsigned long long> place(1);
  require(cuda::round_activations(a.view, nullptr, codes.get(), codes_stride, absmax.get(), place.get(), nullptr),
          "round_activations");
  ASSERT_EQ(place.host()[0], 0u);
  const auto actual = codes.host();
  const auto most = absmax.host();
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto params = LlmInt8::fit(std::span(a.x).subspan(t * cols, cols));
    ASSERT_EQ(most[t], params.absmax) << "token " << t;
    for (std::size_t c = 0; c < codes_stride; ++c)
      ASSERT_EQ(actual[t * codes_stride + c], c < cols ? LlmInt8::encode(a.x[t * cols + c], params) - 128 : 0)
          << "token " << t << ", column " << c;
  }
}

TEST(CudaActivations, RoundsTokensToEightBits) {
  for_each_order([&] {
    const struct { std::size_t tokens, cols; } shapes[] = {{1, 1}, {3, 77}, {5, 4200}, {2, 64}};
    for (const auto& s : shapes) {
      const std::size_t n = s.tokens * s.cols;
      for (const auto& x : {normal(n, 1), ties(n, 2), denormals(n, 3), std::vector<float>(n, 0.0f)}) {
        ASSERT_NO_FATAL_FAILURE(check_rounding<float>(x, s.tokens, s.cols, s.cols));
        ASSERT_NO_FATAL_FAILURE(check_rounding<f16>(x, s.tokens, s.cols, s.cols + 8));
        ASSERT_NO_FATAL_FAILURE(check_rounding<bf16>(x, s.tokens, s.cols, s.cols + 1));
      }
    }
  });
}

TEST(CudaActivations, ReportsTheFirstPlaceThatIsNotFinite) {
  auto x = normal(4 * 600, 4);
  for (const std::size_t at : {1300u, 1301u, 2399u}) x[at] = at == 1300 ? INFINITY : NAN;
  const Activations<float> a(x, 4, 600, 600);
  const DeviceArray<std::int8_t> codes(4 * 600);
  const DeviceArray<float> absmax(4);
  const DeviceArray<unsigned long long> place(1);
  for_each_order([&] {
    require(cuda::round_activations(a.view, nullptr, codes.get(), 600, absmax.get(), place.get(), nullptr),
            "round_activations");
    ASSERT_EQ(~place.host()[0], 1300u);
  });
}

/// LLM.int8's decomposition by its definition: columns with an outlier are taken out, then each token is rounded.
/// quantize_activations_llm_int8 finds the same columns; its absmax also counts what is small in them.
Int8Activations decompose(MatrixView<const float> x, float threshold) {
  Int8Activations out = quantize_activations_llm_int8(x, threshold);
  std::vector<float> rest(x.data, x.data + x.rows * x.cols);
  for (std::size_t t = 0; t < x.rows; ++t)
    for (const std::size_t c : out.outlier_columns) rest[t * x.cols + c] = 0;
  const Int8Activations rounded = quantize_activations_llm_int8({rest.data(), x.rows, x.cols}, 0);
  out.codes = rounded.codes;
  out.absmax = rounded.absmax;
  return out;
}

template <class T>
void check_outliers(std::size_t tokens, std::size_t cols, std::size_t stride, const std::vector<std::size_t>& places) {
  auto values = normal(tokens * cols, 5);
  for (const std::size_t p : places) {
    values[p % values.size()] = p % 2 == 0 ? 6.0f : -20.0f;
    values[(p + cols) % values.size()] = 5.9f;  // the next token's, not an outlier by itself
  }
  const Activations<T> a(values, tokens, cols, stride);
  const Int8Activations expected = decompose({a.x.data(), tokens, cols}, 6.0f);
  const DeviceArray<std::uint32_t> marks(cols);
  const DeviceArray<std::int32_t> columns(cols), count(1);
  require(cuda::find_outlier_columns(a.view, 6.0f, marks.get(), columns.get(), count.get(), nullptr), "find");
  const DeviceArray<std::int8_t> codes(tokens * cols);
  const DeviceArray<float> absmax(tokens);
  const DeviceArray<unsigned long long> place(1);
  require(cuda::round_activations(a.view, marks.get(), codes.get(), cols, absmax.get(), place.get(), nullptr),
          "round_activations");
  ASSERT_EQ(place.host()[0], 0u);
  const std::size_t n = expected.outlier_columns.size();
  ASSERT_EQ(count.host()[0], static_cast<std::int32_t>(n));
  const auto found = columns.host();
  for (std::size_t i = 0; i < n; ++i)
    ASSERT_EQ(found[i], static_cast<std::int32_t>(expected.outlier_columns[i])) << "outlier " << i;
  ASSERT_EQ(absmax.host(), expected.absmax);
  const auto actual = codes.host();
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_EQ(static_cast<float>(actual[i]), expected.codes[i]) << "token " << i / cols << ", column " << i % cols;

  const std::size_t room = n + 5;  // more than there are: the rest is 0
  const DeviceArray<T> picked(tokens * room);
  require(cuda::gather_columns(a.view, columns.get(), std::min(room, cols), count.get(), picked.get(), room, nullptr),
          "gather_columns");
  const auto x = picked.host();
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t i = 0; i < std::min(room, cols); ++i)
      ASSERT_EQ(static_cast<float>(x[t * room + i]), i < n ? a.x[t * cols + expected.outlier_columns[i]] : 0.0f);
}

TEST(CudaActivations, SplitsOffOutlierColumns) {
  for_each_order([&] {
    for (const auto& places :
         {std::vector<std::size_t>{}, {40, 299, 1201, 900}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 256, 257}}) {
      ASSERT_NO_FATAL_FAILURE(check_outliers<float>(5, 300, 300, places));
      ASSERT_NO_FATAL_FAILURE(check_outliers<f16>(70, 300, 304, places));  // more tokens than one block looks at
      ASSERT_NO_FATAL_FAILURE(check_outliers<bf16>(2, 2111, 2111, places));
    }
  });
}

template <class T>
void check_gather(std::size_t tokens, std::size_t cols, std::size_t n, std::size_t out_stride) {
  const Activations<T> a(normal(tokens * cols, 6), tokens, cols, cols);
  std::vector<std::int32_t> order(n);
  for (std::size_t k = 0; k < n; ++k) order[k] = static_cast<std::int32_t>(k * 37 % cols);
  const DeviceArray<std::int32_t> columns(order);
  const DeviceArray<T> out(tokens * out_stride);
  const auto untouched = out.host();
  require(cuda::gather_columns(a.view, columns.get(), n, nullptr, out.get(), out_stride, nullptr), "gather_columns");
  const auto actual = out.host();
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t k = 0; k < out_stride; ++k) {
      const std::size_t at = t * out_stride + k;
      if (k < n) ASSERT_EQ(static_cast<float>(actual[at]), a.x[t * cols + static_cast<std::size_t>(order[k])]);
      else ASSERT_EQ(std::memcmp(&actual[at], &untouched[at], sizeof(T)), 0) << "written past token " << t;
    }
}

TEST(CudaGather, PutsColumnsInAnyOrder) {
  for_each_order([&] {
    ASSERT_NO_FATAL_FAILURE(check_gather<float>(3, 100, 100, 100));
    ASSERT_NO_FATAL_FAILURE(check_gather<f16>(5, 1301, 1301, 1301));
    ASSERT_NO_FATAL_FAILURE(check_gather<bf16>(2, 64, 64, 72));
    ASSERT_NO_FATAL_FAILURE(check_gather<f16>(1, 9, 3, 16));
  });
}

}  // namespace
}  // namespace nibble
