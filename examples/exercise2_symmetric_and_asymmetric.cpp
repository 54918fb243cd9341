// Exercise 2: weights of one sign. Symmetric codes waste the half below zero; asymmetric ones do not.
#include <cmath>
#include <cstdio>
#include <vector>

#include "nibble/quantize/typed.h"

namespace {

constexpr float kWeights[] = {0.01f, 0.05f, 0.12f, 0.23f, 0.45f, 0.67f, 0.89f, 1.20f, 1.45f, 1.80f};

template <nibble::Scheme S>
double show(const char* name) {
  std::vector<std::uint8_t> codes(std::size(kWeights));
  const auto p = nibble::quantize_group<S>(kWeights, codes);
  double mean = 0, most = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const double error = std::abs(static_cast<double>(kWeights[i]) - static_cast<double>(S::decode(codes[i], p)));
    mean += error / static_cast<double>(codes.size());
    most = std::max(most, error);
  }
  std::printf("%-24s scale %.6f  zero point %3d  mean error %.6f  largest %.6f\n", name, static_cast<double>(p.scale),
              p.zero_point, mean, most);
  return mean;
}

}  // namespace

int main() {
  const double symmetric = show<nibble::Symmetric<8>>("symmetric");
  const double asymmetric = show<nibble::Asymmetric<8>>("asymmetric, zero held");
  show<nibble::Asymmetric<8, false>>("asymmetric, raw range");  // its zero point lies outside 0 … 255
  return asymmetric < symmetric ? 0 : 1;
}
