// GPTQ on an emulated device each of whose calls fails in turn.
#include "tests/cuda/failures.h"
#include "tests/cuda/gptq_support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

TEST(CudaGptqFailures, OfEveryCallAreToldAndLeaveNothingBehind) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "one thread of the host, which has nothing to race with, and takes long under ThreadSanitizer";
#endif
  power_on();
  const std::size_t rows = 3, cols = 40;
  const auto w = normal(rows * cols, 51), x = activations(70, cols, 52), full = activations(70, cols, 53);
  Hessian h(cols, "h", true);
  h.add(view(x, cols), view(full, cols));
  const auto solve = [&](const Hessian& hessian, const gptq::Options& o) {
    fail_every_call(o.name, 0, [&] {
      const cuda::Context context;
      (void)cuda::gptq_solve(context, view(w, hessian.channels()), hessian, o, nullptr);
    });
  };
  solve(h, {.group_size = 8, .act_order = true, .static_groups = true, .alpha = 0.25, .name = "groups"});
  solve(h, {.calibration_tokens = 100000, .name = "rounded"});
  solve(paired_hessian(20), {.group_size = 10, .damp_percent = 2e-7, .name = "factored in fp64"});
  const DeviceArray<float> dx(x), dfull(full);
  fail_every_call("a Hessian", 0, [&] {
    const cuda::Context context;
    cuda::DeviceHessian sums(context, cols, "h", nullptr, true);
    sums.add({dx.get(), DType::f32, 70, cols, cols}, {dfull.get(), DType::f32, 70, cols, cols}, nullptr);
    (void)sums.download(nullptr);
  });
  fail_every_call("how much memory", 0, [&] {
    const cuda::Context context;
    (void)cuda::gptq_device_bytes(context, rows, cols, DType::f32, {});
  });
}

}  // namespace
}  // namespace nibble
