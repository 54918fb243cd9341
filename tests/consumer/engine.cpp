#include "engine.h"

#include <cmath>
#include <vector>

#include "nibble/quantize/quantize.h"

float engine::error_of_int4() {
  std::vector<float> weights(128), x(128, 1.0f), y(1);
  float exact = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) exact += weights[i] = std::sin(static_cast<float>(i));
  const auto q = nibble::quantize(nibble::MatrixView<float>(weights.data(), 1, 128), "int4-g64-sym");
  const auto packed = nibble::default_backend().pack(q);
  nibble::matmul(nibble::MatrixView<const float>(x.data(), 1, 128), *packed, nibble::MatrixView<float>(y.data(), 1, 1));
  return std::abs(y[0] - exact);
}
