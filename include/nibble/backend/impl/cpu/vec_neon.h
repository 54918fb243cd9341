// The vector layer of the NEON units (AArch64): four lanes. See generic/elementwise.h for what each name means.
#pragma once

#include "nibble/backend/impl/cpu/kernels.h"

#include <arm_neon.h>

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

using F = float32x4_t;
using I = int32x4_t;
constexpr size_t lanes = 4;
constexpr size_t tile_tokens = 2;  // 16 accumulators + 8 weights of 32 registers
constexpr size_t few_tokens = 4;
constexpr size_t int8_sums = 16;
constexpr size_t int8_tokens = 8;
constexpr size_t fixed_sums = 24;
constexpr size_t fixed_tokens = 4;
constexpr size_t code_sums = 8;  // 8 sums, 4 words, 4 scales, 4 zero points, and the table takes four

inline F load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline F set(float x) { return vdupq_n_f32(x); }
inline I set_int(int32_t x) { return vdupq_n_s32(x); }
inline F add(F a, F b) { return vaddq_f32(a, b); }
inline F sub(F a, F b) { return vsubq_f32(a, b); }
inline F mul(F a, F b) { return vmulq_f32(a, b); }
inline F div(F a, F b) { return vdivq_f32(a, b); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
// Not vminq and vmaxq: those give a NaN where either is one.
inline F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline I add_int(I a, I b) { return vaddq_s32(a, b); }
inline F as_float(I x) { return vreinterpretq_f32_s32(x); }
inline I bits_of(F x) { return vreinterpretq_s32_f32(x); }
inline I to_int(F x) { return vcvtnq_s32_f32(x); }
inline F to_float(I x) { return vcvtq_f32_s32(x); }
inline I and_int(I a, I b) { return vandq_s32(a, b); }
/// a | (b & mask).
inline I or_and(I a, I b, I mask) { return vorrq_s32(a, vandq_s32(b, mask)); }
inline I mul_int(I a, I b) { return vmulq_s32(a, b); }
inline I mul_high(I a, I b) {
  const uint32x4_t x = vreinterpretq_u32_s32(a), y = vreinterpretq_u32_s32(b);
  const uint64x2_t low = vmull_u32(vget_low_u32(x), vget_low_u32(y)), high = vmull_high_u32(x, y);
  return vreinterpretq_s32_u32(vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high)));
}
inline I xor_int(I a, I b) { return veorq_s32(a, b); }
inline I low_byte(I x) { return and_int(x, set_int(255)); }
inline I add_where_greater(I sum, F x, F threshold, int32_t width) {
  return add_int(sum, and_int(vreinterpretq_s32_u32(vcgtq_f32(x, threshold)), set_int(width)));
}
/// Four bytes in the lower half of eight.
inline uint8x8_t load_four(const void* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return vreinterpret_u8_u32(vdup_n_u32(word));
}
inline I load_codes(const uint8_t* p) { return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_four(p))))); }
inline I load_signed(const int8_t* p) { return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four(p))))); }
inline void store_codes(uint8_t* p, I codes) {
  const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(codes));
  const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);
  __builtin_memcpy(p, &bytes, sizeof bytes);
}
inline void store_signed(int8_t* p, I codes) { store_codes(reinterpret_cast<uint8_t*>(p), codes); }
inline I load_words(const uint32_t* p) { return vreinterpretq_s32_u32(vld1q_u32(p)); }
inline void store_words(uint32_t* p, I x) { vst1q_u32(p, vreinterpretq_u32_s32(x)); }
template <int Bits>
inline I shift_right(I x) {
  if constexpr (Bits == 0) return x;
  else return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), Bits));
}
template <int Bits>
inline I shift_right_signed(I x) {
  return vshrq_n_s32(x, Bits);
}
template <int Bits>
inline I shift_left(I x) {
  return vshlq_n_s32(x, Bits);
}
inline I sub_int(I a, I b) { return vsubq_s32(a, b); }
/// a·b for |a| < 2^15, −2^15 ≤ b < 2^15.
inline I mul_small(I a, int32_t b) { return mul_int(a, set_int(b)); }
/// Four bytes in every lane.
inline I set_bytes(const char* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return set_int(word);
}
using Bytes16 = uint8x16_t;
inline Bytes16 load_bytes16(const uint8_t* p) { return vld1q_u8(p); }
inline I look_up_bytes(Bytes16 table, I index) {
  return vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(index)));
}
using Table16 = uint8x16x4_t;
inline Table16 load_table16(const float* p) { return vld1q_u8_x4(reinterpret_cast<const uint8_t*>(p)); }
inline F table16(Table16 table, I index) {  // the four bytes of entry i lie at 4i … 4i + 3
  const I bytes = vmlaq_s32(set_int(0x03020100), and_int(index, set_int(15)), set_int(0x04040404));
  return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_s32(bytes)));
}
inline F gather(const float* table, I index) {
  const float values[4] = {table[vgetq_lane_s32(index, 0)], table[vgetq_lane_s32(index, 1)],
                           table[vgetq_lane_s32(index, 2)], table[vgetq_lane_s32(index, 3)]};
  return load(values);
}
using Table32 = const float*;
inline Table32 load_table32(const float* p) { return p; }
inline F table32(Table32 table, I index) { return gather(table, and_int(index, set_int(31))); }
constexpr bool rank_lines = false;
using Table256 = const float*;
inline Table256 load_table256(const float* p) { return p; }
inline F table256(Table256 table, I index) { return gather(table, index); }
inline F load_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
// E4M3: the fields of a code, its sign spread over the bits above, moved to a binary16's.
inline F load_e4m3_as_f16(const uint8_t* p) {
  const int16x4_t wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four(p))));
  const uint16x4_t fields = vand_u16(vreinterpret_u16_s16(vshl_n_s16(wide, 7)), vdup_n_u16(0xbfff));
  return vcvt_f32_f16(vreinterpret_f16_u16(fields));
}
inline F load_e5m2(const uint8_t* p) {
  const uint16x4_t wide = vget_low_u16(vmovl_u8(load_four(p)));
  return vcvt_f32_f16(vreinterpret_f16_u16(vshl_n_u16(wide, 8)));
}
inline F load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }

