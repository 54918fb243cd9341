// AVX-512 with VNNI: byte products in one instruction.
#include "kernels/cpu/vec_avx512vnni.h"

namespace nibble::inline NIBBLE_ABI::kernels {
namespace {

#include "kernels/cpu/generic/byte_forms.h"

#include "kernels/cpu/generic/all.h"

}  // namespace

const KernelTable avx512vnni_kernels = make_table();

}  // namespace nibble::inline NIBBLE_ABI::kernels
