// The host code of the CUDA backend on machines that only the emulation has: what it says when something is missing,
// what it chooses on which device, and that no call that fails, whichever, leaves anything behind.
#include "nibble/cuda/blocks.h"
#include "tests/cuda/backend_support.h"
#include "tests/cuda/blocks_support.h"
#include "tests/cuda/failures.h"
#include "tests/support/expect_error.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;
using cuda::CodeLayout;
using cuda::Tier;

TEST(CudaDevices, SayWhatIsMissing) {
  const struct {
    machine::Computer computer;
    const char* words;
  } cases[] = {{{0, {}}, "there is no NVIDIA driver"},
               {{11040, {machine::a100()}}, "serves CUDA up to 11.4"},
               {{13000, {}}, "there is a driver, but no CUDA device"},
               {{13000, {machine::v100()}}, "has compute capability 7.0; 7.5 (Turing) is the least"}};
  cuda::register_backend();
  for (const auto& c : cases) {
    machine::power_on(c.computer);
    expect_error(ErrorCode::unsupported, c.words, [] { (void)find_backend("cuda"); });
    expect_error(ErrorCode::unsupported, c.words, [] { const cuda::Context context; });
    expect_no_leaks();
  }
  power_on();
  EXPECT_EQ(cuda::why_unavailable(), "");
  expect_error(ErrorCode::unsupported, "there is no CUDA device 3", [] { (void)cuda::device_info(3); });
  EXPECT_EQ(cuda::device_info().compute_capability, 80);
  EXPECT_EQ(cuda::device_info().name, "A100-SXM4-80GB");
  EXPECT_NE(default_backend().name(), "cuda");  // its name alone chooses it
}

TEST(CudaDevices, LeaveTheCurrentOneAsItWas) {
  machine::power_on({13000, {machine::t4(), machine::h100()}});
  const cuda::Context context(1);
  EXPECT_EQ(context.device().name, "H100 SXM");
  const QuantizedMatrix q = on_cpu(normal(3 * 32, 17), 3, 32, "fp4-b32");
  expect_same(cuda::unpack(context, *cuda::pack(context, q, nullptr), nullptr), q, "on the second device");
  EXPECT_EQ(machine::calls_of("cudaSetDevice"), 6u);  // there and back, three times
  int current = -1;
  require(cudaGetDevice(&current), "cudaGetDevice");
  EXPECT_EQ(current, 0);
  const cuda::Context other(0);
  const auto w = cuda::pack(context, q, nullptr);
  expect_error(ErrorCode::invalid_argument, "the weights lie on CUDA device 1, the context is of device 0", [&] {
    cuda::matmul(other, {nullptr, DType::f32, 1, 32, 32}, *w, {nullptr, DType::f32, 1, 3, 3}, {}, nullptr);
  });
  expect_clean();
}

TEST(CudaTensorCore, IsChosenByTheTable) {
  power_on();
  const cuda::Context context;
  const auto q = on_cpu(normal(9 * 64, 65), 9, 64, "int4-g32-asym");
  const auto both = cuda::pack(context, q, nullptr, CodeLayout::both);
  EXPECT_EQ(cuda::matmul_tier(*both, 1, DType::f16), Tier::gemv);
  EXPECT_EQ(cuda::matmul_tier(*both, 9, DType::f16), Tier::tensor_core);
  EXPECT_EQ(cuda::matmul_tier(*both, 100000, DType::f16), Tier::blas);
  const auto act_order = cuda::pack(context, with_act_order(q), nullptr, CodeLayout::both);
  EXPECT_EQ(cuda::matmul_tier(*act_order, 1, DType::f16), Tier::tensor_core);  // its codes are sorted by group
  EXPECT_EQ(cuda::matmul_tier(*both, 8, DType::f32), Tier::gemv);
  EXPECT_EQ(cuda::matmul_tier(*both, 9, DType::f32), Tier::blas);
  machine::power_on({13000, {machine::t4()}});
  const cuda::Context turing;
  const auto w = cuda::pack(turing, q, nullptr, CodeLayout::tensor_core);
  EXPECT_EQ(cuda::matmul_tier(*w, 9, DType::f16), Tier::tensor_core);
  EXPECT_EQ(cuda::matmul_tier(*w, 9, DType::bf16), Tier::blas);  // no bf16 on its tensor cores
}

TEST(CudaFailures, OfTheDeviceApiLeaveNothingBehind) {
  power_on();
  const auto values = normal(5 * 64, 13);
  const QuantizedMatrix q = on_cpu(values, 5, 64, "nf4-b64-dq");
  const DeviceArray<float> x(normal(9 * 64, 14)), y(9 * 5);
  fail_every_call("pack and unpack", 0, [&] {
    const cuda::Context context;
    expect_same(cuda::unpack(context, *cuda::pack(context, q, nullptr), nullptr), q, "unpacked");
  });
  fail_every_call("quantize", 0, [&] {
    const cuda::Context context;
    (void)cuda::quantize(context, {x.get(), DType::f32, 9, 64, 64}, q.spec, "w", nullptr);
  });
  for (const std::size_t n : {1u, 9u})
    fail_every_call("matmul", 0, [&] {
      const cuda::Context context;
      const auto w = cuda::pack(context, q, nullptr);
      const cuda::DeviceBuffer workspace(cuda::matmul_workspace(*w, n, DType::f32), context.allocator(), nullptr);
      cuda::matmul(context, {x.get(), DType::f32, n, 64, 64}, *w, {y.get(), DType::f32, n, 5, 5}, workspace.span(),
                   nullptr);
    });
}

