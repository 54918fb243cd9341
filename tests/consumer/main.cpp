#include <cmath>
#include <cstdio>
#include <vector>

#include "nibble/quantize/quantize.h"

int main() {
  std::vector<float> weights(64 * 128), x(128, 1.0f), y(64);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(static_cast<float>(i));
  const auto q = nibble::quantize(nibble::MatrixView<float>(weights.data(), 64, 128), "int4-g64-sym");
  const auto packed = nibble::default_backend().pack(q);
  nibble::matmul(nibble::MatrixView<const float>(x.data(), 1, 128), *packed,
                 nibble::MatrixView<float>(y.data(), 1, 64));
  float exact = 0;
  for (std::size_t i = 0; i < 128; ++i) exact += weights[i];
  std::printf("%s: y[0] = %.3f, exact %.3f\n", std::string(nibble::default_backend().name()).c_str(),
              static_cast<double>(y[0]), static_cast<double>(exact));
  return std::abs(y[0] - exact) < 2 ? 0 : 1;
}
