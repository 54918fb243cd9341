// The reference unit: one lane, plain C++, every machine.
#pragma once

#include "nibble/backend/impl/cpu/kernels.h"

#include <math.h>
#include <string.h>

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(scalar) {

namespace vec {

using F = float;
using I = int32_t;
constexpr size_t lanes = 1;
constexpr size_t tile_tokens = 1;
constexpr size_t few_tokens = 4;
constexpr size_t int8_sums = 4;
constexpr size_t int8_tokens = 4;
constexpr size_t fixed_sums = 12;
constexpr size_t fixed_tokens = 4;
constexpr size_t code_sums = 4;

inline F load(const float* p) { return *p; }
inline void store(float* p, F x) { *p = x; }
inline F set(float x) { return x; }
inline void transpose(F (&)[1]) {}
inline I set_int(int32_t x) { return x; }
inline F add(F a, F b) { return a + b; }
inline F sub(F a, F b) { return a - b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }
inline F fma(F a, F b, F c) { return __builtin_fmaf(a, b, c); }
inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline I add_int(I a, I b) { return a + b; }
inline I to_int(F x) { return static_cast<I>(lrintf(x)); }
inline F to_float(I x) { return static_cast<F>(x); }
inline I add_where_greater(I sum, F x, F threshold, int32_t width) { return x > threshold ? sum + width : sum; }
inline I load_codes(const uint8_t* p) { return *p; }
inline I load_signed(const int8_t* p) { return *p; }
inline void store_codes(uint8_t* p, I codes) { *p = static_cast<uint8_t>(codes); }
inline I load_words(const uint32_t* p) {
  I out;
  memcpy(&out, p, sizeof out);
  return out;
}
inline void store_words(uint32_t* p, I x) { memcpy(p, &x, sizeof x); }
template <int Bits>
inline I shift_right(I x) {
  return static_cast<I>(static_cast<uint32_t>(x) >> Bits);
}
template <int Bits>
inline I shift_right_signed(I x) {
  return x >> Bits;
}
template <int Bits>
inline I shift_left(I x) {
  return static_cast<I>(static_cast<uint32_t>(x) << Bits);
}
inline I sub_int(I a, I b) { return a - b; }
inline I mul_small(I a, int32_t b) { return a * b; }
/// Four bytes in every lane.
inline I set_bytes(const char* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return set_int(word);
}
inline I and_int(I a, I b) { return a & b; }
/// a | (b & mask).
inline I or_and(I a, I b, I mask) { return a | (b & mask); }
inline I mul_int(I a, I b) { return static_cast<I>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b)); }
inline I mul_high(I a, I b) {
  return static_cast<I>(uint64_t{static_cast<uint32_t>(a)} * static_cast<uint32_t>(b) >> 32);
}
inline I xor_int(I a, I b) { return a ^ b; }
inline I dot4(I sum, I a, I b) {
  for (int byte = 0; byte < 4; ++byte) {
    const auto code = static_cast<int32_t>((static_cast<uint32_t>(a) >> (8 * byte)) & 255u);
    sum += code * static_cast<int8_t>((static_cast<uint32_t>(b) >> (8 * byte)) & 255u);
  }
  return sum;
}
/// The same for codes below 128.
inline I dot4_small(I sum, I a, I b) { return dot4(sum, a, b); }
/// The entries of 16 that four bytes index, each below 16.
using Bytes16 = const uint8_t*;
inline Bytes16 load_bytes16(const uint8_t* p) { return p; }
inline I look_up_bytes(Bytes16 table, I index) {
  uint32_t out = 0;
  for (int byte = 0; byte < 4; ++byte)
    out |= static_cast<uint32_t>(table[(static_cast<uint32_t>(index) >> (8 * byte)) & 15u]) << (8 * byte);
  return static_cast<I>(out);
}
inline I low_byte(I x) { return x & 255; }
using Table16 = const float*;
inline Table16 load_table16(const float* p) { return p; }
inline F table16(Table16 table, I index) { return table[index & 15]; }
inline F gather(const float* table, I index) { return table[index]; }
using Table32 = const float*;
inline Table32 load_table32(const float* p) { return p; }
inline F table32(Table32 table, I index) { return gather(table, and_int(index, set_int(31))); }
constexpr bool rank_lines = false;
using Table256 = const float*;
inline Table256 load_table256(const float* p) { return p; }
inline F table256(Table256 table, I index) { return gather(table, index); }
inline F bits_to_float(uint32_t bits) {
  F out;
  memcpy(&out, &bits, sizeof out);
  return out;
}
inline F as_float(I x) { return bits_to_float(static_cast<uint32_t>(x)); }
inline F load_bf16(const uint16_t* p) { return bits_to_float(static_cast<uint32_t>(*p) << 16); }
inline F load_f16(const uint16_t* p) {
  const uint32_t sign = static_cast<uint32_t>(*p & 0x8000u) << 16, magnitude = *p & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Read as a binary32 of the same fields, a binary16 is too small by 2^112; the product is exact, subnormals too.
  return bits_to_float(sign | (magnitude << 13)) * 0x1p112f;
}
inline F load_e4m3_as_f16(const uint8_t* p) {
  const auto fields = static_cast<uint16_t>((*p & 0x80u) << 8 | (*p & 0x7fu) << 7);
  return load_f16(&fields);
}
inline F load_e5m2(const uint8_t* p) {
  const auto fields = static_cast<uint16_t>(*p << 8);
  return load_f16(&fields);
}

