// The vector layer of the AVX2 units: eight lanes, with FMA and F16C. See generic/elementwise.h for what each name
// means.
#pragma once

#include "nibble/backend/impl/cpu/kernels.h"

#include <immintrin.h>

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

using F = __m256;
using I = __m256i;
constexpr size_t lanes = 8;
constexpr size_t tile_tokens = 3;  // 12 accumulators + 4 weights of 16 registers, the broadcast from memory
constexpr size_t few_tokens = 4;
constexpr size_t int8_sums = 8;
constexpr size_t int8_tokens = 4;
constexpr size_t fixed_sums = 8;  // and as many products and codes before the registers are full
constexpr size_t fixed_tokens = 1;
constexpr size_t code_sums = 8;  // 8 sums, 2 words, 2 scales, 2 zero points, a weight

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F set(float x) { return _mm256_set1_ps(x); }
inline I set_int(int32_t x) { return _mm256_set1_epi32(x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
inline F as_float(I x) { return _mm256_castsi256_ps(x); }
inline I bits_of(F x) { return _mm256_castps_si256(x); }
inline I to_int(F x) { return _mm256_cvtps_epi32(x); }
inline F to_float(I x) { return _mm256_cvtepi32_ps(x); }
inline I add_where_greater(I sum, F x, F threshold, int32_t width) {
  const I greater = _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
  return add_int(sum, _mm256_and_si256(greater, set_int(width)));
}
inline I load_codes(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline I load_signed(const int8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline void store_codes(uint8_t* p, I codes) {  // every lane is 0 … 255
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline I load_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_words(uint32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
template <int Bits>
inline I shift_right(I x) {
  return _mm256_srli_epi32(x, Bits);
}
/// Four bytes in every lane.
inline I set_bytes(const char* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return set_int(word);
}
template <int Bits>
inline I shift_right_signed(I x) {
  return _mm256_srai_epi32(x, Bits);
}
template <int Bits>
inline I shift_left(I x) {
  return _mm256_slli_epi32(x, Bits);
}
inline I sub_int(I a, I b) { return _mm256_sub_epi32(a, b); }
/// a·b for |a| < 2^15, −2^15 ≤ b < 2^15.
inline I mul_small(I a, int32_t b) { return _mm256_madd_epi16(a, set_int(b & 0xFFFF)); }
inline I and_int(I a, I b) { return _mm256_and_si256(a, b); }
/// a | (b & mask).
inline I or_and(I a, I b, I mask) { return _mm256_or_si256(a, _mm256_and_si256(b, mask)); }
inline I mul_int(I a, I b) { return _mm256_mullo_epi32(a, b); }
inline I mul_high(I a, I b) {
  const I even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}
inline I xor_int(I a, I b) { return _mm256_xor_si256(a, b); }
inline I low_byte(I x) { return _mm256_and_si256(x, set_int(255)); }
using Bytes16 = I;
inline Bytes16 load_bytes16(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I look_up_bytes(Bytes16 table, I index) { return _mm256_shuffle_epi8(table, index); }
struct Table16 {
  __m256 low, high;
};
inline Table16 load_table16(const float* p) { return {load(p), load(p + 8)}; }
inline F table16(Table16 table,
                 I index) {  // vpermps reads index bits 0–2; bit 3, moved to the sign, selects the half
  const F high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                          high);
}
inline F gather(const float* table, I index) { return _mm256_i32gather_ps(table, index, 4); }
using Table32 = const float*;
inline Table32 load_table32(const float* p) { return p; }
inline F table32(Table32 table, I index) { return gather(table, and_int(index, set_int(31))); }
constexpr bool rank_lines = false;
using Table256 = const float*;
inline Table256 load_table256(const float* p) { return p; }
inline F table256(Table256 table, I index) { return gather(table, index); }
inline F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F load_bf16(const uint16_t* p) {
  const I wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
// E4M3: the fields of a code, its sign spread over the bits above, moved to a binary16's.
inline F load_e4m3_as_f16(const uint8_t* p) {
  const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(static_cast<short>(0xbfff))));
}
inline F load_e5m2(const uint8_t* p) {
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
}

inline void store_signed(int8_t* p, I codes) {  // every lane is −128 … 127
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline void store_int(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline float reduce_min(F x) {
  __m128 v = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  v = _mm_min_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_min_ss(v, _mm_movehdup_ps(v)));
}
inline float reduce_max(F x) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
inline int32_t reduce_add(I x) {
  __m128i v = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xB1)));
}
inline bool has_nan(F x) { return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0; }
/// Codes [first, first + lanes) in the low four bits of each lane; above them anything.
inline I load_nibbles(const uint8_t* codes, size_t first) {
  int32_t bytes;
  __builtin_memcpy(&bytes, codes + first / 2, sizeof bytes);
  const I pairs = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
  return _mm256_or_si256(pairs, _mm256_slli_epi64(pairs, 28));  // the high nibble to the upper lane of the pair
}
inline void stream(float* p, F x) { _mm256_stream_ps(p, x); }
inline __m128i to_f16(F x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
inline __m128i to_bf16(F x) {
  const I bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  const I odd = _mm256_and_si256(upper, set_int(1));
  const I rounded = _mm256_srli_epi32(add_int(add_int(bits, set_int(0x7fff)), odd), 16);
  const I nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const I out = _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, set_int(0x40)), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
}
inline void store_f16(uint16_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16(x)); }
inline void store_bf16(uint16_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(x)); }
inline void stream_f16(uint16_t* p, F x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_f16(x)); }
inline void stream_bf16(uint16_t* p, F x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), to_bf16(x)); }
inline I magnitude_bits(F x) { return _mm256_and_si256(_mm256_castps_si256(x), set_int(0x7FFFFFFF)); }
inline F sqrt(F x) { return _mm256_sqrt_ps(x); }
inline F select_less(F x, F bound, F yes, F no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, bound, _CMP_LT_OQ));
}
inline F select_finite(F x, F yes, F no) {
  const I finite = _mm256_cmpgt_epi32(set_int(0x7F800000), magnitude_bits(x));
  return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(finite));
}
inline bool has_zero(I x) { return _mm256_movemask_epi8(_mm256_cmpeq_epi32(x, _mm256_setzero_si256())) != 0; }
inline I min_int(I a, I b) { return _mm256_min_epi32(a, b); }
inline I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
inline int32_t reduce_max_int(I x) {
  __m128i v = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(v, _mm_shuffle_epi32(v, 0xB1)));
}
constexpr size_t half_lanes = 32;
struct Half16 {
  __m256i low, high;  ///< Bytes of the sixteen values, in both halves.
};
inline Half16 load_half16(const uint16_t* p) {
  const I values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const I low = _mm256_packus_epi16(_mm256_and_si256(values, _mm256_set1_epi16(0xFF)), _mm256_setzero_si256());
  const I high = _mm256_packus_epi16(_mm256_srli_epi16(values, 8), _mm256_setzero_si256());
  const auto both = [](I x) {  // eight bytes in each half: together, and that twice
    const I together = _mm256_permute4x64_epi64(x, 0x08);
    return _mm256_permute2x128_si256(together, together, 0x00);
  };
  return {both(low), both(high)};
}
/// The values of codes 0 … 15 and 16 … 31.
inline void look_up_halves(Half16 table, const uint8_t* codes, I* out) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), mask = _mm_set1_epi8(15);
  const __m128i even = _mm_and_si128(bytes, mask), odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
  // Halves of eight codes crossed, so that unpacking within halves puts them right again.
  const I index =
      _mm256_permute4x64_epi64(_mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd)), 0xD8);
  const I low = _mm256_shuffle_epi8(table.low, index), high = _mm256_shuffle_epi8(table.high, index);
  out[0] = _mm256_unpacklo_epi8(low, high);
  out[1] = _mm256_unpackhi_epi8(low, high);
}
inline void store_halves(Half16 table, const uint8_t* codes, uint16_t* to) {
  I out[2];
  look_up_halves(table, codes, out);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), out[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16), out[1]);
}
inline void stream_halves(Half16 table, const uint8_t* codes, uint16_t* to) {
  I out[2];
  look_up_halves(table, codes, out);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), out[0]);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 16), out[1]);
}
/// Eight rows become eight columns: pairs, fours, and then halves.
inline void transpose(F (&rows)[8]) {
  F t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  F fours[8];
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    fours[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  for (int c = 0; c < 4; ++c) {
    rows[c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20);
    rows[4 + c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31);
  }
}
inline void fence() { _mm_sfence(); }

}  // namespace vec

}  // namespace simd
}  // namespace nibble::inline NIBBLE_ABI::kernels
