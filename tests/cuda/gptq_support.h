// What the tests of GPTQ on the device share.
#pragma once

#include <gtest/gtest.h>

#include "nibble/cuda/gptq.h"
#include "tests/cuda/machine.h"
#include "tests/solver/layers.h"

namespace nibble::cuda_test {

using testing_support::normal;
using testing_support::view;

/// Activations whose channels hang together and differ in size: channel c mixes three normal sources.
inline std::vector<float> activations(std::size_t tokens, std::size_t channels, unsigned seed) {
  const auto noise = normal(tokens * channels, seed);
  std::vector<float> x(noise.size());
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < channels; ++c)
      x[t * channels + c] = (noise[t * channels + c] + 0.8f * noise[t * channels + c / 3] +
                             0.5f * noise[t * channels + (c * 7) % channels]) *
                            (1 + static_cast<float>(c % 5));
  return x;
}

/// On a fresh machine; nothing may be left on it, and nothing done wrong.
template <class Body>
void on_device(const Body& body) {
  power_on();
  {
    const cuda::Context context;
    body(context);
  }
  expect_no_leaks();
  expect_clean();
}

/// A layer of which one input is dead; its Hessian is asymmetric.
struct Layer {
  std::size_t rows, cols;
  std::vector<float> w = normal(rows * cols, 34);
  Hessian h{cols, "q_proj", true};

  /// 144 inputs are more than a block of columns.
  explicit Layer(std::size_t outputs = 12, std::size_t inputs = 144) : rows(outputs), cols(inputs) {
    auto x = activations(400, cols, 35), full = x;
    const auto noise = normal(x.size(), 36, 0.1f);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % cols == 17 ? 0 : 0.9f * x[i] + noise[i];
    h.add(view(x, cols), view(full, cols));
  }
  [[nodiscard]] MatrixView<const float> weights() const { return view(w, cols); }
};

}  // namespace nibble::cuda_test
