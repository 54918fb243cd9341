// The tensor-core product of 8-bit integers, with and without outlier columns: bit for bit its definition.
#include "kernels/cuda/gemm_w8a8.h"

#include "tests/cuda/gemm_support.h"
#include "tests/support/llm_int8_activations.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

class DeviceInt8 {
 public:
  explicit DeviceInt8(const QuantizedMatrix& q)
      : host_(cuda::pack_int8(q)), codes_(host_.codes), multipliers_(host_.multipliers) {}
  [[nodiscard]] cuda::PackedInt8 view() const { return {host_.rows, host_.cols, codes_.get(), multipliers_.get()}; }

 private:
  cuda::HostInt8 host_;
  DeviceArray<std::uint32_t> codes_;
  DeviceArray<float> multipliers_;
};

/// Activations of type X, rounded by their definition, and their outlier columns.
template <class X>
struct Input {
  std::size_t tokens, cols;
  std::vector<float> x;
  std::vector<std::int8_t> codes;
  std::vector<float> absmax;
  std::vector<std::int32_t> columns;

  Input(std::size_t token_count, std::size_t columns_of_x, float threshold) : tokens(token_count), cols(columns_of_x) {
    for (const X v : converted<X>(normal(tokens * cols, 41))) x.push_back(static_cast<float>(v));
    const auto rounded = quantize_activations_llm_int8({x.data(), tokens, cols}, threshold);
    const std::size_t stride = padded();
    codes.resize(tokens * stride);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t c = 0; c < cols; ++c)
        codes[t * stride + c] = static_cast<std::int8_t>(rounded.codes[t * cols + c]);
    absmax = rounded.absmax;
    for (const std::size_t c : rounded.outlier_columns) columns.push_back(static_cast<std::int32_t>(c));
  }
  [[nodiscard]] std::size_t padded() const { return cuda::round_up(cols, 16) + 16; }

  [[nodiscard]] float expected(const QuantizedMatrix& q, std::size_t t, std::size_t r) const {
    std::int64_t sum = 0;
    for (std::size_t c = 0; c < cols; ++c) sum += std::int64_t{codes[t * padded() + c]} * (q.code(r, c) - 128);
    const float multiplier = q.multiplier(q.group_of(r, 0));
    float y = multiplier * static_cast<float>(sum) * (absmax[t] * LlmInt8::inverse_127);
    for (const std::int32_t c : columns) {
      const auto col = static_cast<std::size_t>(c);
      y += x[t * cols + col] * (static_cast<float>(q.code(r, col) - 128) * multiplier);
    }
    return y;
  }
};

template <class Y, class X = float>
void check(const char* spec, std::size_t tokens, std::size_t rows, std::size_t cols, float threshold,
           std::size_t shared_bytes = 96 << 10) {
  const auto weights = normal(rows * cols, 42);
  const auto q = quantize(MatrixView<const float>(weights.data(), rows, cols), spec);
  const Input<X> in(tokens, cols, threshold);
  const DeviceInt8 w(q);
  const DeviceArray<std::int8_t> codes(in.codes);
  const DeviceArray<float> absmax(in.absmax);
  const DeviceArray<X> x(converted<X>(in.x));
  const DeviceArray<std::int32_t> columns(in.columns);
  const DeviceArray<std::int32_t> count(std::vector<std::int32_t>{static_cast<std::int32_t>(in.columns.size())});
  const cuda::RoundedActivations rounded{codes.get(), in.padded(), absmax.get(), tokens};
  cuda::OutlierColumns outliers;
  if (threshold > 0) outliers = {{x.get(), element_type<X>, tokens, cols, cols}, columns.get(), count.get()};
  const std::size_t y_stride = rows + 5;
#ifndef NIBBLE_TEST_ON_GPU
  cuda_emulation::reset_statistics();
#endif
  for_each_order([&] {
    const DeviceArray<Y> out(tokens * y_stride);
    require(cuda::gemm_w8a8(w.view(), rounded, outliers, out.get(), element_type<Y>, y_stride,
                            cuda::int8_tile(tokens, shared_bytes), nullptr),
            "gemm_w8a8");
    const auto y = out.host();
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t r = 0; r < rows; ++r)
        ASSERT_EQ(static_cast<float>(y[t * y_stride + r]), static_cast<float>(Y(in.expected(q, t, r))))
            << spec << ", " << tokens << " x " << rows << " x " << cols << ": token " << t << ", row " << r;
      for (std::size_t r = rows; r < y_stride; ++r) ASSERT_TRUE(std::isnan(static_cast<float>(y[t * y_stride + r])));
    }
  });
