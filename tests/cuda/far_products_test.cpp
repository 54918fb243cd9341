// The tensor-core products where elements are numbered beyond 2³²: see far_index_test.cpp.
#include "kernels/cuda/gemm_w8a8.h"
#include "tests/cuda/far_rows.h"
#include "tests/cuda/gemm_support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

constexpr std::size_t kRows = FarRows<float>::rows, kStride = FarRows<float>::stride;

QuantizedMatrix quantized(const char* spec, std::size_t rows, std::size_t cols) {
  const auto w = normal(rows * cols, 71);
  return quantize(MatrixView<const float>(w.data(), rows, cols), spec);
}

void multiply(const cuda::PackedW4& w, const f16* x, std::size_t x_stride, std::size_t tokens, f16* y,
              std::size_t y_stride, unsigned blocks) {
  const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(tokens, w.rows, w.cols, blocks);
  const Bytes workspace(std::vector<std::uint8_t>(plan.blocks > 1000 ? 16 : plan.workspace_bytes));
  require(cuda::gemm_w4a16(w, x, DType::f16, x_stride, tokens, y, DType::f16, y_stride, plan, workspace.get(), nullptr),
          "gemm_w4a16");
}

TEST(CudaFarIndex, GemmW4A16ReadsAndWritesRowsBeyond32Bits) {
  const std::size_t rows = 20, cols = 64;
  const DeviceW4 w(quantized("int4-g64-asym", rows, cols));
  const auto x = converted<f16>(normal(kRows * cols, 72));
  const DeviceArray<f16> near_x(x), near(kRows * rows);
  const FarRows<f16> far_x(x, cols), far(rows);
  multiply(w.view(), near_x.get(), cols, kRows, near.get(), rows, 1);
  multiply(w.view(), far_x.get(), kStride, kRows, far.get(), kStride, 1);
  expect_same_bits(far.host(), near.host());
}

/// 40 thousand tokens of 128 thousand outputs, more than 2³² results: the last of 327,680 tiles, which is the first
/// block's.
TEST(CudaFarIndex, GemmW4A16ComputesTheLastTileOf40ThousandTokensAnd128ThousandOutputs) {
  const std::size_t tokens = 40960, rows = 131072, cols = 64, tile = 128, half_step = rows * 16;
  const DeviceW4 w(quantized("int4-g64-sym", tile, cols));
  const auto x = converted<f16>(normal(tile * cols, 73));
  const DeviceArray<f16> near_x(x), near(tile * tile);
  multiply(w.view(), near_x.get(), cols, tile, near.get(), tile, 1);

  std::vector<std::uint8_t> codes(2 * half_step);
  const auto* const packed = reinterpret_cast<const std::uint8_t*>(w.host().codes.data());
  for (std::size_t half = 0; half < 2; ++half)
    std::copy_n(packed + half * tile * 16, tile * 16, codes.data() + (half + 1) * half_step - tile * 16);
  std::vector<std::uint8_t> scales(2 * rows);
  std::copy_n(w.host().scales.data(), 2 * tile, scales.data() + 2 * (rows - tile));
  const Bytes far_codes(codes), far_scales(scales);
  std::vector<f16> all_x(tokens * cols);
  std::copy(x.begin(), x.end(), all_x.end() - static_cast<std::ptrdiff_t>(x.size()));
  const DeviceArray<f16> far_x(all_x);
  const FarArray<f16> far(tokens * rows);
  cuda::PackedW4 view = w.view();
  view.rows = rows;
  view.codes = reinterpret_cast<const std::uint32_t*>(far_codes.get());
  view.scales = far_scales.get();
  with_blocks(0, 1, [&] {
    multiply(view, far_x.get(), cols, tokens, far.get(), rows, static_cast<unsigned>(tokens / tile * (rows / tile)));
  });
  const auto expected = near.host();
  for (std::size_t t = 0; t < tile; ++t)
    expect_same_bits(far.host((tokens - tile + t) * rows + rows - tile, tile),
                     std::vector<f16>(expected.begin() + static_cast<std::ptrdiff_t>(t * tile),
                                      expected.begin() + static_cast<std::ptrdiff_t>((t + 1) * tile)));
}

TEST(CudaFarIndex, GemmW8A8ReadsAndWritesRowsBeyond32Bits) {
  const std::size_t rows = 20, cols = 64;
  const cuda::HostInt8 host = cuda::pack_int8(quantized("llm-int8", rows, cols));
  const DeviceArray<std::uint32_t> codes(host.codes);
  const DeviceArray<float> multipliers(host.multipliers), absmax(std::vector<float>{1.0f, 2.0f, 3.0f});
  const cuda::PackedInt8 w{rows, cols, codes.get(), multipliers.get()};
  std::vector<std::int8_t> x(kRows * cols);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::int8_t>(i * 37 % 255 - 127);
  const auto outliers = converted<f16>(normal(kRows * cols, 74));
  const DeviceArray<std::int8_t> near_x(x);
  const FarRows<std::int8_t> far_x(x, cols);
  const DeviceArray<f16> near_o(outliers);
  const FarRows<f16> far_o(outliers, cols);
  const DeviceArray<std::int32_t> columns(std::vector<std::int32_t>{3, 40}), count(std::vector<std::int32_t>{2});
  const DeviceArray<float> near(kRows * rows);
  const FarRows<float> far(rows);
  const auto run = [&](const std::int8_t* from, const f16* outlier, std::size_t stride, float* to,
                       std::size_t to_stride) {
    require(cuda::gemm_w8a8(w, {from, stride, absmax.get(), kRows},
                            {{outlier, DType::f16, kRows, cols, stride}, columns.get(), count.get()}, to, DType::f32,
                            to_stride, cuda::int8_tile(kRows, 227 << 10), nullptr),
            "gemm_w8a8");
  };
  run(near_x.get(), near_o.get(), cols, near.get(), rows);
  run(far_x.get(), far_o.get(), kStride, far.get(), kStride);
  expect_same_bits(far.host(), near.host());
}

}  // namespace
}  // namespace nibble
