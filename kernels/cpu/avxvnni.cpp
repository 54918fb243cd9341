// AVX2 with AVX-VNNI: byte products in one instruction, without AVX-512.
#include "kernels/cpu/vec_avx2.h"

namespace nibble::inline NIBBLE_ABI::kernels {
namespace {

namespace vec {

inline I dot4(I sum, I a, I b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
/// No cheaper for codes below 16.
inline I dot4_nibbles(I sum, I a, I b) { return dot4(sum, a, b); }

}  // namespace vec

#include "kernels/cpu/generic/byte_forms.h"

#include "kernels/cpu/generic/all.h"

}  // namespace

const KernelTable avxvnni_kernels = make_table();

}  // namespace nibble::inline NIBBLE_ABI::kernels
