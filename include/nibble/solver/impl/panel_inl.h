// What solver/impl/panel.h declares.
#pragma once

#include "nibble/solver/impl/panel.h"

#include <algorithm>

#include "nibble/core/rounded_product.h"

namespace nibble::inline NIBBLE_ABI::solver {

namespace detail {

inline void gemm_panel_double(const double* x, std::size_t x_stride, std::size_t tokens, const double* panel,
                              std::size_t depth, double* out) {
  const RoundedProduct<double> times;
  constexpr std::size_t part = 8;  // sums that fit the registers of every machine
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t first = 0; first < kLanes; first += part) {
      double sum[part] = {};
      for (std::size_t k = 0; k < depth; ++k)
        for (std::size_t j = 0; j < part; ++j) sum[j] += times(x[t * x_stride + k], panel[k * kLanes + first + j]);
      std::copy_n(sum, part, out + t * kLanes + first);
    }
}

}  // namespace detail

template <>
NIBBLE_INLINE GemmPanel<float> gemm_panel<float>(const kernels::KernelTable& isa) {
  return isa.gemm_panel;
}

template <>
NIBBLE_INLINE GemmPanel<double> gemm_panel<double>(const kernels::KernelTable&) {
  return detail::gemm_panel_double;
}

}  // namespace nibble::inline NIBBLE_ABI::solver
