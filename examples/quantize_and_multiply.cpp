// The shortest use of the library: quantize a matrix to 4 bits and multiply by it.
#include <cmath>
#include <cstdio>
#include <vector>

#include "nibble/quantize/quantize.h"

int main() {
  constexpr std::size_t out = 256, in = 512;
  std::vector<float> weights(out * in), x(in), y(out);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = 0.02f * std::sin(0.37f * static_cast<float>(i));
  for (std::size_t i = 0; i < in; ++i) x[i] = std::cos(0.11f * static_cast<float>(i));

  const auto q = nibble::quantize(nibble::MatrixView<float>(weights.data(), out, in), "int4-g128-sym");
  const auto packed = nibble::default_backend().pack(q);  // once, at load
  nibble::matmul(nibble::MatrixView<const float>(x.data(), 1, in), *packed,
                 nibble::MatrixView<float>(y.data(), 1, out));

  double error = 0, norm = 0;
  for (std::size_t o = 0; o < out; ++o) {
    double exact = 0;
    for (std::size_t i = 0; i < in; ++i) exact += static_cast<double>(weights[o * in + i]) * static_cast<double>(x[i]);
    error += std::pow(exact - static_cast<double>(y[o]), 2);
    norm += exact * exact;
  }
  std::printf("%zu bytes instead of %zu; relative error of y: %.4f\n", q.storage_bytes(), weights.size() * 4,
              std::sqrt(error / norm));
  return std::sqrt(error / norm) < 0.2 ? 0 : 1;
}
