// The tensor-core product of 4-bit weights against exact products, within the bound that gemm_w4a16.h derives.
#include "kernels/cuda/gemm_w4a16.h"

#include "tests/cuda/gemm_support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

struct Shape {
  std::size_t tokens, rows, cols;
  unsigned blocks;  ///< That the device runs at once.
};

template <class X, class Y>
std::vector<Y> multiply(const DeviceW4& w, const std::vector<X>& x, const Shape& s) {
  const std::size_t stride = cuda::round_up(s.cols, 8) + 8, y_stride = s.rows + 3;
  std::vector<X> spread((s.tokens - 1) * stride + s.cols, X(NAN));
  for (std::size_t t = 0; t < s.tokens; ++t)
    for (std::size_t c = 0; c < s.cols; ++c) {
      const auto order = w.host().column_order;
      spread[t * stride + c] = x[t * s.cols + (order.empty() ? c : static_cast<std::size_t>(order[c]))];
    }
  const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(s.tokens, s.rows, s.cols, s.blocks);
  const DeviceArray<X> device(spread);
  const DeviceArray<Y> out(s.tokens * y_stride);
  std::vector<std::uint8_t> zero_locks(plan.workspace_bytes, 0xff);
  std::fill_n(zero_locks.begin(), plan.lock_bytes, std::uint8_t{0});
  const Bytes workspace(zero_locks);
  for (int launch = 0; launch < (plan.blocks > 1 ? 2 : 1); ++launch)  // the second finds the locks as the first did
    require(cuda::gemm_w4a16(w.view(), device.get(), element_type<X>, stride, s.tokens, out.get(), element_type<Y>,
                             y_stride, plan, workspace.get(), nullptr),
            "gemm_w4a16");
  const auto left = workspace.host();
  EXPECT_TRUE(std::all_of(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(plan.lock_bytes),
                          [](std::uint8_t b) { return b == 0; }));
  const std::vector<Y> written = out.host();
  std::vector<Y> y;
  for (std::size_t t = 0; t < s.tokens; ++t) {
    for (std::size_t r = 0; r < s.rows; ++r) y.push_back(written[t * y_stride + r]);
    for (std::size_t r = s.rows; r < y_stride; ++r)
      EXPECT_TRUE(std::isnan(static_cast<float>(written[t * y_stride + r])));
  }
  return y;
}

template <class X, class Y>
void check(const std::string& name, const QuantizedMatrix& q, const Shape& s, int seeds = 1) {
  const auto x = converted<X>(normal(s.tokens * q.cols, 31));
  const DeviceW4 w(q);
  std::vector<Y> first;
  const auto run = [&] {
    const std::vector<Y> y = multiply<X, Y>(w, x, s);
    if (first.empty()) first = y;
    ASSERT_EQ(std::memcmp(y.data(), first.data(), y.size() * sizeof(Y)), 0) << name << " depends on the order";
  };
#ifdef NIBBLE_TEST_ON_GPU
  static_cast<void>(seeds);
  run();
#else
  cuda_emulation::reset_statistics();
  for_each_order(run, static_cast<int>(s.blocks), seeds);
  EXPECT_EQ(cuda_emulation::statistics().bank_conflict_ratio(), 1.0) << name;
#endif
  std::vector<double> weights(q.rows * q.cols);
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t c = 0; c < q.cols; ++c) weights[r * q.cols + c] = static_cast<double>(q.value(r, c));
  const double relative =
      cuda::gemm_w4a16_relative_error(q.cols, w.host().group, q.spec.is_codebook(), element_type<X>);
  for (std::size_t t = 0; t < s.tokens; ++t)
    for (std::size_t r = 0; r < q.rows; ++r) {
      double exact = 0, size = 0;
      for (std::size_t c = 0; c < q.cols; ++c) {
        const double product = static_cast<double>(static_cast<float>(x[t * q.cols + c])) * weights[r * q.cols + c];
        exact += product;
        size += std::abs(product);
      }
      const double bound = relative * size;
      ASSERT_NEAR(static_cast<double>(static_cast<float>(first[t * q.rows + r])), exact,
                  bound + rounding<Y>(std::abs(exact) + bound))
          << name << ", " << s.tokens << " x " << s.rows << " x " << s.cols << ": token " << t << ", row " << r;
    }
}

QuantizedMatrix quantized(const char* spec, const Shape& s) {
  const auto w = normal(s.rows * s.cols, 32);
  return quantize(MatrixView<const float>(w.data(), s.rows, s.cols), spec);
}

