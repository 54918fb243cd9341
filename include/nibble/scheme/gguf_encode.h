// The quantizers of GGUF's blocks that are plain arithmetic: floats, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0. (The others take
// a search, and so do these where values have weights: encode_block in scheme/gguf_blocks.h.)
//
// Bit for bit ggml's reference quantizers (quantize_row_*_ref). Where those divide by a scale so small that its inverse
// is infinite, every code is that of 0. Each encodes one block of finite values, and returns false if a scale or
// minimum is too large for f16: nothing useful is written then.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "nibble/scheme/gguf_blocks.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI::blocks {

namespace detail {

/// 1/d, or 0 where that is no finite number.
inline float inverse(float d) {
  const float id = 1.0f / d;
  return d != 0 && is_finite(id) ? id : 0.0f;
}

/// Truncates and clamps to 0 … top. A `v` below 0 comes only from a zero inverse and small offsets; none is.
inline std::uint8_t truncated(float v, int top) {
  const auto code = static_cast<int>(v);
  return static_cast<std::uint8_t>(code < top ? code : top);
}

/// The value of largest magnitude, the first of equals; +0 if all are zero.
inline float extreme(const float* x, std::size_t n) {
  float best = 0;
  for (std::size_t j = 0; j < n; ++j)
    if (magnitude(best) < magnitude(x[j])) best = x[j];
  return best;
}

/// Q4_0 and Q5_0: d = −extreme/2^(B−1), code = x/d + 2^(B−1) rounded half up.
template <class Block>
bool encode_symmetric(const float* x, int levels, Block& b) {
  const auto half = static_cast<float>(levels / 2);
  const float d = extreme(x, Block::size) / -half, id = inverse(d);
  b.d = f16(d);
  std::uint8_t codes[Block::size];
  for (std::size_t j = 0; j < Block::size; ++j) codes[j] = truncated(rounded(x[j] * id) + (half + 0.5f), levels - 1);
  b.set_codes(codes);
  return is_finite(static_cast<float>(b.d));
}

/// Q4_1 and Q5_1: d = (max − min)/(2^B − 1), code = (x − min)/d rounded half up.
template <class Block>
bool encode_with_minimum(const float* x, int levels, Block& b) {
  float min = x[0], max = x[0];
  for (std::size_t j = 1; j < Block::size; ++j) {
    if (x[j] < min) min = x[j];
    if (x[j] > max) max = x[j];
  }
  const float d = (max - min) / static_cast<float>(levels - 1), id = is_finite(d) ? inverse(d) : 0.0f;
  b.d = f16(d);
  b.m = f16(min);
  std::uint8_t codes[Block::size];
  for (std::size_t j = 0; j < Block::size; ++j)
    codes[j] = id == 0 ? std::uint8_t{0} : truncated(rounded((x[j] - min) * id) + 0.5f, levels - 1);
  b.set_codes(codes);
  return is_finite(static_cast<float>(b.d)) && is_finite(static_cast<float>(b.m));
}

}  // namespace detail

inline bool encode(const float* x, Q4_0& b) { return detail::encode_symmetric(x, 16, b); }
inline bool encode(const float* x, Q5_0& b) { return detail::encode_symmetric(x, 32, b); }
inline bool encode(const float* x, Q4_1& b) { return detail::encode_with_minimum(x, 16, b); }
inline bool encode(const float* x, Q5_1& b) { return detail::encode_with_minimum(x, 32, b); }
inline bool encode(const float* x, Q8_0& b) {
  const float d = magnitude(detail::extreme(x, Q8_0::size)) / 127, id = detail::inverse(d);
  b.d = f16(d);
  for (std::size_t j = 0; j < Q8_0::size; ++j) b.codes[j] = static_cast<std::int8_t>(std::round(rounded(x[j] * id)));
  return is_finite(static_cast<float>(b.d));
}
template <class T>
bool encode(const float* x, One<T>& b) {
  b.value = T(*x);
  return is_finite(static_cast<float>(b.value));
}

}  // namespace nibble::inline NIBBLE_ABI::blocks

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/scheme/impl/gguf_blocks_inl.h"
#endif
