// The vector layer of the AVX-512 units: sixteen lanes. See generic/elementwise.h for what each name means.
#pragma once

#include "nibble/backend/impl/cpu/kernels.h"

// GCC 12 warns about its own _mm512_undefined_ps() wherever an intrinsic is inlined (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

using F = __m512;
using I = __m512i;
constexpr size_t lanes = 16;
constexpr size_t tile_tokens = 12;  // 24 accumulators + 2 weights of 32 registers
constexpr size_t few_tokens = 32;
constexpr size_t int8_sums = 16;
constexpr size_t int8_tokens = 8;
constexpr size_t fixed_sums = 24;
constexpr size_t fixed_tokens = 4;
constexpr size_t code_sums = 16;  // 16 sums, 4 words, 4 scales, 4 zero points and the table

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F set(float x) { return _mm512_set1_ps(x); }
inline I set_int(int32_t x) { return _mm512_set1_epi32(x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
inline F as_float(I x) { return _mm512_castsi512_ps(x); }
inline I bits_of(F x) { return _mm512_castps_si512(x); }
inline I to_int(F x) { return _mm512_cvtps_epi32(x); }
inline F to_float(I x) { return _mm512_cvtepi32_ps(x); }
inline I add_where_greater(I sum, F x, F threshold, int32_t width) {
  return _mm512_mask_add_epi32(sum, _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ), sum, set_int(width));
}
inline I load_codes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I load_signed(const int8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_codes(uint8_t* p, I codes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes));
}
inline I load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_words(uint32_t* p, I x) { _mm512_storeu_si512(p, x); }
template <int Bits>
inline I shift_right(I x) {
  return _mm512_srli_epi32(x, Bits);
}
/// Four bytes in every lane.
inline I set_bytes(const char* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return set_int(word);
}
template <int Bits>
inline I shift_right_signed(I x) {
  return _mm512_srai_epi32(x, Bits);
}
template <int Bits>
inline I shift_left(I x) {
  return _mm512_slli_epi32(x, Bits);
}
inline I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
/// a·b for |a| < 2^15, −2^15 ≤ b < 2^15.
inline I mul_small(I a, int32_t b) { return _mm512_madd_epi16(a, set_int(b & 0xFFFF)); }
inline I and_int(I a, I b) { return _mm512_and_si512(a, b); }
/// a | (b & mask).
inline I or_and(I a, I b, I mask) { return _mm512_ternarylogic_epi32(a, b, mask, 0xF8); }
inline I mul_int(I a, I b) { return _mm512_mullo_epi32(a, b); }
inline I mul_high(I a, I b) {
  const I even = _mm512_mul_epu32(a, b), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
  return _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}
inline I xor_int(I a, I b) { return _mm512_xor_si512(a, b); }
inline I low_byte(I x) { return _mm512_and_si512(x, set_int(255)); }
using Bytes16 = I;
inline Bytes16 load_bytes16(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I look_up_bytes(Bytes16 table, I index) { return _mm512_shuffle_epi8(table, index); }
using Table16 = __m512;
inline Table16 load_table16(const float* p) { return load(p); }
inline F table16(Table16 table, I index) { return _mm512_permutexvar_ps(index, table); }
struct Table32 {
  F low, high;
};
inline Table32 load_table32(const float* p) { return {load(p), load(p + 16)}; }
inline F table32(Table32 table, I index) { return _mm512_permutex2var_ps(table.low, index, table.high); }
constexpr bool rank_lines = true;
struct Table256 {
  Table32 parts[8];
};
inline Table256 load_table256(const float* p) {
  Table256 out;
  for (int i = 0; i < 8; ++i) out.parts[i] = load_table32(p + 32 * i);
  return out;
}
/// Look-ups in all parts, between which the upper three bits of the index choose.
inline F table256(const Table256& table, I index) {
  const auto pair = [&](int part, __mmask16 upper) {
    return _mm512_mask_blend_ps(upper, table32(table.parts[part], index), table32(table.parts[part + 1], index));
  };
  const __mmask16 bit5 = _mm512_test_epi32_mask(index, set_int(32)), bit6 = _mm512_test_epi32_mask(index, set_int(64)),
                  bit7 = _mm512_test_epi32_mask(index, set_int(128));
  return _mm512_mask_blend_ps(bit7, _mm512_mask_blend_ps(bit6, pair(0, bit5), pair(2, bit5)),
                              _mm512_mask_blend_ps(bit6, pair(4, bit5), pair(6, bit5)));
}
inline F gather(const float* table, I index) { return _mm512_i32gather_ps(index, table, 4); }
inline F load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F load_bf16(const uint16_t* p) {
  const I wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// E4M3: the fields of a code, its sign spread over the bits above, moved to a binary16's.
inline F load_e4m3_as_f16(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<short>(0xbfff))));
}
inline F load_e5m2(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
}