#ifndef NIBBLE_TEST_ON_GPU
  EXPECT_EQ(cuda_emulation::statistics().bank_conflict_ratio(), 1.0);
#endif
}

struct Shape {
  std::size_t tokens, rows, cols;
};

TEST(CudaGemmW8A8, IsExactForRaggedShapes) {
  for (const Shape& s :
       {Shape{1, 1, 1}, Shape{32, 128, 128}, Shape{9, 43, 300}, Shape{33, 130, 515}, Shape{130, 20, 260}}) {
    ASSERT_NO_FATAL_FAILURE((check<float>("int8", s.tokens, s.rows, s.cols, 0)));
    ASSERT_NO_FATAL_FAILURE((check<f16>("int8-tensor-sym", s.tokens, s.rows, s.cols, 0)));
    ASSERT_NO_FATAL_FAILURE((check<bf16>("llm-int8", s.tokens, s.rows, s.cols, 0)));
  }
  ASSERT_NO_FATAL_FAILURE(
      (check<float>("int8", 50, 20, 700, 0, 64 << 10)));  // as on a device with little shared memory
}

/// A low threshold makes more outlier columns than are staged at once.
TEST(CudaGemmW8A8, AddsOutlierColumns) {
  for (const float threshold : {10.0f, 3.0f, 2.0f}) {
    ASSERT_NO_FATAL_FAILURE((check<float>("llm-int8", 5, 43, 200, threshold)));
    ASSERT_NO_FATAL_FAILURE((check<float>("llm-int8", 34, 130, 200, threshold)));
    ASSERT_NO_FATAL_FAILURE((check<f16, f16>("llm-int8", 5, 43, 200, threshold)));
    ASSERT_NO_FATAL_FAILURE((check<float, bf16>("llm-int8", 34, 43, 200, threshold)));
  }
}

TEST(CudaGemmW8A8, RefusesWhatItHasNoKernelFor) {
  const auto q = quantize(MatrixView<const float>(normal(20 * 64, 43).data(), 20, 64), "int8");
  const DeviceInt8 w(q);
  const DeviceArray<std::int8_t> codes(2 * 64 + 1);
  const DeviceArray<float> absmax(2), y(2 * 20);
  const auto status = [&](std::size_t offset, std::size_t stride, std::size_t cols, cuda::Int8TileShape tile) {
    auto view = w.view();
    view.cols = cols;
    return cuda::gemm_w8a8(view, {codes.get() + offset, stride, absmax.get(), 2}, {}, y.get(), DType::f32, 20, tile,
                           nullptr);
  };
  const auto tile = cuda::int8_tile(2, 64 << 10);
  EXPECT_EQ(status(0, 64, 64, tile), cudaSuccess);
  EXPECT_NE(status(1, 64, 64, tile), cudaSuccess);
  EXPECT_NE(status(0, 56, 64, tile), cudaSuccess);
  EXPECT_NE(status(0, 48, 64, tile), cudaSuccess);
  EXPECT_NE(status(0, 64, cuda::kMaxInt8Columns + 1, tile), cudaSuccess);
  EXPECT_NE(status(0, 64, 64, cuda::Int8TileShape{48, 128, 3, 0}), cudaSuccess);
}

}  // namespace
}  // namespace nibble
