// The vector layer of the AVX-512 units: sixteen lanes. See generic/elementwise.h for what each name means.
#pragma once

#include "kernels/cpu/kernels.h"

// GCC 12 warns about its own _mm512_undefined_ps() wherever an intrinsic is inlined (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

namespace nibble::kernels {
namespace {

namespace vec {

using F = __m512;
using I = __m512i;
constexpr size_t lanes = 16;
constexpr size_t tile_tokens = 12;  // 24 accumulators + 2 weights of 32 registers
constexpr size_t few_tokens = 32;
constexpr size_t int8_sums = 16;
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
inline I to_int(F x) { return _mm512_cvtps_epi32(x); }
inline F to_float(I x) { return _mm512_cvtepi32_ps(x); }
inline I add_where_greater(I sum, F x, F threshold, int32_t width) {
  return _mm512_mask_add_epi32(sum, _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ), sum, set_int(width));
}
inline I load_codes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_codes(uint8_t* p, I codes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes));
}
inline I load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
template <int Bits>
inline I shift_right(I x) {
  return _mm512_srli_epi32(x, Bits);
}
/// Four bytes in every lane.
inline I set_bytes(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return set_int(word);
}
inline I and_int(I a, I b) { return _mm512_and_si512(a, b); }
inline I mul_int(I a, I b) { return _mm512_mullo_epi32(a, b); }
inline I low_byte(I x) { return _mm512_and_si512(x, set_int(255)); }
using Table16 = __m512;
inline Table16 load_table16(const float* p) { return load(p); }
inline F table16(Table16 table, I index) { return _mm512_permutexvar_ps(index, table); }
inline F gather(const float* table, I index) { return _mm512_i32gather_ps(index, table, 4); }
inline F load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F load_bf16(const uint16_t* p) {
  const I wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

}  // namespace vec

}  // namespace
}  // namespace nibble::kernels
