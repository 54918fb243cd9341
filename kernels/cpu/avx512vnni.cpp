// AVX-512 with VNNI: byte products in one instruction.
#include "kernels/cpu/vec_avx512vnni.h"

namespace nibble::kernels {
namespace {

#include "kernels/cpu/generic/elementwise.h"
#include "kernels/cpu/generic/multiply_codes.h"
#include "kernels/cpu/generic/multiply_int8.h"
#include "kernels/cpu/generic/multiply_panel.h"
#include "kernels/cpu/generic/table.h"

}  // namespace

const KernelTable avx512vnni_kernels = make_table();

}  // namespace nibble::kernels
