// The vector layer of the AVX2 units: eight lanes, with FMA and F16C. See generic/elementwise.h for what each name
// means.
#pragma once

#include "kernels/cpu/kernels.h"

#include <immintrin.h>

namespace nibble::kernels {
namespace {

namespace vec {

using F = __m256;
using I = __m256i;
constexpr size_t lanes = 8;
constexpr size_t tile_tokens = 3;  // 12 accumulators + 4 weights of 16 registers, the broadcast from memory
constexpr size_t few_tokens = 4;
constexpr size_t int8_sums = 8;
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
inline I to_int(F x) { return _mm256_cvtps_epi32(x); }
inline F to_float(I x) { return _mm256_cvtepi32_ps(x); }
inline I add_where_greater(I sum, F x, F threshold, int32_t width) {
  const I greater = _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
  return add_int(sum, _mm256_and_si256(greater, set_int(width)));
}
inline I load_codes(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline void store_codes(uint8_t* p, I codes) {  // every lane is 0 … 255
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline I load_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
template <int Bits>
inline I shift_right(I x) {
  return _mm256_srli_epi32(x, Bits);
}
/// Four bytes in every lane.
inline I set_bytes(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return set_int(word);
}
inline I and_int(I a, I b) { return _mm256_and_si256(a, b); }
inline I mul_int(I a, I b) { return _mm256_mullo_epi32(a, b); }
inline I low_byte(I x) { return _mm256_and_si256(x, set_int(255)); }
struct Table16 {
  __m256 low, high;
};
inline Table16 load_table16(const float* p) { return {load(p), load(p + 8)}; }
inline F table16(Table16 table, I index) {  // vpermps reads index bits 0–2; bit 3, moved to the sign, selects the half
  const F high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                          high);
}
inline F gather(const float* table, I index) { return _mm256_i32gather_ps(table, index, 4); }
inline F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F load_bf16(const uint16_t* p) {
  const I wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

}  // namespace vec

}  // namespace
}  // namespace nibble::kernels