inline void store_signed(int8_t* p, I codes) { *p = static_cast<int8_t>(codes); }
inline float reduce_min(F x) { return x; }
inline float reduce_max(F x) { return x; }
inline int32_t reduce_add(I x) { return x; }
inline bool has_nan(F x) { return x != x; }
inline I load_nibbles(const uint8_t* codes, size_t first) { return codes[first / 2] >> (first % 2 * 4); }
inline uint32_t float_to_bits(float x) {
  uint32_t out;
  memcpy(&out, &x, sizeof out);
  return out;
}
/// value / 2^shift, half to even. 0 < shift < 32.
inline uint32_t shift_right_half_even(uint32_t value, uint32_t shift) {
  return (value + ((1u << (shift - 1)) - 1u) + ((value >> shift) & 1u)) >> shift;
}
inline void store_f16(uint16_t* p, F x) {
  const uint32_t wide = float_to_bits(x), sign = (wide >> 16) & 0x8000u, magnitude = wide & 0x7fffffffu;
  uint32_t out = 0;
  if (magnitude > 0x7f800000u) out = 0x7e00u | ((magnitude >> 13) & 0x1ffu);  // NaN
  else if (magnitude >= 0x477ff000u) out = 0x7c00u;                           // too large
  else if (magnitude >= 0x38800000u) out = shift_right_half_even(magnitude - 0x38000000u, 13);
  else if (magnitude >= 0x33000000u)  // subnormal
    out = shift_right_half_even((magnitude & 0x7fffffu) | 0x800000u, 126 - (magnitude >> 23));
  *p = static_cast<uint16_t>(sign | out);
}
inline void store_bf16(uint16_t* p, F x) {
  const uint32_t bits = float_to_bits(x);
  *p = static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40u : shift_right_half_even(bits, 16));
}
inline void stream(float* p, F x) { store(p, x); }
inline void stream_f16(uint16_t* p, F x) { store_f16(p, x); }
inline void stream_bf16(uint16_t* p, F x) { store_bf16(p, x); }
inline I bits_of(F x) { return static_cast<I>(float_to_bits(x)); }
inline bool has_zero(I x) { return x == 0; }
inline I magnitude_bits(F x) { return static_cast<I>(float_to_bits(x) & 0x7FFFFFFFu); }
inline F sqrt(F x) { return __builtin_sqrtf(x); }
/// `yes` where x is finite, else `no`.
inline F select_less(F x, F bound, F yes, F no) { return x < bound ? yes : no; }
inline F select_finite(F x, F yes, F no) { return magnitude_bits(x) < 0x7F800000 ? yes : no; }
inline I min_int(I a, I b) { return a < b ? a : b; }
inline I max_int(I a, I b) { return a > b ? a : b; }
inline int32_t reduce_max_int(I x) { return x; }
constexpr size_t half_lanes = 2;
struct Half16 {
  uint16_t values[16];
};
inline Half16 load_half16(const uint16_t* p) {
  Half16 out;
  memcpy(out.values, p, sizeof out.values);
  return out;
}
inline void store_halves(const Half16& table, const uint8_t* codes, uint16_t* out) {
  out[0] = table.values[*codes & 15];
  out[1] = table.values[*codes >> 4];
}
inline void stream_halves(const Half16& table, const uint8_t* codes, uint16_t* out) { store_halves(table, codes, out); }
inline void fence() {}

}  // namespace vec

#include "nibble/backend/impl/cpu/generic/byte_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

}  // namespace scalar

NIBBLE_KERNEL_TABLE(scalar, scalar, make_table);

}  // namespace nibble::inline NIBBLE_ABI::kernels
