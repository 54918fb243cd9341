// Double quantization: the absmax values of blocks, quantized themselves (Dettmers et al. 2023, QLoRA, section 3), as
// bitsandbytes stores them: their mean subtracted, blocks of 256, the signed dynamic map. 32 bits a block become 8.125.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "nibble/core/portability.h"
#include "nibble/scheme/codebook.h"

namespace nibble::inline NIBBLE_ABI {

/// Absmax values that share one float.
inline constexpr std::size_t kNestedBlock = 256;

/// Floats that quantize_nested writes for `count` absmax values.
constexpr std::size_t nested_count(std::size_t count) { return count / kNestedBlock + (count % kNestedBlock != 0); }

/// An absmax value as it reads back: map[byte]·absmax + offset, with one rounding of the sum, spelled fma so that every
/// build agrees.
NIBBLE_HD inline float nested_value(float mapped, float absmax, float offset) {
  return std::fma(mapped, absmax, offset);
}

/// Quantizes finite absmax values, at least one, to a byte each. `nested_absmax` takes nested_count(absmax.size())
/// floats. Returns the offset: the mean, which was subtracted. `bytes` may not overlap `absmax`.
inline float quantize_nested(std::span<const float> absmax, std::uint8_t* bytes, float* nested_absmax) {
  using Map = Codebook<dynamic_map<true>>;
  double sum = 0;
  for (const float a : absmax) sum += static_cast<double>(a);
  const auto offset = static_cast<float>(sum / static_cast<double>(absmax.size()));
  float centred[kNestedBlock];
  for (std::size_t first = 0; first < absmax.size(); first += kNestedBlock) {
    const std::size_t n = absmax.size() - first < kNestedBlock ? absmax.size() - first : kNestedBlock;
    for (std::size_t i = 0; i < n; ++i) centred[i] = absmax[first + i] - offset;
    const auto params = Map::fit(std::span<const float>(centred, n));
    for (std::size_t i = 0; i < n; ++i) bytes[first + i] = Map::encode(centred[i], params);
    *nested_absmax++ = params.absmax;
  }
  return offset;
}

/// The absmax values that those bytes stand for: what dequantizing a double-quantized matrix multiplies by.
inline void dequantize_nested(const std::uint8_t* bytes, const float* nested_absmax, float offset,
                              std::span<float> absmax) {
  const auto& map = Codebook<dynamic_map<true>>::values();
  for (std::size_t i = 0; i < absmax.size(); ++i)
    absmax[i] = nested_value(map[bytes[i]], nested_absmax[i / kNestedBlock], offset);
}

}  // namespace nibble::inline NIBBLE_ABI