TEST(CudaFailures, OfTheBackendLeaveNothingBehind) {
  power_on();
  const auto values = normal(5 * 64, 15), x = normal(9 * 64, 16);
  const QuantizedMatrix q = on_cpu(values, 5, 64, "int4-g32-asym");
  std::vector<float> y(9 * 5), out(5 * 64), back(9 * 64);
  fail_every_call("quantize", 1, [&] {
    expect_same(backend().quantize(MatrixView<const float>(values.data(), 5, 64), q.spec, "w", serial_executor()), q,
                "quantized");
  });
  fail_every_call("dequantize", 1, [&] { backend().dequantize(q, 0, {out.data(), 5, 64}, serial_executor()); });
  fail_every_call("matmul", 1, [&] {
    const auto w = backend().pack(q);
    backend().matmul({x.data(), 9, 64}, *w, {y.data(), 9, 5}, serial_executor());
  });
  fail_every_call("matmul_transposed", 1, [&] {
    const auto w = backend().pack(q);
    backend().matmul_transposed({y.data(), 9, 5}, *w, {back.data(), 9, 64}, serial_executor());
  });
}

TEST(CudaTensorCore, FailuresLeaveNothingBehind) {
  power_on();
  const auto q = with_act_order(on_cpu(normal(5 * 64, 72), 5, 64, "int4-g32-asym"));
  const auto eight = on_cpu(normal(5 * 64, 73), 5, 64, "llm-int8");
  const DeviceArray<f16> x(converted<f16>(normal(9 * 64, 74))), y(9 * 5);
  const cuda::DeviceMatrix dx{x.get(), DType::f16, 9, 64, 64};
  const cuda::MutableDeviceMatrix dy{y.get(), DType::f16, 9, 5, 5};
  fail_every_call("matmul", 0, [&] {
    const cuda::Context context;
    const auto w = cuda::pack(context, q, nullptr, CodeLayout::tensor_core);
    const cuda::DeviceBuffer workspace(cuda::matmul_workspace(*w, 9, DType::f16), context.allocator(), nullptr);
    cuda::matmul(context, dx, *w, dy, workspace.span(), nullptr);
  });
  fail_every_call("matmul_int8", 0, [&] {
    const cuda::Context context;
    const auto w = cuda::pack(context, eight, nullptr, CodeLayout::both);
    const cuda::DeviceBuffer workspace(cuda::matmul_int8_workspace(*w, 9), context.allocator(), nullptr);
    cuda::matmul_int8(context, dx, *w, dy, workspace.span(), nullptr, nullptr);
  });
  for (const auto& m : {q, eight})
    fail_every_call("pack and unpack", 0, [&] {
      const cuda::Context context;
      const auto w = cuda::pack(context, m, nullptr, CodeLayout::tensor_core);
      expect_same(cuda::unpack(context, *w, nullptr), m, "unpacked");
    });
  // Blocks that share a tile, whose locks are cleared first, and activations that are first copied to where they are
  // aligned.
  const auto wide = on_cpu(normal(5 * 512, 75), 5, 512, "int4-g32-asym");
  const DeviceArray<f16> odd_x(converted<f16>(normal(9 * 512 + 1, 76)));
  const std::size_t copies = machine::calls_of("cudaMemcpy2DAsync"), clearings = machine::calls_of("cudaMemsetAsync");
  fail_every_call("matmul of wide weights", 0, [&] {
    const cuda::Context context;
    const auto w = cuda::pack(context, wide, nullptr, CodeLayout::tensor_core);
    const cuda::DeviceBuffer workspace(cuda::matmul_workspace(*w, 9, DType::f16), context.allocator(), nullptr);
    cuda::matmul(context, {odd_x.get() + 1, DType::f16, 9, 512, 512}, *w, dy, workspace.span(), nullptr);
  });
  EXPECT_GT(machine::calls_of("cudaMemcpy2DAsync"), copies);
  EXPECT_GT(machine::calls_of("cudaMemsetAsync"), clearings);
  std::vector<float> host(9 * 64, 1.0f), out(9 * 5);
  fail_every_call("matmul_int8 from the host", 1, [&] {
    const auto w = backend().pack(eight);
    backend().matmul({host.data(), 9, 64}, *w, {out.data(), 9, 5}, serial_executor());
  });
}

TEST(CudaBlockMatrix, AFailureOfAnyCallLeavesNothingBehind) {
  power_on();
  for (const BlockType type : {BlockType::q4_k, BlockType::q4_0}) {
    const BlockMatrix m = blocks_of(type, 3, 256);
    fail_every_call(std::string(name_of(type)), 0, [&] {
      const cuda::Context context;
      (void)cuda::pack(context, m, DType::f16, nullptr);
    });
  }
}

}  // namespace
}  // namespace nibble
