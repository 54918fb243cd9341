// AVX-512 F, BW, DQ, VL.
#include "kernels/cpu/vec_avx512.h"

namespace nibble::kernels {
namespace {

namespace vec {

/// sum + the four products of each lane's unsigned bytes a by signed bytes b, exact.
inline I dot4(I sum, I a, I b) {
  const I low = set_int(0x00FF00FF);
  const I even = _mm512_madd_epi16(_mm512_and_si512(a, low), _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8));
  const I odd = _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8));
  return add_int(sum, add_int(even, odd));
}
/// The same for codes below 16: two products of at most 15·127 fit 16 bits.
inline I dot4_nibbles(I sum, I a, I b) {
  return add_int(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
}

}  // namespace vec

#include "kernels/cpu/generic/elementwise.h"
#include "kernels/cpu/generic/multiply_codes.h"
#include "kernels/cpu/generic/multiply_int8.h"
#include "kernels/cpu/generic/multiply_panel.h"
#include "kernels/cpu/generic/table.h"

}  // namespace

const KernelTable avx512_kernels = make_table();

}  // namespace nibble::kernels
