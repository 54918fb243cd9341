// Many small products of different shapes in few calls of cuBLAS, which by themselves would each leave the device idle.
#pragma once

#include <span>

#include "nibble/cuda/device.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// c [m, n] = alpha · a [m, k] · b [k, n] + beta · c, all row-major; c is not read where beta is 0. a and b are of one
/// type, c of that or f32.
struct GroupedProduct {
  DeviceMatrix a, b;
  bool a_transposed, b_transposed;  ///< a is stored as [k, m], b as [n, k].
  MutableDeviceMatrix c;
  float alpha, beta;
};

/// How many addresses of operands a product needs room for on the device.
inline constexpr std::size_t kAddressesAProduct = 3;

/// All products, as if one after the other: those that write to the same elements do so in their order. `blas` is
/// cuBLAS's workspace; `addresses` has room for kAddressesAProduct of each. No extent may be 0 or beyond 2³¹−1.
/// `purpose` is named in errors: CudaError.
void gemm_grouped(const Context& context, std::span<const GroupedProduct> products, DeviceSpan blas,
                  const void** addresses, const char* purpose, cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
