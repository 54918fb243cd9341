// Operands of benchmarks.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

namespace nibble::bench {

/// n values, uniform in [-1, 1), the same for the same seed.
inline std::vector<float> random(std::size_t n, unsigned seed) {
  std::vector<float> out(n);
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> values(-1, 1);
  for (float& x : out) x = values(engine);
  return out;
}

}  // namespace nibble::bench
