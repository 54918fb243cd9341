// The host code of the CUDA backend: what it computes, and what it refuses.
#include "nibble/cuda/device.h"

#include <cmath>

#include "kernels/cuda/gemv.h"
#include "tests/cuda/backend_support.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

const char* const kSpecs[] = {"int4-g32-asym", "int3-g7-sym", "int8",     "int5-b50-asym", "int2-channel-asymraw-f32",
                              "nf4-b64-dq",    "fp4-b33",     "llm-int8", "dynamic8-b256"};

TEST(CudaBackend, QuantizesAndDecodesAsTheCpu) {
  power_on();
  const std::size_t rows = 6, cols = 150;
  const auto w = normal(rows * cols, 1);
  for (const char* text : kSpecs) {
    const QuantizedMatrix q = on_cpu(w, rows, cols, text);
    expect_same(backend().quantize(MatrixView<const float>(w.data(), rows, cols), q.spec, "w", serial_executor()), q,
                text);
    expect_same(backend().unpack(*backend().pack(q)), q, text);
    std::vector<f16> expected(4 * cols), actual(4 * cols);
    find_backend("scalar").dequantize_to(q, 2, MatrixView(expected.data(), 4, cols), serial_executor());
    backend().dequantize_to(q, 2, MatrixView(actual.data(), 4, cols), serial_executor());
    EXPECT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(f16)), 0) << text;
  }
  expect_clean();
  expect_bytes_in_use(0);
}

/// No kernel decodes floats of 8 bits or fewer: nothing is sent to the device.
TEST(CudaBackend, RefusesSmallFloatsByName) {
  power_on();
  const auto w = normal(4 * 32, 9);
  for (const char* text : {"fp8", "e4m3-t16", "mxfp4", "nvfp4"}) {
    const QuantizedMatrix q = on_cpu(w, 4, 32, text);
    EXPECT_FALSE(backend().supports(q.spec)) << text;
    expect_error(ErrorCode::unsupported, q.spec.to_string(), [&] { (void)backend().pack(q); });
    expect_error(ErrorCode::unsupported, q.spec.to_string(), [&] {
      (void)backend().quantize(MatrixView<const float>(w.data(), 4, 32), q.spec, "w", serial_executor());
    });
  }
  expect_clean();
  expect_bytes_in_use(0);
}

double bound_of(std::size_t n, const QuantSpec& spec, std::size_t cols, DType x_type = DType::f32) {
  const bool few = n <= cuda::kMaxGemvTokens && cuda::has_gemv(spec);
  return few ? cuda::gemv_relative_error(cols, spec.bits) : blas_bound(cols, x_type);
}

TEST(CudaBackend, MultipliesWithinItsBounds) {
  power_on();
  const std::size_t rows = 9, cols = 131;
  const auto w = normal(rows * cols, 2);
  for (const char* text : kSpecs) {
    const QuantizedMatrix q = on_cpu(w, rows, cols, text);
    const PackedMatrixPtr packed = backend().pack(q);
    const Weights weights{rows, cols, [&](std::size_t r, std::size_t c) { return q.value(r, c); }};
    for (const std::size_t n : {0u, 1u, 8u, 9u}) {
      const auto x = normal(n * cols, 3);
      std::vector<float> y(n * rows, NAN);
      backend().matmul({x.data(), n, cols}, *packed, {y.data(), n, rows}, serial_executor());
      if (q.spec.scheme == SchemeKind::llm_int8) continue;  // rounds activations: tensor_core_test.cpp
      ASSERT_NO_FATAL_FAILURE(expect_product(x, weights, y, n, bound_of(n, q.spec, cols), 0, text));
    }
    const Weights turned{cols, rows, [&](std::size_t r, std::size_t c) { return q.value(c, r); }};
    const auto x = normal(3 * rows, 4);
    std::vector<float> y(3 * cols, NAN);
    backend().matmul_transposed({x.data(), 3, rows}, *packed, {y.data(), 3, cols}, serial_executor());
    ASSERT_NO_FATAL_FAILURE(expect_product(x, turned, y, 3, blas_bound(rows, DType::f32), 0, text));
  }
  expect_clean();
  expect_bytes_in_use(0);
}