inline float reduce_min(F x) { return vminvq_f32(x); }
inline float reduce_max(F x) { return vmaxvq_f32(x); }
inline int32_t reduce_add(I x) { return vaddvq_s32(x); }
inline bool has_nan(F x) { return vminvq_u32(vceqq_f32(x, x)) == 0; }
/// Codes [first, first + lanes) in the low four bits of each lane; above them anything.
inline I load_nibbles(const uint8_t* codes, size_t first) {
  uint16_t word;
  __builtin_memcpy(&word, codes + first / 2, sizeof word);
  const int32_t shifts[4] = {0, -4, -8, -12};
  return vreinterpretq_s32_u32(vshlq_u32(vdupq_n_u32(word), vld1q_s32(shifts)));
}
inline void store_f16(uint16_t* p, F x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
inline void store_bf16(uint16_t* p, F x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16);
  const uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
  const uint32x4_t number = vceqq_f32(x, x);
  vst1_u16(p, vmovn_u32(vbslq_u32(number, rounded, vorrq_u32(upper, vdupq_n_u32(0x40)))));
}
// A pair of stores past the caches has no intrinsic; the store buffers merge whole lines as it is.
inline void stream(float* p, F x) { store(p, x); }
inline void stream_f16(uint16_t* p, F x) { store_f16(p, x); }
inline void stream_bf16(uint16_t* p, F x) { store_bf16(p, x); }
inline I magnitude_bits(F x) { return and_int(vreinterpretq_s32_f32(x), set_int(0x7FFFFFFF)); }
inline F sqrt(F x) { return vsqrtq_f32(x); }
inline F select_less(F x, F bound, F yes, F no) { return vbslq_f32(vcltq_f32(x, bound), yes, no); }
inline F select_finite(F x, F yes, F no) {
  return vbslq_f32(vcltq_s32(magnitude_bits(x), set_int(0x7F800000)), yes, no);
}
inline bool has_zero(I x) { return vminvq_u32(vreinterpretq_u32_s32(x)) == 0; }
inline I min_int(I a, I b) { return vminq_s32(a, b); }
inline I max_int(I a, I b) { return vmaxq_s32(a, b); }
inline int32_t reduce_max_int(I x) { return vmaxvq_s32(x); }
constexpr size_t half_lanes = 32;
using Half16 = uint8x16x2_t;  // low bytes of the sixteen values, high bytes
inline Half16 load_half16(const uint16_t* p) { return vld2q_u8(reinterpret_cast<const uint8_t*>(p)); }
inline void store_halves(Half16 table, const uint8_t* codes, uint16_t* out) {
  const uint8x16_t bytes = vld1q_u8(codes), even = vandq_u8(bytes, vdupq_n_u8(15)), odd = vshrq_n_u8(bytes, 4);
  const uint8x16_t index[2] = {vzip1q_u8(even, odd), vzip2q_u8(even, odd)};
  for (int half = 0; half < 2; ++half) {
    const uint8x16x2_t values = {{vqtbl1q_u8(table.val[0], index[half]), vqtbl1q_u8(table.val[1], index[half])}};
    vst2q_u8(reinterpret_cast<uint8_t*>(out + 16 * half), values);
  }
}
inline void stream_halves(Half16 table, const uint8_t* codes, uint16_t* out) { store_halves(table, codes, out); }
/// Four rows become four columns.
inline void transpose(F (&rows)[4]) {
  const auto pairs = [](F a, F b) { return vreinterpretq_f64_f32(vzip1q_f32(a, b)); };
  const auto upper = [](F a, F b) { return vreinterpretq_f64_f32(vzip2q_f32(a, b)); };
  const float64x2_t a = pairs(rows[0], rows[1]), b = pairs(rows[2], rows[3]);
  const float64x2_t c = upper(rows[0], rows[1]), d = upper(rows[2], rows[3]);
  rows[0] = vreinterpretq_f32_f64(vzip1q_f64(a, b));
  rows[1] = vreinterpretq_f32_f64(vzip2q_f64(a, b));
  rows[2] = vreinterpretq_f32_f64(vzip1q_f64(c, d));
  rows[3] = vreinterpretq_f32_f64(vzip2q_f64(c, d));
}
inline void fence() {}

}  // namespace vec

}  // namespace simd
}  // namespace nibble::inline NIBBLE_ABI::kernels
