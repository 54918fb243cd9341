// Packed codes of 2 to 8 bits: one LSB-first bit-stream for every width.
//
// Code k of width b occupies stream bits k·b … k·b+b−1, bit i of the stream being bit i%8 of byte i/8. Eight codes
// fill exactly b bytes, which is the unit of the fast paths; a 3-bit code may straddle bytes:
//
//   b = 4   byte 0: [c1 | c0]            byte 1: [c3 | c2]                …
//   b = 3   byte 0: [c2 lo2 | c1 | c0]   byte 1: [c5 lo1 | c4 | c3 | c2 hi1]   …
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/core/abi.h"
#include "nibble/core/portability.h"

namespace nibble::inline NIBBLE_ABI {

/// Bytes that hold `count` codes of `bits` bits; the unused bits of the last byte are zero.
NIBBLE_HD constexpr std::size_t packed_bytes(std::size_t count, int bits) {
  const auto b = static_cast<std::size_t>(bits);
  return count / 8 * b + (count % 8 * b + 7) / 8;  // no overflow for any count that fits memory
}

/// Code `index` of the stream. Reads only the bytes that hold it.
NIBBLE_HD constexpr std::uint8_t get_code(const std::uint8_t* stream, std::size_t index, int bits) {
  const std::size_t bit = index % 8 * static_cast<std::size_t>(bits);
  const std::uint8_t* byte = stream + index / 8 * static_cast<std::size_t>(bits) + bit / 8;
  const unsigned offset = bit % 8;
  unsigned word = *byte;
  if (offset + static_cast<unsigned>(bits) > 8) word |= static_cast<unsigned>(byte[1]) << 8;
  return static_cast<std::uint8_t>((word >> offset) & ((1u << bits) - 1u));
}

/// Writes code `index`, leaving its neighbours alone. Two threads must not write the same byte.
NIBBLE_HD constexpr void set_code(std::uint8_t* stream, std::size_t index, int bits, std::uint8_t code) {
  const std::size_t bit = index % 8 * static_cast<std::size_t>(bits);
  std::uint8_t* byte = stream + index / 8 * static_cast<std::size_t>(bits) + bit / 8;
  const unsigned offset = bit % 8;
  const unsigned mask = ((1u << bits) - 1u) << offset;
  const unsigned value = static_cast<unsigned>(code) << offset;
  byte[0] = static_cast<std::uint8_t>((byte[0] & ~mask) | (value & mask));
  if (mask > 0xffu) byte[1] = static_cast<std::uint8_t>((byte[1] & ~(mask >> 8)) | ((value & mask) >> 8));
}

/// Packs `count` codes, one a byte and each below 2^bits, into packed_bytes(count, bits) bytes.
NIBBLE_HD constexpr void pack_codes(const std::uint8_t* codes, std::size_t count, int bits, std::uint8_t* stream) {
  for (std::size_t first = 0; first < count; first += 8) {
    const std::size_t n = count - first < 8 ? count - first : 8;
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < n; ++i)
      word |= static_cast<std::uint64_t>(codes[first + i]) << (i * static_cast<unsigned>(bits));
    const std::size_t bytes = packed_bytes(n, bits);
    for (std::size_t i = 0; i < bytes; ++i) *stream++ = static_cast<std::uint8_t>(word >> (8 * i));
  }
}

/// Eight codes of a stream, `Bits` bytes, a constant so that compilers unroll and make vectors of it.
template <int Bits>
NIBBLE_HD constexpr void unpack_eight(const std::uint8_t* stream, std::uint8_t* codes) {
  std::uint64_t word = 0;
  for (int i = 0; i < Bits; ++i) word |= static_cast<std::uint64_t>(stream[i]) << (8 * i);
  for (int i = 0; i < 8; ++i) codes[i] = static_cast<std::uint8_t>(word >> (Bits * i) & ((1u << Bits) - 1u));
}

template <int Bits>
NIBBLE_HD constexpr void unpack_width(const std::uint8_t* stream, std::size_t count, std::uint8_t* codes) {
  for (; count >= 8; count -= 8, stream += Bits, codes += 8) unpack_eight<Bits>(stream, codes);
  std::uint64_t word = 0;
  const std::size_t bytes = packed_bytes(count, Bits);
  for (std::size_t i = 0; i < bytes; ++i) word |= static_cast<std::uint64_t>(stream[i]) << (8 * i);
  for (std::size_t i = 0; i < count; ++i, word >>= Bits)
    codes[i] = static_cast<std::uint8_t>(word & ((1u << Bits) - 1u));
}

/// The inverse of pack_codes.
NIBBLE_HD constexpr void unpack_codes(const std::uint8_t* stream, std::size_t count, int bits, std::uint8_t* codes) {
  switch (bits) {
    case 2: return unpack_width<2>(stream, count, codes);
    case 3: return unpack_width<3>(stream, count, codes);
    case 4:  // as pairs, which compilers make vectors of more readily
      for (; count >= 2; count -= 2, codes += 2, ++stream) {
        codes[0] = *stream & 15;
        codes[1] = static_cast<std::uint8_t>(*stream >> 4);
      }
      return unpack_width<4>(stream, count, codes);
    case 5: return unpack_width<5>(stream, count, codes);
    case 6: return unpack_width<6>(stream, count, codes);
    case 7: return unpack_width<7>(stream, count, codes);
    default: return unpack_width<8>(stream, count, codes);
  }
}

}  // namespace nibble::inline NIBBLE_ABI