TEST(CudaBackend, MultipliesUnquantizedWeights) {
  power_on();
  const auto values = normal(7 * 40, 5), x = normal(2 * 40, 6);
  const auto halves = converted<bf16>(values);
  const PackedMatrixPtr packed = backend().pack(FloatMatrix(MatrixView<const bf16>(halves.data(), 7, 40)));
  std::vector<float> y(2 * 7, NAN);
  backend().matmul({x.data(), 2, 40}, *packed, {y.data(), 2, 7}, serial_executor());
  const Weights weights{7, 40, [&](std::size_t r, std::size_t c) { return static_cast<float>(halves[r * 40 + c]); }};
  expect_product(x, weights, y, 2, blas_bound(40, DType::f32), 0, "bf16 weights");
  expect_error(ErrorCode::unsupported, "no canonical form", [&] { (void)backend().unpack(*packed); });
  expect_clean();
}

/// What the device API does with a stream, its workspace and types.
template <class T>
void check_on_device(const char* text, std::size_t n, std::size_t band, double rounded_weight, double rounding) {
  const std::size_t rows = 11, cols = 72;
  const cuda::Context context;
  const Stream own;
  cudaStream_t stream = own.get();
  {
    const auto values = normal(rows * cols, 7);
    const QuantizedMatrix q = on_cpu(values, rows, cols, text);
    const cuda::MatrixPtr w = cuda::pack(context, q, stream);
    const auto x = converted<T>(normal(n * cols, 8));
    const DeviceArray<T> dx(x), dy(n * rows);
    const std::size_t best = cuda::matmul_workspace(*w, n, element_type<T>);
    const cuda::DeviceBuffer workspace(
        best == 0 || band == 0 ? best : (std::size_t{32} << 20) + band * cols * sizeof(T), context.allocator(), stream);
    const auto multiply = [&] {
      cuda::matmul(context, {dx.get(), element_type<T>, n, cols, cols}, *w, {dy.get(), element_type<T>, n, rows, rows},
                   workspace.span(), stream);
    };
    multiply();  // what is made at the first call, is made
    expect_asynchronous(stream, multiply);
    const Weights weights{rows, cols, [&](std::size_t r, std::size_t c) { return q.value(r, c); }};
    const bool few = cuda::matmul_tier(*w, n, element_type<T>) == cuda::Tier::gemv;
    EXPECT_EQ(best == 0, few);
    expect_product(x, weights, dy.host(), n, bound_of(n, q.spec, cols, element_type<T>) + (few ? 0 : rounded_weight),
                   rounding, text);
  }
}

TEST(CudaMatmul, IsOnTheCallersStreamAndAllocatesNothing) {
  power_on();
  for (const char* text : {"int4-g32-asym", "nf4-b64-dq", "int6-g16-sym"})
    for (const std::size_t n : {2u, 13u})
      for (const std::size_t band : {0u, 4u, 1u}) {
        ASSERT_NO_FATAL_FAILURE(check_on_device<float>(text, n, band, 0, 0));
        ASSERT_NO_FATAL_FAILURE(check_on_device<f16>(text, n, band, 0x1p-11, 0x1p-10));
        ASSERT_NO_FATAL_FAILURE(check_on_device<bf16>(text, n, band, 0x1p-8, 0x1p-8));
      }
  expect_clean();
  expect_no_leaks();
}

TEST(CudaMatmul, LeavesLargeRawZeroPointsToBlas) {
  power_on();
  const cuda::Context context;
  auto q = on_cpu(normal(2 * 32, 9), 2, 32, "int8-g32-asymraw-f32");
  EXPECT_EQ(cuda::matmul_tier(*cuda::pack(context, q, nullptr), 1, DType::f32), cuda::Tier::gemv);
  q.zero_points.writable<std::int32_t>()[1] = -(1 << 22) - 1;  // as only a file could hold it
  EXPECT_EQ(cuda::matmul_tier(*cuda::pack(context, q, nullptr), 1, DType::f32), cuda::Tier::blas);
}

