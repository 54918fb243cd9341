// The tensor-core kernels behind the interface: weights packed for them, products of 4-bit weights with activations of
// 16 bits, and products with activations of 8 bits.
#include <cmath>

#include "kernels/cuda/gemv.h"
#include "tests/cuda/backend_support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;
using cuda::CodeLayout;
using cuda::Tier;

TEST(CudaPack, KeepsOneCopyOfTheCodes) {
  power_on();
  const cuda::Context context;
  const std::size_t rows = 131, cols = 192;
  for (const char* text : {"int4-g32-asym", "int4-g64-sym", "nf4-b64-dq", "int8", "llm-int8", "int3-g32-sym"}) {
    auto q = on_cpu(normal(rows * cols, 61), rows, cols, text);
    if (std::string(text) == "int4-g64-sym") q = with_act_order(std::move(q));
    const auto canonical = cuda::pack(context, q, nullptr), both = cuda::pack(context, q, nullptr, CodeLayout::both),
               one = cuda::pack(context, q, nullptr, CodeLayout::tensor_core);
    const bool qualifies = q.spec.bits != 3;
    EXPECT_EQ(canonical->code_layout(), CodeLayout::canonical);
    EXPECT_EQ(both->code_layout(), qualifies ? CodeLayout::both : CodeLayout::canonical);
    EXPECT_EQ(one->code_layout(), qualifies ? CodeLayout::tensor_core : CodeLayout::canonical);
    EXPECT_EQ(both->storage_bytes() - one->storage_bytes(), qualifies ? rows * q.row_bytes() : 0) << text;
    for (const auto& w : {canonical, both, one}) {
      expect_same(cuda::unpack(context, *w, nullptr), q, text);
      std::vector<float> expected(7 * cols);
      find_backend("scalar").dequantize(q, 124, {expected.data(), 7, cols}, serial_executor());
      const DeviceArray<float> out(7 * cols);
      cuda::dequantize(context, *w, 124, {out.get(), DType::f32, 7, cols, cols}, nullptr);
      EXPECT_EQ(out.host(), expected) << text;
    }
  }
  expect_clean();
}

/// How the activations of a product lie.
struct Operands {
  std::size_t tokens, rows, cols, offset, stride;  ///< offset: elements before x, from an aligned address
};

template <class T, class Y>
void check_product(const cuda::Context& context, const QuantizedMatrix& q, CodeLayout layout, const Operands& o,
                   Tier expected_tier) {
  const std::string name = q.spec.to_string() + ", " + std::to_string(o.tokens) + " tokens";
  const Stream stream;
  const auto w = cuda::pack(context, q, stream.get(), layout);
  const Tier tier = cuda::matmul_tier(*w, o.tokens, element_type<T>);
  // What a GPU's table says otherwise is its own business; the bounds are those of the tier that it says.
  if (!on_gpu) ASSERT_EQ(tier, expected_tier) << name;
  const auto x = converted<T>(normal(o.tokens * o.cols, 62));
  std::vector<T> spread(o.offset + o.tokens * o.stride, T(NAN));
  for (std::size_t t = 0; t < o.tokens; ++t)
    std::copy_n(x.data() + t * o.cols, o.cols, spread.data() + o.offset + t * o.stride);
  const DeviceArray<T> dx(spread);
  const DeviceArray<Y> dy(o.tokens * o.rows);
  const cuda::DeviceBuffer workspace(cuda::matmul_workspace(*w, o.tokens, element_type<T>), context.allocator(),
                                     stream.get());
  const auto multiply = [&] {
    cuda::matmul(context, {dx.get() + o.offset, element_type<T>, o.tokens, o.cols, o.stride}, *w,
                 {dy.get(), element_type<Y>, o.tokens, o.rows, o.rows}, workspace.span(), stream.get());
  };
  multiply();
  const auto y = dy.host();
  expect_asynchronous(stream.get(), multiply);
  const auto again = dy.host();
  EXPECT_EQ(std::memcmp(y.data(), again.data(), y.size() * sizeof(Y)), 0) << name;
  const double rounded = std::is_same_v<T, f16> ? 0x1p-11 : 0x1p-8;
  double bound = 1.01 * ((q.spec.is_codebook() ? rounded : 0) + (static_cast<double>(o.cols) / 16 + 149) * 0x1p-24);
  if (tier == Tier::gemv) bound = cuda::gemv_relative_error(o.cols, 4);
  if (tier == Tier::blas) bound = rounded + blas_bound(o.cols, element_type<T>);
  std::vector<float> values(o.rows * o.cols);
  find_backend("scalar").dequantize(q, 0, {values.data(), o.rows, o.cols}, serial_executor());
  const Weights weights{o.rows, o.cols, [&](std::size_t r, std::size_t c) { return values[r * o.cols + c]; }};
  ASSERT_NO_FATAL_FAILURE(expect_product(x, weights, y, o.tokens, bound, sizeof(Y) == 4 ? 0 : 2 * rounded, name));
}