TEST(CudaGemmW4A16, KeepsItsBoundForEverySpec) {
  const Shape s{5, 43, 328, 1};
  for (const char* spec : {"int4-g128-sym", "int4-g128-asym", "int4-g32-asym-bf16", "int4-g64-sym-f32", "int4-g96-asym",
                           "int4-channel-asym-f32", "int4-tensor-sym", "nf4-b32-dq"}) {
    const Shape fitting = std::string(spec).find("-b") == std::string::npos ? s : Shape{5, 43, 320, 1};
    ASSERT_NO_FATAL_FAILURE((check<f16, float>(spec, quantized(spec, fitting), fitting)));
    ASSERT_NO_FATAL_FAILURE((check<bf16, float>(spec, quantized(spec, fitting), fitting)));
  }
  const Shape blocks{3, 130, 384, 1};
  for (const char* spec : {"nf4-b64", "nf4-b64-dq", "fp4-b128"}) {
    ASSERT_NO_FATAL_FAILURE((check<f16, f16>(spec, quantized(spec, blocks), blocks)));
    ASSERT_NO_FATAL_FAILURE((check<bf16, bf16>(spec, quantized(spec, blocks), blocks)));
  }
}

/// Every tile configuration, with and without tails of tokens, rows and columns.
TEST(CudaGemmW4A16, TakesRaggedShapes) {
  const Shape shapes[] = {{1, 1, 8, 1},     {16, 128, 64, 1},  {17, 131, 264, 2}, {31, 127, 72, 1}, {49, 130, 200, 2},
                          {64, 16, 576, 1}, {65, 129, 136, 2}, {128, 24, 64, 1},  {130, 8, 104, 1}};
  for (const Shape& s : shapes) {
    ASSERT_NO_FATAL_FAILURE((check<f16, f16>("int4-g64-asym", quantized("int4-g64-asym", s), s)));
    ASSERT_NO_FATAL_FAILURE((check<bf16, float>("int4-g32-sym", quantized("int4-g32-sym", s), s)));
    if (s.cols % 64 == 0) ASSERT_NO_FATAL_FAILURE((check<f16, float>("nf4-b64", quantized("nf4-b64", s), s)));
  }
}

/// Every tile of a codebook, cut, so that blocks add their sums.
TEST(CudaGemmW4A16, AddsSumsOfCodebooks) {
  for (const Shape& s :
       {Shape{3, 130, 320, 3}, Shape{20, 130, 320, 3}, Shape{49, 130, 320, 2}, Shape{130, 130, 320, 2}}) {
    ASSERT_NO_FATAL_FAILURE((check<f16, float>("nf4-b64", quantized("nf4-b64", s), s, 1)));
    ASSERT_NO_FATAL_FAILURE((check<bf16, bf16>("nf4-b64", quantized("nf4-b64", s), s, 1)));
  }
}

/// Tiles that are cut in two, and in many; a block whose run ends in one tile and begins in another; one that has whole
/// tiles, between which nothing waits but for the stages.
TEST(CudaGemmW4A16, BlocksAddInOrder) {
  for (const Shape& s : {Shape{4, 256, 640, 3}, Shape{20, 130, 640, 7}, Shape{9, 60, 1032, 16}, Shape{3, 300, 72, 4},
                         Shape{3, 300, 72, 1}, Shape{2, 400, 264, 2}}) {
    ASSERT_NO_FATAL_FAILURE((check<f16, float>("int4-g128-asym", quantized("int4-g128-asym", s), s, 4)));
    ASSERT_NO_FATAL_FAILURE((check<bf16, bf16>("int4-g32-sym", quantized("int4-g32-sym", s), s, 1)));
  }
}

TEST(CudaGemmW4A16, FollowsActOrder) {
  const Shape s{6, 70, 256, 2};
  for (const char* spec : {"int4-g32-asym", "int4-g64-sym"}) {
    auto q = quantized(spec, s);
    const auto groups = static_cast<std::int32_t>(s.cols / q.spec.group_size);
    for (std::int32_t c = 0; c < 256; ++c) q.g_idx.push_back(c * 3 % groups);
    q.validate("w");
    ASSERT_NO_FATAL_FAILURE((check<f16, float>(spec, q, s)));
  }
}

/// Scales that fp16 weights could not be multiplied by.
TEST(CudaGemmW4A16, KeepsScalesOfAnySize) {
  for (const float factor : {1e-9f, 1e6f}) {
    const Shape s{2, 20, 128, 1};
    auto w = normal(s.rows * s.cols, 33);
    for (float& v : w) v *= factor;
    const MatrixView<const float> view(w.data(), s.rows, s.cols);
    ASSERT_NO_FATAL_FAILURE((check<f16, float>("int4-g64-asym-f32", quantize(view, "int4-g64-asym-f32"), s)));
    ASSERT_NO_FATAL_FAILURE((check<f16, float>("nf4-b64", quantize(view, "nf4-b64"), s)));
  }
}

