// AVX-512 with VNNI: byte products in one instruction.
#include "kernels/cpu/vec_avx512.h"

namespace nibble::kernels {
namespace {

namespace vec {

inline I dot4(I sum, I a, I b) { return _mm512_dpbusd_epi32(sum, a, b); }

}  // namespace vec

#include "kernels/cpu/generic/elementwise.h"
#include "kernels/cpu/generic/multiply_codes.h"
#include "kernels/cpu/generic/multiply_int8.h"
#include "kernels/cpu/generic/multiply_panel.h"
#include "kernels/cpu/generic/table.h"

}  // namespace

const KernelTable avx512vnni_kernels = make_table();

}  // namespace nibble::kernels