TEST(CudaMatmul, RefusesWhatDoesNotFit) {
  power_on();
  const cuda::Context context;
  const auto w = cuda::pack(context, on_cpu(normal(4 * 32, 9), 4, 32, "int4-g32-sym"), nullptr);
  const DeviceArray<float> x(32 * 9), y(4 * 9);
  const cuda::DeviceBuffer workspace(cuda::matmul_workspace(*w, 9, DType::f32), context.allocator(), nullptr);
  const auto multiply = [&](cuda::DeviceMatrix dx, cuda::MutableDeviceMatrix dy, cuda::DeviceSpan space) {
    return [=, &context, &w] { cuda::matmul(context, dx, *w, dy, space, nullptr); };
  };
  const cuda::DeviceMatrix dx{x.get(), DType::f32, 9, 32, 32};
  const cuda::MutableDeviceMatrix dy{y.get(), DType::f32, 9, 4, 4};
  auto narrow = dx;
  narrow.cols = 31;
  expect_error(ErrorCode::shape_mismatch, "x is [9, 31] with rows 32 apart, the weights are [4, 32], y is [9, 4]",
               multiply(narrow, dy, workspace.span()));
  auto half = dy;
  half.type = DType::f16;
  expect_error(ErrorCode::unsupported, "x is F32 and y F16", multiply(dx, half, workspace.span()));
  expect_error(ErrorCode::invalid_argument, "the workspace has 100 bytes", multiply(dx, dy, {workspace.as<>(), 100}));
  expect_error(ErrorCode::invalid_argument, "not aligned to 256 bytes",
               multiply(dx, dy, {workspace.as<>() + 16, workspace.size()}));
  multiply(dx, dy, workspace.span())();
  expect_clean();
}

TEST(CudaBackend, SaysWhatItCannotDo) {
  power_on();
  std::vector<float> w = normal(3 * 40, 10);
  w[47] = -INFINITY;
  expect_error(ErrorCode::non_finite, "tensor 'up', row 1, column 7: the value is -infinity", [&] {
    (void)backend().quantize(MatrixView<const float>(w.data(), 3, 40), QuantSpec::parse("int4-g8-sym"), "up",
                             serial_executor());
  });
  w[47] = 3e38f;
  expect_error(ErrorCode::non_finite, "row 1, column 0: the scale of the group that begins here", [&] {
    (void)backend().quantize(MatrixView<const float>(w.data(), 3, 40), QuantSpec::parse("int4-g8-sym"), "up",
                             serial_executor());
  });
  const QuantizedMatrix q = on_cpu(normal(3 * 40, 11), 3, 40, "int4-g8-sym");
  const auto theirs = find_backend("scalar").pack(q);
  std::vector<float> x(40), y(3);
  expect_error(ErrorCode::invalid_argument, "packed by the backend 'scalar'", [&] {
    backend().matmul({x.data(), 1, 40}, *theirs, {y.data(), 1, 3}, serial_executor());
  });
  const auto ours = backend().pack(q);
  EXPECT_FALSE(backend().has_int8_matmul(*ours));
  expect_error(ErrorCode::unsupported, "these are int4-g8-sym, packed canonically", [&] {
    backend().matmul_int8({x.data(), 1, 40}, *ours, {y.data(), 1, 3}, serial_executor());
  });
  expect_error(ErrorCode::shape_mismatch, "rows 2 to 4", [&] {
    std::vector<float> out(2 * 40);
    backend().dequantize(q, 2, {out.data(), 2, 40}, serial_executor());
  });
  expect_clean();
}

/// An engine's allocator, whose memory must all come back.
class CountingAllocator final : public cuda::DeviceAllocator {
 public:
  void* allocate(std::size_t bytes, cudaStream_t stream) override {
    held += bytes;
    return cuda::default_allocator().allocate(bytes, stream);
  }
  void deallocate(void* memory, std::size_t bytes, cudaStream_t stream) noexcept override {
    held -= bytes;
    cuda::default_allocator().deallocate(memory, bytes, stream);
  }
  std::size_t held = 0;
};

TEST(CudaMemory, ComesFromTheCallersAllocator) {
  power_on();
  CountingAllocator allocator;
  const cuda::Context context(0, allocator);
  {
    const auto w = cuda::pack(context, on_cpu(normal(4 * 64, 12), 4, 64, "nf4-b64-dq"), nullptr);
    EXPECT_EQ(allocator.held, w->storage_bytes());
    expect_bytes_in_use(allocator.held);
  }
  EXPECT_EQ(allocator.held, 0u);
}

}  // namespace
}  // namespace nibble
