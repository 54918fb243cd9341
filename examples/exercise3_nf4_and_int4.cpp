// Exercise 3: levels spaced for a normal distribution lose less of it than evenly spaced ones.
//
// Sixteen plain quantiles of N(0,1) are not yet NF4: they have no zero. NF4 (Dettmers et al. 2023, appendix E) joins
// two halves, eight levels below zero and nine from zero up, so that zero is exact and both ends are reached.
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "nibble/quantize/quantize.h"

namespace {

/// The value below which a share p of N(0,1) lies, by bisection.
double normal_quantile(double p) {
  double low = -9, high = 9;
  while (high - low > 1e-12) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < p ? low : high) = middle;
  }
  return low;
}

double mean_error(const std::vector<float>& w, const std::string& spec) {
  const auto q = nibble::quantize(nibble::MatrixView<const float>(w.data(), 256, w.size() / 256), spec);
  std::vector<float> back(w.size());
  nibble::dequantize(q, {back.data(), 256, w.size() / 256});
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) sum += std::abs(static_cast<double>(w[i]) - static_cast<double>(back[i]));
  return sum / static_cast<double>(w.size());
}

}  // namespace

int main() {
  std::printf("%5s  %15s  %10s\n", "code", "plain quantile", "NF4");
  const double outermost = normal_quantile(1 - 1.0 / 32);
  for (std::size_t i = 0; i < 16; ++i)
    std::printf("%5zu  %15.4f  %10.4f\n", i, normal_quantile((static_cast<double>(i) + 0.5) / 16) / outermost,
                static_cast<double>(nibble::Codebook<nibble::nf4>::values()[i]));

  std::mt19937_64 random(42);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> w(256 * 1024);
  for (float& x : w) x = normal(random);
  const double int4 = mean_error(w, "int4-b64-sym-f32"), nf4 = mean_error(w, "nf4-b64");
  std::printf("mean error in blocks of 64: int4 %.6f, NF4 %.6f (%.1f %% less)\n", int4, nf4, 100 * (1 - nf4 / int4));
  return nf4 < int4 ? 0 : 1;
}
