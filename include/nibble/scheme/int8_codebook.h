// A codebook of sixteen values as 8-bit integers, for products with 8-bit activations.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "nibble/core/abi.h"
#include "nibble/scheme/llm_int8.h"

namespace nibble::inline NIBBLE_ABI {

/// Entry i is about (codes[i] − 128)·unit: rounded as LLM.int8 rounds a row, to 127ths of the largest magnitude, half
/// to even, so that it is off by at most half a unit (of NF4 and FP4, whose largest is 1: 0.0040).
struct Int8Codebook {
  std::array<std::uint8_t, 16> codes{};
  float unit = 1;

  /// Of finite values.
  static Int8Codebook of(std::span<const float, 16> values) {
    const LlmInt8::Params params = LlmInt8::fit(values);
    Int8Codebook out{.unit = params.absmax * LlmInt8::inverse_127};
    for (std::size_t i = 0; i < values.size(); ++i) out.codes[i] = LlmInt8::encode(values[i], params);
    return out;
  }
};

}  // namespace nibble::inline NIBBLE_ABI
