// Data that quantizers find hard, reproducibly.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <vector>

namespace nibble::testing_support {

inline std::vector<float> normal(std::size_t n, unsigned seed, float sigma = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> distribution(0, sigma);
  std::vector<float> out(n);
  for (float& x : out) x = distribution(random);
  return out;
}

/// Random bits over the whole range of finite floats up to 2^100: denormals, tiny and huge values side by side.
inline std::vector<float> any_finite(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> out(n);
  for (float& x : out)
    x = std::ldexp(static_cast<float>(static_cast<int>(random() % 2001) - 1000),
                   static_cast<int>(random() % 250) - 160);
  return out;
}

/// Small multiples of one half: after scaling, many land exactly on a tie.
inline std::vector<float> ties(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(static_cast<int>(random() % 31) - 15) / 2;
  return out;
}

inline std::vector<float> denormals(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> out(n);
  for (float& x : out)
    x = static_cast<float>(static_cast<int>(random() % 401) - 200) * std::numeric_limits<float>::denorm_min();
  return out;
}

}  // namespace nibble::testing_support
