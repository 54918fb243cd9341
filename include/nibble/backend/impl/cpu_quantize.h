// Quantize and dequantize of the CPU backends: the loops over rows and groups, with one ISA's kernels inside.
#pragma once

#include <string_view>

#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI {

/// Backend::quantize with the kernels of `isa`.
QuantizedMatrix cpu_quantize(const kernels::KernelTable& isa, FloatMatrix weights, const QuantSpec& spec,
                             std::string_view name, Executor& executor);

/// Backend::dequantize_to.
void cpu_dequantize(const kernels::KernelTable& isa, const QuantizedMatrix& q, std::size_t first_row,
                    MutableFloatMatrix out, Executor& executor);

/// Decodes columns [first, last) of one row to `out`. `first` must be a multiple of 8, where a byte begins whatever
/// the width. `codes` is scratch for last − first bytes.
void cpu_decode_row(const kernels::KernelTable& isa, const QuantizedMatrix& q, std::size_t row, std::size_t first,
                    std::size_t last, std::uint8_t* codes, float* out);

/// Columns [first, last) of a row of any float type as fp32: the data itself where it is fp32, else `scratch`.
const float* cpu_load_row(const kernels::KernelTable& isa, FloatMatrix m, std::size_t row, std::size_t first,
                          std::size_t last, float* scratch);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/cpu_quantize_inl.h"
#endif
