#include "nibble/scheme/gguf_blocks.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "gguf_k_encode.h"
#include "nibble/scheme/rounding.h"

namespace nibble::inline NIBBLE_ABI {

namespace {

/// 1/d, or 0 where that is no finite number.
float inverse(float d) {
  const float id = 1.0f / d;
  return d != 0 && is_finite(id) ? id : 0.0f;
}

/// Truncates and clamps to 0 … top. A `v` below 0 comes only from a zero inverse and small offsets; none is.
std::uint8_t truncated(float v, int top) {
  const auto code = static_cast<int>(v);
  return static_cast<std::uint8_t>(code < top ? code : top);
}

/// The value of largest magnitude, the first of equals; +0 if all are zero.
float extreme(const float* x, std::size_t n) {
  float best = 0;
  for (std::size_t j = 0; j < n; ++j)
    if (magnitude(best) < magnitude(x[j])) best = x[j];
  return best;
}

void set_high_bits(std::uint8_t* high, const std::uint8_t* codes) {
  for (std::size_t i = 0; i < 4; ++i) {
    unsigned bits = 0;
    for (std::size_t j = 0; j < 8; ++j) bits |= static_cast<unsigned>(codes[8 * i + j] >> 4) << j;
    high[i] = static_cast<std::uint8_t>(bits);
  }
}

/// Q4_0 and Q5_0: d = −extreme/2^(B−1), code = x/d + 2^(B−1) rounded half up.
template <class Block>
bool encode_symmetric(const float* x, int levels, Block& b) {
  const auto half = static_cast<float>(levels / 2);
  const float d = extreme(x, Block::size) / -half, id = inverse(d);
  b.d = f16(d);
  std::uint8_t codes[Block::size];
  for (std::size_t j = 0; j < Block::size; ++j) {
    const float scaled = x[j] * id;
    codes[j] = truncated(scaled + (half + 0.5f), levels - 1);
  }
  blocks::set_split_nibbles(b.codes, codes);
  if constexpr (requires { b.high; }) set_high_bits(b.high, codes);
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
  for (std::size_t j = 0; j < Block::size; ++j) {
    const float scaled = (x[j] - min) * id;
    codes[j] = id == 0 ? std::uint8_t{0} : truncated(scaled + 0.5f, levels - 1);
  }
  blocks::set_split_nibbles(b.codes, codes);
  if constexpr (requires { b.high; }) set_high_bits(b.high, codes);
  return is_finite(static_cast<float>(b.d)) && is_finite(static_cast<float>(b.m));
}

bool encode(const float* x, blocks::Q4_0& b) { return encode_symmetric(x, 16, b); }
bool encode(const float* x, blocks::Q5_0& b) { return encode_symmetric(x, 32, b); }
bool encode(const float* x, blocks::Q4_1& b) { return encode_with_minimum(x, 16, b); }
bool encode(const float* x, blocks::Q5_1& b) { return encode_with_minimum(x, 32, b); }
bool encode(const float* x, blocks::Q8_0& b) {
  const float d = magnitude(extreme(x, blocks::Q8_0::size)) / 127, id = inverse(d);
  b.d = f16(d);
  for (std::size_t j = 0; j < blocks::Q8_0::size; ++j) b.codes[j] = static_cast<std::int8_t>(std::round(x[j] * id));
  return is_finite(static_cast<float>(b.d));
}
bool encode(const float* x, blocks::Q4_K& b) { return encode_q4_k(x, b); }
bool encode(const float* x, blocks::Q6_K& b) { return encode_q6_k(x, b); }
template <class T>
bool encode(const float* x, blocks::One<T>& b) {
  b.value = T(*x);
  return is_finite(static_cast<float>(b.value));
}

}  // namespace

std::optional<BlockType> parse_block_type(std::string_view name) {
  const auto upper = [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; };
  for (const BlockType type : kBlockTypes) {
    const std::string_view known = name_of(type);
    bool same = known.size() == name.size();
    for (std::size_t i = 0; same && i < name.size(); ++i) same = upper(name[i]) == known[i];
    if (same) return type;
  }
  return std::nullopt;
}

void decode_blocks(BlockType type, const std::byte* from, std::size_t count, float* to) {
  visit_block(type, [&](auto block) {
    using Block = decltype(block);
    for (std::size_t i = 0; i < count; i += Block::size, from += sizeof(Block)) {
      std::memcpy(&block, from, sizeof(Block));
      blocks::decode(block, to + i);
    }
  });
}

bool encode_block(BlockType type, const float* values, std::byte* to) {
  return visit_block(type, [&](auto block) {
    if constexpr (requires { encode(values, block); }) {
      const bool fits = encode(values, block);
      std::memcpy(to, &block, sizeof(block));
      return fits;
    } else {
      return false;
    }
  });
}

}  // namespace nibble::inline NIBBLE_ABI
