// AVX2 with FMA and F16C.
#include "kernels/cpu/vec_avx2.h"

namespace nibble::kernels {
namespace {

namespace vec {

/// sum + the four products of each lane's unsigned bytes a by signed bytes b, exact.
inline I dot4(I sum, I a, I b) {
  const I low = set_int(0x00FF00FF);
  const I even = _mm256_madd_epi16(_mm256_and_si256(a, low), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  const I odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return add_int(sum, add_int(even, odd));
}
/// The same for codes below 16: two products of at most 15·127 fit 16 bits.
inline I dot4_nibbles(I sum, I a, I b) {
  return add_int(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}

}  // namespace vec

#include "kernels/cpu/generic/elementwise.h"
#include "kernels/cpu/generic/multiply_codes.h"
#include "kernels/cpu/generic/multiply_int8.h"
#include "kernels/cpu/generic/multiply_panel.h"
#include "kernels/cpu/generic/table.h"

}  // namespace

const KernelTable avx2_kernels = make_table();

}  // namespace nibble::kernels
