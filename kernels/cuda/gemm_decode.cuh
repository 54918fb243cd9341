// Decoding 4-bit codes in registers: from a word of PackedLayout to two registers of mma's second operand.
#pragma once

#include <type_traits>

#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {

NIBBLE_DEVICE std::uint32_t bits_of(half2 v) {
  std::uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
NIBBLE_DEVICE std::uint32_t bits_of(__nv_bfloat162 v) {
  std::uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
template <class Pair>
NIBBLE_DEVICE Pair pair_of(std::uint32_t bits) {
  Pair v;
  memcpy(static_cast<void*>(&v), &bits, sizeof v);
  return v;
}

/// (bits & mask) | exponent, in one instruction.
NIBBLE_DEVICE std::uint32_t mask_and_set(std::uint32_t bits, std::uint32_t mask, std::uint32_t exponent) {
  return lop3<0xea>(bits, mask, exponent);
}

/// Affine codes: the integer code − zero_point, exact in either type. A code q among the fraction bits of a power of
/// two is that power plus q·(unit of its last place): no conversion is needed, only a subtraction.
template <class T>
struct AffineDecoder {
  /// A pair of 1024 as half, of 128 as bfloat16.
  static constexpr std::uint32_t kExponent = std::is_same_v<T, half> ? 0x64006400u : 0x43004300u;
  /// What is subtracted from the codes of four rows, whose zero points are the bytes of a word: pairs of one number.
  struct Zeros {
    std::uint32_t low[4], high[4];  ///< 1024 + z (bfloat16: 128 + z); half only: −64 − z.
    NIBBLE_DEVICE explicit Zeros(std::uint32_t zero_points) {
#pragma unroll
      for (unsigned j = 0; j < 4; ++j) {
        low[j] = __byte_perm(zero_points, 0, 0x4040u + j * 0x0101u) | kExponent;
        if constexpr (std::is_same_v<T, half>)
          high[j] = bits_of(__hsub2(pair_of<half2>(0x63806380u), pair_of<half2>(low[j])));  // 960 − low
      }
    }
  };

  NIBBLE_DEVICE explicit AffineDecoder(const float*) {}

  /// b[i] = the pair that is `k16` · 2 + i of the word of row j, k16 = 0, 1.
  NIBBLE_DEVICE void decode(std::uint32_t word, unsigned k16, const Zeros& zeros, unsigned j,
                            std::uint32_t (&b)[2]) const {
    const std::uint32_t codes = word >> (8 * k16);
    if constexpr (std::is_same_v<T, half>) {
      // 1024 + q, less 1024 + z; and 1024 + 16q, which is 16·(64 + q), less 64 + z after the multiplication.
      const auto low = pair_of<half2>(mask_and_set(codes, 0x000f000fu, 0x64006400u));
      const auto high = pair_of<half2>(mask_and_set(codes, 0x00f000f0u, 0x64006400u));
      b[0] = bits_of(__hsub2(low, pair_of<half2>(zeros.low[j])));
      b[1] = bits_of(__hfma2(high, pair_of<half2>(0x2c002c00u), pair_of<half2>(zeros.high[j])));
    } else {
      // 128 + q, less 128 + z. The fraction has 7 bits, so that the second pair is shifted.
      const auto less = pair_of<__nv_bfloat162>(zeros.low[j]);
      const auto first = pair_of<__nv_bfloat162>(mask_and_set(codes, 0x000f000fu, 0x43004300u));
      const auto second = pair_of<__nv_bfloat162>(mask_and_set(codes >> 4, 0x000f000fu, 0x43004300u));
      b[0] = bits_of(__hsub2(first, less));
      b[1] = bits_of(__hsub2(second, less));
    }
  }
};

/// Codebook codes: their values rounded to T. The table lies in eight registers, low and high bytes apart, and a byte
/// permutation looks up four codes at once among eight entries: shared memory would serve lanes that differ one by one.
template <class T>
struct CodebookDecoder {
  /// Values have no zero points.
  struct Zeros {
    NIBBLE_DEVICE explicit Zeros(std::uint32_t) {}
  };

  std::uint32_t low[4] = {}, high[4] = {};

  NIBBLE_DEVICE explicit CodebookDecoder(const float* codebook) {
#pragma unroll
    for (unsigned i = 0; i < 16; ++i) {
      const T value = static_cast<T>(__ldg(codebook + i));
      std::uint16_t bits;
      memcpy(&bits, &value, sizeof bits);
      low[i / 4] |= (bits & 0xffu) << (8 * (i % 4));
      high[i / 4] |= static_cast<std::uint32_t>(bits >> 8) << (8 * (i % 4));
    }
  }

  /// Byte i = bytes[code i], for the four codes of the lower half of `codes`.
  static NIBBLE_DEVICE std::uint32_t look_up(const std::uint32_t (&bytes)[4], std::uint32_t codes) {
    const std::uint32_t entry = codes & 0x7777u;
    // The code's top bit chooses between byte i of one result and of the other.
    const std::uint32_t which = mask_and_set(codes >> 1, 0x4444u, 0x3210u);
    return __byte_perm(__byte_perm(bytes[0], bytes[1], entry), __byte_perm(bytes[2], bytes[3], entry), which);
  }

  NIBBLE_DEVICE void decode(std::uint32_t word, unsigned k16, const Zeros&, unsigned, std::uint32_t (&b)[2]) const {
    const std::uint32_t codes = word >> (16 * k16);
    const std::uint32_t low_bytes = look_up(low, codes), high_bytes = look_up(high, codes);
    b[0] = __byte_perm(low_bytes, high_bytes, 0x5140);
    b[1] = __byte_perm(low_bytes, high_bytes, 0x7362);
  }
};

}  // namespace nibble::inline NIBBLE_ABI::cuda
