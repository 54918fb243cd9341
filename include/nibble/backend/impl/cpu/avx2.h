// AVX2 with FMA and F16C.
#pragma once

#include "nibble/backend/impl/cpu/vec_avx2.h"

namespace nibble::inline NIBBLE_ABI::kernels {
NIBBLE_KERNELS(simd) {
namespace vec {

/// sum + the four products of each lane's unsigned bytes a by signed bytes b, exact.
inline I dot4(I sum, I a, I b) {
  const I low = set_int(0x00FF00FF);
  const I even = _mm256_madd_epi16(_mm256_and_si256(a, low), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  const I odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return add_int(sum, add_int(even, odd));
}
/// The same for codes below 128: their products fit 16 bits in pairs.
inline I dot4_small(I sum, I a, I b) {
  return add_int(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
// A product and its addition are spelled as one: from intrinsics GCC 12 makes all products of a loop's body first,
// and spills them.
/// Two 16-bit products a lane, exact.
inline I dot2(I sum, I a, I b) {
  I product;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
  return sum;
}
/// pairs + the sums of two products each, of unsigned bytes a below 16 by signed bytes b, in 16 bits.
inline I add_pairs(I pairs, I a, I b) {
  I product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(pairs), "=&x"(product) : "x"(a), "x"(b));
  return pairs;
}
/// sum + the two 16-bit sums of each lane.
inline I widen_pairs(I sum, I pairs) { return add_int(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))); }

}  // namespace vec

#include "nibble/backend/impl/cpu/generic/pair_forms.h"

#include "nibble/backend/impl/cpu/generic/all.h"

}  // namespace simd

NIBBLE_KERNEL_TABLE(avx2, simd, make_table);

}  // namespace nibble::inline NIBBLE_ABI::kernels