TEST(CudaTensorCore, MultipliesWithinItsBound) {
  power_on();
  {
    const cuda::Context context;
    for (const char* text : {"int4-g32-asym", "int4-g64-sym-bf16", "int4-channel-sym", "nf4-b64-dq", "fp4-b32"}) {
      const auto q = on_cpu(normal(43 * 192, 63), 43, 192, text);
      for (const std::size_t n : {1u, 5u, 33u, 70u}) {
        const Operands o{n, 43, 192, 0, 192};
        ASSERT_NO_FATAL_FAILURE((check_product<f16, f16>(context, q, CodeLayout::tensor_core, o, Tier::tensor_core)));
        ASSERT_NO_FATAL_FAILURE(
            (check_product<bf16, float>(context, q, CodeLayout::tensor_core, o, Tier::tensor_core)));
      }
    }
  }
  expect_clean();
  expect_no_leaks();
}

/// Long rows are cut between many blocks, whose locks begin wherever the caller's workspace was used for before.
TEST(CudaTensorCore, TakesAnyOrderAndAlignment) {
  power_on();
  const cuda::Context context;
  const auto q = on_cpu(normal(20 * 1024, 64), 20, 1024, "int4-g64-asym");
  const auto sorted = with_act_order(q);
  for (const std::size_t n : {3u, 18u}) {
    ASSERT_NO_FATAL_FAILURE((check_product<f16, float>(context, sorted, CodeLayout::tensor_core, {n, 20, 1024, 0, 1024},
                                                       Tier::tensor_core)));
    ASSERT_NO_FATAL_FAILURE((check_product<bf16, bf16>(context, sorted, CodeLayout::tensor_core, {n, 20, 1024, 3, 1029},
                                                       Tier::tensor_core)));
    ASSERT_NO_FATAL_FAILURE(
        (check_product<f16, f16>(context, q, CodeLayout::tensor_core, {n, 20, 1024, 1, 1024}, Tier::tensor_core)));
    ASSERT_NO_FATAL_FAILURE(
        (check_product<f16, float>(context, q, CodeLayout::tensor_core, {n, 20, 1024, 0, 1031}, Tier::tensor_core)));
  }
  expect_clean();
}

/// A large layer's shape, ragged, on a GPU: every tier fills it, and tiles are many.
TEST(CudaMatmul, EveryTierKeepsItsBound) {
  power_on();
  const std::size_t rows = on_gpu ? 1029 : 9, cols = on_gpu ? 4096 : 64;
  {
    const cuda::Context context;
    for (const char* text : {"int4-g32-asym", "nf4-b64"}) {
      const auto q = on_cpu(normal(rows * cols, 65), rows, cols, text);
      const auto check = [&](std::size_t n, CodeLayout layout, Tier tier) {
        ASSERT_NO_FATAL_FAILURE((check_product<f16, f16>(context, q, layout, {n, rows, cols, 0, cols}, tier)));
        ASSERT_NO_FATAL_FAILURE((check_product<bf16, float>(context, q, layout, {n, rows, cols, 0, cols}, tier)));
      };
      check(1, CodeLayout::both, Tier::gemv);
      check(7, CodeLayout::canonical, Tier::gemv);
      check(9, CodeLayout::both, Tier::tensor_core);
      check(67, CodeLayout::tensor_core, Tier::tensor_core);
      check(on_gpu ? 1100 : 300, CodeLayout::tensor_core, Tier::blas);  // above the device's limit
      check(9, CodeLayout::canonical, Tier::blas);
    }
  }
  expect_clean();
  expect_no_leaks();
}

TEST(CudaTensorCore, RefusesASmallWorkspace) {
  power_on();
  const cuda::Context context;
  const auto w =
      cuda::pack(context, on_cpu(normal(4 * 64, 66), 4, 64, "int4-g32-sym"), nullptr, CodeLayout::tensor_core);
  const DeviceArray<f16> x(9 * 64), y(9 * 4);
  const std::size_t bytes = cuda::matmul_workspace(*w, 9, DType::f16);
  const cuda::DeviceBuffer workspace(bytes, context.allocator(), nullptr);
  expect_error(ErrorCode::invalid_argument, std::to_string(bytes) + " are the least", [&] {
    cuda::matmul(context, {x.get(), DType::f16, 9, 64, 64}, *w, {y.get(), DType::f16, 9, 4, 4},
                 {workspace.as<>(), bytes - 1}, nullptr);
  });
  expect_clean();
}

/// Activations with an outlier, and small values in its column.
std::vector<float> with_outliers(std::size_t tokens, std::size_t cols) {
  auto x = normal(tokens * cols, 67);
  if (tokens == 0) return x;
  x[3] = 9;
  x[(tokens - 1) * cols + 3] = 5.5f;  // the largest of its token, if its column counted
  x[(tokens / 2) * cols + cols - 1] = -6;
  return x;
}

