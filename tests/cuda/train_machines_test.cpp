// LoRA's products and 8-bit Adam on an emulated device each of whose calls fails in turn.
#include "nibble/cuda/adam8.h"
#include "nibble/cuda/lora.h"
#include "tests/cuda/failures.h"
#include "tests/cuda/machine.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

TEST(CudaTrainFailures, OfEveryCallAreToldAndLeaveNothingBehind) {
  power_on();
  const std::size_t n = 3, in = 16, r = 4, out = 8;
  const DeviceArray<float> x(normal(n * in, 1)), a(normal(r * in, 2)), b(normal(out * r, 3)), y(normal(n * 2 * out, 4));
  fail_every_call("add_lora", 0, [&] {
    const cuda::Context context;
    const auto product = [&](std::size_t column) {
      return cuda::LoraProduct{{x.get(), DType::f32, n, in, in},
                               {a.get(), DType::f32, r, in, in},
                               {b.get(), DType::f32, out, r, r},
                               {y.get() + column, DType::f32, n, out, 2 * out}};
    };
    const std::vector<cuda::LoraProduct> products{product(0), product(out)};
    const cuda::DeviceBuffer workspace(cuda::lora_workspace(products), context.allocator(), nullptr);
    cuda::add_lora(context, products, workspace.span(), nullptr);
  });
  const cuda::Adam8Moments moments{0, std::vector<std::uint8_t>(n * in), std::vector<std::uint8_t>(n * in), {0}, {0}};
  fail_every_call("Adam8", 0, [&] {
    const cuda::Context context;
    cuda::Adam8 adam(context, moments, {}, nullptr);
    adam.step({x.get(), DType::f32, n, in, in}, {x.get(), DType::f32, n, in, in}, nullptr);
    (void)adam.download(nullptr);
  });
}

}  // namespace
}  // namespace nibble