TEST(CudaGemmW4A16, PlansCoverTheWork) {
  for (const std::size_t rows : {1u, 128u, 300u, 5000u})
    for (unsigned blocks = 1; blocks < 60; ++blocks) {
      const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(40, rows, 328, blocks);
      ASSERT_LE(plan.blocks, blocks);
      ASSERT_GE(plan.blocks * plan.steps_a_block, plan.steps);
      ASSERT_LT((plan.blocks - 1) * plan.steps_a_block, plan.steps);
      ASSERT_EQ(plan, cuda::plan_gemm_w4a16(40, rows, 328, plan.blocks)) << blocks;
    }
  EXPECT_EQ(cuda::plan_gemm_w4a16(40, 300, 328, 0).blocks, 1u);
  EXPECT_EQ(cuda::plan_gemm_w4a16(0, 300, 328, 4).blocks, 0u);
  EXPECT_EQ(cuda::plan_gemm_w4a16(std::size_t{1} << 31, std::size_t{1} << 31, 64, 4).blocks, 0u);
  EXPECT_EQ(cuda::plan_gemm_w4a16(std::size_t{1} << 33, 8, 8, 4).blocks, 0u);
}

/// The last block's run may end beyond the last step, and that number must fit 32 bits, too.
TEST(CudaGemmW4A16, PlansCountStepsIn32Bits) {
  const std::size_t most_steps = (std::size_t{1} << 31) - 1;
  for (const unsigned blocks : {1u, 3u, 132u}) {
    const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(16, 128, most_steps * 64, blocks);
    EXPECT_EQ(plan.steps, most_steps);
    EXPECT_LT(std::uint64_t{plan.blocks} * plan.steps_a_block, std::uint64_t{1} << 32);
  }
  EXPECT_EQ(cuda::plan_gemm_w4a16(16, 128, (most_steps + 1) * 64, 132).blocks, 0u);
  EXPECT_EQ(cuda::plan_gemm_w4a16(16, 65535 * 128, 65537 * 64, 132).blocks, 0u) << "2³² − 1 steps";
}

TEST(CudaGemmW4A16, RefusesPlansThatAreNone) {
  const Shape s{2, 300, 128, 3};
  const DeviceW4 w(quantized("int4-g64-asym", s));
  const DeviceArray<f16> x(std::vector<f16>(2 * 128, f16(1.0f)));
  const DeviceArray<float> y(2 * 300);
  const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(2, 300, 128, 3);
  const Bytes workspace(std::vector<std::uint8_t>(plan.workspace_bytes));
  const auto status = [&](auto edit) {
    cuda::GemmPlan edited = plan;
    edit(edited);
    return cuda::gemm_w4a16(w.view(), x.get(), DType::f16, 128, 2, y.get(), DType::f32, 300, edited, workspace.get(),
                            nullptr);
  };
  EXPECT_EQ(status([](cuda::GemmPlan&) {}), cudaSuccess);
  EXPECT_NE(status([](cuda::GemmPlan& p) { p = {}; }), cudaSuccess);
  EXPECT_NE(status([](cuda::GemmPlan& p) { p.tile_tokens = 0; }), cudaSuccess);
  EXPECT_NE(status([](cuda::GemmPlan& p) { p.tile_tokens = 48; }), cudaSuccess);
  EXPECT_NE(status([](cuda::GemmPlan& p) { --p.blocks; }), cudaSuccess);
  EXPECT_NE(status([](cuda::GemmPlan& p) { --p.steps_a_block; }), cudaSuccess);
  EXPECT_NE(status([](cuda::GemmPlan& p) { p.lock_bytes = 0; }), cudaSuccess);
}

TEST(CudaGemmW4A16, RefusesWhatItHasNoKernelFor) {
  const Shape s{2, 20, 128, 1};
  const DeviceW4 w(quantized("int4-g64-asym", s));
  const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(2, 20, 128, 1);
  const DeviceArray<f16> x(std::vector<f16>(2 * 128, f16(1.0f)));
  const DeviceArray<float> y(2 * 20);
  const Bytes workspace(std::vector<std::uint8_t>(plan.workspace_bytes));
  const auto status = [&](const cuda::PackedW4& weights, const f16* at, DType type, std::size_t stride,
                          std::size_t tokens) {
    return cuda::gemm_w4a16(weights, at, type, stride, tokens, y.get(), DType::f32, 20, plan, workspace.get(), nullptr);
  };
  EXPECT_EQ(status(w.view(), x.get(), DType::f16, 128, 2), cudaSuccess);
  EXPECT_EQ(status(w.view(), x.get(), DType::f16, 128, 0), cudaSuccess);
  EXPECT_NE(status(w.view(), x.get(), DType::f32, 128, 2), cudaSuccess);
  EXPECT_NE(status(w.view(), x.get() + 1, DType::f16, 128, 2), cudaSuccess);
  EXPECT_NE(status(w.view(), x.get(), DType::f16, 132, 2), cudaSuccess);
  EXPECT_NE(status(w.view(), x.get(), DType::f16, 128, 17), cudaSuccess);  // another shape's plan
  auto wrong = w.view();
  wrong.group = 48;
  EXPECT_NE(status(wrong, x.get(), DType::f16, 128, 2), cudaSuccess);
  EXPECT_FALSE(cuda::has_gemm_w4a16(DType::bf16, 75));
  EXPECT_TRUE(cuda::has_gemm_w4a16(DType::f16, 75));
  EXPECT_FALSE(cuda::has_gemm_w4a16(DType::f32, 90));
}

}  // namespace
}  // namespace nibble
