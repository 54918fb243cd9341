// What the consumer of the headers alone and the one of the library both quantize, and how they report it: a line for
// each spec with a hash of its codes, scales, zero points and decoded values.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <vector>

namespace headers_data {

inline constexpr std::size_t kRows = 24, kCols = 352;           // cols: no multiple of 7, 50 or 256
inline constexpr std::size_t kBlockRows = 6, kBlockCols = 512;  // whole super-blocks

/// Numbers that are the same everywhere (xorshift64; Marsaglia 2003).
class Random {
 public:
  std::uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::uint32_t>(state_ >> 32);
  }

 private:
  std::uint64_t state_ = 0x9E3779B97F4A7C15u;
};

/// Finite floats of magnitudes 2^-12 … 2^3, every 16th a multiple of 1/8: after scaling, many of those are ties.
inline std::vector<float> values(std::size_t count) {
  Random random;
  std::vector<float> out(count);
  for (float& x : out) {
    const std::uint32_t bits = random.next();
    const std::uint32_t exponent = 127 - 12 + (bits >> 23) % 16;
    x = bits % 16 == 0 ? static_cast<float>(static_cast<std::int32_t>(bits >> 8 & 63) - 32) / 8
                       : std::bit_cast<float>((bits & 0x807fffffu) | exponent << 23);
  }
  return out;
}

/// Bytes whose every four or two, read as a number, are a finite float.
inline std::vector<std::uint8_t> block_bytes(std::size_t count) {
  Random random;
  std::vector<std::uint8_t> out(count);
  for (std::uint8_t& x : out) x = static_cast<std::uint8_t>(random.next() & 0x3f);
  return out;
}

/// FNV-1a, 64 bits.
class Hash {
 public:
  void add(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < size; ++i) value_ = (value_ ^ bytes[i]) * 0x100000001b3u;
  }
  void add(float x) { add(&x, sizeof x); }
  void add(std::int32_t x) { add(&x, sizeof x); }
  void print(const char* name) const { std::printf("%s %016llx\n", name, static_cast<unsigned long long>(value_)); }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace headers_data