inline void store_signed(int8_t* p, I codes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes));
}
inline float reduce_min(F x) { return _mm512_reduce_min_ps(x); }
inline float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
inline int32_t reduce_add(I x) { return _mm512_reduce_add_epi32(x); }
inline bool has_nan(F x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
/// Codes [first, first + lanes) in the low four bits of each lane; above them anything.
inline I load_nibbles(const uint8_t* codes, size_t first) {
  const I pairs = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + first / 2)));
  return _mm512_or_si512(pairs, _mm512_slli_epi64(pairs, 28));  // the high nibble to the upper lane of the pair
}
inline void stream(float* p, F x) { _mm512_stream_ps(p, x); }
inline __m256i to_f16(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
inline __m256i to_bf16(F x) {
  const I bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
  const I odd = _mm512_and_si512(upper, set_int(1));
  const I rounded = _mm512_srli_epi32(add_int(add_int(bits, set_int(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, set_int(0x40)));
}
inline void store_f16(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16(x)); }
inline void store_bf16(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }
inline void stream_f16(uint16_t* p, F x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_f16(x)); }
inline void stream_bf16(uint16_t* p, F x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }
inline I magnitude_bits(F x) { return _mm512_and_si512(_mm512_castps_si512(x), set_int(0x7FFFFFFF)); }
inline F sqrt(F x) { return _mm512_sqrt_ps(x); }
inline F select_less(F x, F bound, F yes, F no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, bound, _CMP_LT_OQ), no, yes);
}
inline F select_finite(F x, F yes, F no) {
  return _mm512_mask_blend_ps(_mm512_cmplt_epi32_mask(magnitude_bits(x), set_int(0x7F800000)), no, yes);
}
inline bool has_zero(I x) { return _mm512_testn_epi32_mask(x, x) != 0; }
inline I min_int(I a, I b) { return _mm512_min_epi32(a, b); }
inline I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
inline int32_t reduce_max_int(I x) { return _mm512_reduce_max_epi32(x); }
constexpr size_t half_lanes = 32;
using Half16 = __m512i;  // twice: a look-up reads five bits of an index
inline Half16 load_half16(const uint16_t* p) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512i look_up_halves(Half16 table, const uint8_t* codes) {
  const I pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  return _mm512_permutexvar_epi16(_mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 12)), table);
}
inline void store_halves(Half16 table, const uint8_t* codes, uint16_t* out) {
  _mm512_storeu_si512(out, look_up_halves(table, codes));
}
inline void stream_halves(Half16 table, const uint8_t* codes, uint16_t* out) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(out), look_up_halves(table, codes));
}
/// Sixteen rows become sixteen columns: pairs, fours, and then fours of lanes twice.
inline void transpose(F (&rows)[16]) {
  F t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  const auto halves = [](F a, F b, auto pick) {
    return _mm512_castpd_ps(pick(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto low = [](__m512d a, __m512d b) { return _mm512_unpacklo_pd(a, b); };
  const auto high = [](__m512d a, __m512d b) { return _mm512_unpackhi_pd(a, b); };
  for (int i = 0; i < 16; i += 4) {  // rows[i + c]: column c of each four lanes, of rows i to i + 3
    rows[i] = halves(t[i], t[i + 2], low);
    rows[i + 1] = halves(t[i], t[i + 2], high);
    rows[i + 2] = halves(t[i + 1], t[i + 3], low);
    rows[i + 3] = halves(t[i + 1], t[i + 3], high);
  }
  for (int c = 0; c < 4; ++c)
    for (int half = 0; half < 2; ++half) {  // rows 8·half to 8·half + 7: columns c and 8 + c, then 4 + c and 12 + c
      const F a = rows[8 * half + c], b = rows[8 * half + 4 + c];
      t[8 * half + c] = _mm512_shuffle_f32x4(a, b, 0x88);
      t[8 * half + 4 + c] = _mm512_shuffle_f32x4(a, b, 0xDD);
    }
  for (int c = 0; c < 8; ++c) {
    rows[c] = _mm512_shuffle_f32x4(t[c], t[8 + c], 0x88);
    rows[8 + c] = _mm512_shuffle_f32x4(t[c], t[8 + c], 0xDD);
  }
}
inline void fence() { _mm_sfence(); }

}  // namespace vec

}  // namespace simd
}  // namespace nibble::inline NIBBLE_ABI::kernels
