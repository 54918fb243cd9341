// Schemes that the library does not have, as a program of one's own would define them.
#pragma once

#include "nibble/matrix/scheme_registry.h"

namespace nibble::testing_support {

/// A codebook of 3 bits: NF3, the quantiles of a normal distribution with an exact zero, to three decimals.
struct nf3 {
  static constexpr std::string_view name = "nf3";
  NIBBLE_HD static constexpr std::array<float, 8> values() {
    return {-1.0f, -0.536f, -0.242f, 0.0f, 0.165f, 0.344f, 0.563f, 1.0f};
  }
};

/// A codebook of 4 bits, which the kernels for NF4 take: powers of two, and zero.
struct powers {
  static constexpr std::string_view name = "pow4";
  NIBBLE_HD static constexpr std::array<float, 16> values() {
    return {0.0f,  0x1p-6f,  0x1p-5f,  0x1p-4f,  0x1p-3f,  0x1p-2f,  0x1p-1f,  1.0f,
            -0.0f, -0x1p-6f, -0x1p-5f, -0x1p-4f, -0x1p-3f, -0x1p-2f, -0x1p-1f, -1.0f};
  }
};

/// A rule of its own: the sign, and whether the magnitude is nearer to half the block's mean or to one and a half of
/// it.
struct SignAndSize {
  struct Params {
    float scale = 0;
  };
  static constexpr int bits = 2;
  static constexpr Params fit(std::span<const float> values) {
    double sum = 0;
    for (const float v : values) sum += static_cast<double>(magnitude(v));
    return {static_cast<float>(sum / static_cast<double>(values.size()))};
  }
  static constexpr std::uint8_t encode(float x, Params p) {
    return static_cast<std::uint8_t>((x < 0 ? 2 : 0) + (magnitude(x) > p.scale ? 1 : 0));
  }
  static constexpr float decode(std::uint8_t code, Params p) {
    const float size = (code & 1) != 0 ? 1.5f : 0.5f;
    return ((code & 2) != 0 ? -size : size) * p.scale;
  }
};

/// Registers all three, once in a process.
inline void register_own_schemes() {
  static const bool done = [] {
    register_scheme(codebook_scheme<nf3>());
    register_scheme(codebook_scheme<powers>(32));
    register_scheme(own_scheme<SignAndSize>("signs"));
    return true;
  }();
  (void)done;
}

}  // namespace nibble::testing_support