TEST(CudaInt8, EqualsTheCpu) {
  power_on();
  const std::size_t rows = 43, cols = 300;
  const Backend& scalar = find_backend("scalar");
  for (const char* text : {"int8", "int8-tensor-sym", "llm-int8", "llm-int8-t0"}) {
    const auto q = on_cpu(normal(rows * cols, 68), rows, cols, text);
    const auto theirs = scalar.pack(q), ours = backend().pack(q);
    const bool is_llm_int8 = q.spec.scheme == SchemeKind::llm_int8;  // whose matmul rounds, always
    ASSERT_EQ(backend().has_int8_matmul(*ours), scalar.has_int8_matmul(*theirs)) << text;
    ASSERT_NE(backend().has_int8_matmul(*ours), is_llm_int8) << text;
    expect_same(backend().unpack(*ours), q, text);
    for (const std::size_t n : {0u, 1u, 7u, 40u}) {
      const auto x = with_outliers(n, cols);
      std::vector<float> expected(n * rows), y(n * rows, NAN);
      const MatrixView<const float> in(x.data(), n, cols);
      const Projection to_cpu[] = {{theirs.get(), {expected.data(), n, rows}}},
                       to_gpu[] = {{ours.get(), {y.data(), n, rows}}};
      scalar.matmul_fused(in, to_cpu, Activations::int8, serial_executor());
      backend().matmul_fused(in, to_gpu, Activations::int8, serial_executor());
      EXPECT_EQ(y, expected) << text << ", " << n << " tokens";
    }
  }
  expect_clean();
  expect_bytes_in_use(0);
}

template <class T>
void check_int8_on_device(const cuda::Context& context, const char* text, std::size_t n) {
  const std::size_t rows = 20, cols = 137;
  const auto q = on_cpu(normal(rows * cols, 69), rows, cols, text);
  const auto w = cuda::pack(context, q, nullptr, CodeLayout::tensor_core);
  const auto x = converted<T>(with_outliers(n, cols));
  std::vector<float> wide, expected(n * rows);
  for (const T v : x) wide.push_back(static_cast<float>(v));
  const Backend& scalar = find_backend("scalar");
  const auto packed = scalar.pack(q);
  const Projection to_cpu[] = {{packed.get(), {expected.data(), n, rows}}};
  scalar.matmul_fused({wide.data(), n, cols}, to_cpu, Activations::int8, serial_executor());
  const DeviceArray<T> dx(x), dy(n * rows);
  const cuda::DeviceBuffer workspace(cuda::matmul_int8_workspace(*w, n), context.allocator(), nullptr);
  cuda::matmul_int8(context, {dx.get(), element_type<T>, n, cols, cols}, *w, {dy.get(), element_type<T>, n, rows, rows},
                    workspace.span(), nullptr, nullptr);
  const auto y = dy.host();
  for (std::size_t i = 0; i < y.size(); ++i)
    ASSERT_EQ(static_cast<float>(y[i]), static_cast<float>(T(expected[i]))) << text << ", " << n << " tokens, " << i;
}

TEST(CudaInt8, TakesSixteenBitActivations) {
  power_on();
  const cuda::Context context;
  for (const char* text : {"int8", "llm-int8"})
    for (const std::size_t n : {1u, 35u}) {
      ASSERT_NO_FATAL_FAILURE(check_int8_on_device<f16>(context, text, n));
      ASSERT_NO_FATAL_FAILURE(check_int8_on_device<bf16>(context, text, n));
    }
  expect_clean();
}

TEST(CudaInt8, SaysWhatItCannotDo) {
  power_on();
  const cuda::Context context;
  const auto q = on_cpu(normal(4 * 40, 70), 4, 40, "int8");
  const auto ours = backend().pack(q);
  auto x = normal(3 * 40, 71);
  std::vector<float> y(3 * 4);
  x[47] = NAN;
  x[90] = INFINITY;
  expect_error(ErrorCode::non_finite, "activation row 1, column 7 is not finite", [&] {
    backend().matmul_int8({x.data(), 3, 40}, *ours, {y.data(), 3, 4}, serial_executor());
  });
  const auto llm = backend().pack(on_cpu(normal(4 * 40, 75), 4, 40, "llm-int8"));
  expect_error(ErrorCode::unsupported, "use matmul", [&] {
    backend().matmul_int8({x.data(), 3, 40}, *llm, {y.data(), 3, 4}, serial_executor());
  });
  const DeviceArray<float> dx(x), dy(3 * 4);
  const auto canonical = cuda::pack(context, q, nullptr);
  EXPECT_FALSE(cuda::has_matmul_int8(*canonical));
  const auto multiply = [&](const cuda::Matrix& w, cuda::DeviceSpan space) {
    cuda::matmul_int8(context, {dx.get(), DType::f32, 3, 40, 40}, w, {dy.get(), DType::f32, 3, 4, 4}, space, nullptr,
                      nullptr);
  };
  expect_error(ErrorCode::unsupported, "packed canonically", [&] { multiply(*canonical, {}); });
  const auto w = cuda::pack(context, q, nullptr, CodeLayout::tensor_core);
  expect_error(ErrorCode::invalid_argument, "are the least", [&] { multiply(*w, {dx.get(), 16}); });
  expect_clean();
}

}  // namespace
}  // namespace nibble
