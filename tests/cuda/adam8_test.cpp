// Steps of 8-bit Adam on the device against train/adam8.h, bit for bit.
#include "kernels/cuda/adam8.h"

#include <cmath>

#include "tests/cuda/support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using namespace testing_support;

struct HostState {
  std::vector<std::uint8_t> m_codes, v_codes;
  std::vector<float> m_absmax, v_absmax;
  explicit HostState(std::size_t n)
      : m_codes(n), v_codes(n), m_absmax((n + kAdam8Block - 1) / kAdam8Block), v_absmax(m_absmax.size()) {}
};

template <class T>
void check(std::size_t n, const AdamOptions& options, bool hard) {
  std::vector<T> parameters = converted<T>(normal(n, 31));
  HostState host(n);
  const DeviceArray<T> device_parameters(parameters);
  const Bytes m_codes(host.m_codes), v_codes(host.v_codes);
  const DeviceArray<float> m_absmax(host.m_absmax), v_absmax(host.v_absmax);
  const cuda::Adam8State state{m_codes.get(), m_absmax.get(), v_codes.get(), v_absmax.get()};
  for (int t = 1; t <= 6; ++t) {
    auto values = normal(n, 31 + static_cast<unsigned>(t), t == 4 ? 1e-12f : 0.1f);
    if (hard) {
      values[n / 2] = NAN;
      values[n - 1] = t % 2 == 0 ? -INFINITY : 1e30f;
      for (std::size_t i = 0; i < n; i += 5) values[i] = t == 2 ? 0.0f : -values[i] * 1e-7f;
    }
    const auto gradients = converted<T>(values);
    const DeviceArray<T> device_gradients(gradients);
    const AdamStep step = adam_step(options, t);
    require(cuda::adam8(device_parameters.get(), device_gradients.get(), element_type<T>, n, state, step, nullptr),
            "adam8");
    for (std::size_t b = 0; b < host.m_absmax.size(); ++b) {
      const std::size_t first = b * kAdam8Block, count = std::min(kAdam8Block, n - first);
      float p[kAdam8Block], g[kAdam8Block];
      for (std::size_t i = 0; i < count; ++i) {
        p[i] = static_cast<float>(parameters[first + i]);
        g[i] = static_cast<float>(gradients[first + i]);
      }
      adam8_block(step, count, g, host.m_codes.data() + first, host.m_absmax[b], host.v_codes.data() + first,
                  host.v_absmax[b], p);
      for (std::size_t i = 0; i < count; ++i) parameters[first + i] = T(p[i]);
    }
    ASSERT_EQ(m_codes.host(), host.m_codes) << "step " << t;
    ASSERT_EQ(v_codes.host(), host.v_codes) << "step " << t;
    ASSERT_EQ(m_absmax.host(), host.m_absmax) << "step " << t;
    ASSERT_EQ(v_absmax.host(), host.v_absmax) << "step " << t;
    const auto actual = device_parameters.host();
    ASSERT_EQ(std::memcmp(actual.data(), parameters.data(), n * sizeof(T)), 0) << "step " << t;
  }
}

TEST(CudaAdam8, EqualsTheDefinition) {
  AdamOptions decayed;
  decayed.weight_decay = 0.01;
  decayed.learning_rate = 0.03;
  for_each_order([&] {
    for (const std::size_t n : {1u, 255u, 256u, 2600u})
      for (const bool hard : {false, true}) {
        ASSERT_NO_FATAL_FAILURE(check<float>(n, {}, hard));
        ASSERT_NO_FATAL_FAILURE(check<f16>(n, decayed, hard));
        ASSERT_NO_FATAL_FAILURE(check<bf16>(n, decayed, hard));
      }
  });
}

}  // namespace
}  // namespace nibble
