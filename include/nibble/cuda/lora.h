// LoRA adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") on a CUDA device: their small
// products, of all projections and all adapters of a layer together.
//
//   std::vector<nibble::cuda::LoraProduct> products{{x, a_q, b_q, y_q, scale}, {x, a_k, b_k, y_k, scale}, …};
//   nibble::cuda::add_lora(context, products, scratch.span(), stream);       // after matmul() wrote the y
//
// A product of a few rows and a rank of 8 to 64 leaves a device idle, and a layer has many: the projections of one x
// (q, k, v; gate, up), and, where requests with different adapters share a batch, the tokens of each. All products of
// a call are two calls of cuBLAS's grouped product. Those that add to the same elements take one more for each that
// must wait; those whose result is of another type than x, or which are of 16 bits and not aligned to 16 bytes, are
// calls of their own.
//
// The library is nibble::cuda. Its calls put work on the stream and return; they neither wait nor allocate.
#pragma once

#include <span>

#include "nibble/cuda/device.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// y [n, out] += scale · (x [n, in] · Aᵀ) · Bᵀ for the tokens of one adapter and one projection. Tokens, x and y of
/// several products may be slices of the same matrices: of rows (adapters of a batch) or columns (a fused Q/K/V).
struct LoraProduct {
  DeviceMatrix x;         ///< [n, in]: f32, f16 or bf16.
  DeviceMatrix a;         ///< A [r, in], PEFT's lora_A.weight; of x's type.
  DeviceMatrix b;         ///< B [out, r], lora_B.weight; of x's type.
  MutableDeviceMatrix y;  ///< [n, out], of x's type or f32.
  float scale = 1;        ///< α/r, or α/√r (rsLoRA).
};

/// Bytes that add_lora() works in: 32 MiB for cuBLAS, the x·Aᵀ, and addresses.
[[nodiscard]] std::size_t lora_workspace(std::span<const LoraProduct> products);

/// All products. Several may add to the same y: one after the other, in their order. x·Aᵀ is rounded to x's type, so it
/// must lie within that type's range.
///
/// ε = 2⁻²⁴, u = 2⁻¹¹ for f16, 2⁻⁸ for bf16, 0 for f32. Before y is rounded to its type,
///   |error| ≤ (u + 2.1·(in + r + 4)·ε)·S + 2ε·|y|,  S = |scale|·Σ_k |b_ok|·Σ_i |x_i·a_ki|,
/// and 2⁻²⁵·|scale|·Σ_k |b_ok| more in f16, whose small values have fewer digits. It holds for sums in any order, and
/// for adders of tensor cores that cut off instead of rounding.
///
/// Errors, with nothing computed: shape_mismatch (which product, and its shapes), unsupported (types), invalid_argument
/// (a workspace that is too small or not aligned to 256, an extent beyond 2³¹−1); CudaError.
void add_lora(const Context& context, std::span<const LoraProduct> products, DeviceSpan workspace, cudaStream_t stream);

/// The same product, and where its gradients go: each is added to. Data that is null: not wanted.
struct LoraGradient {
  DeviceMatrix x, a, b;        ///< As in the product.
  float scale = 1;             ///< Likewise.
  DeviceMatrix grad_y;         ///< [n, out], of x's type.
  MutableDeviceMatrix grad_x;  ///< [n, in]  += scale · grad_y · B · A: of x's type or f32, as the others.
  MutableDeviceMatrix grad_a;  ///< [r, in]  += scale · (grad_y · B)ᵀ · x
  MutableDeviceMatrix grad_b;  ///< [out, r] += scale · grad_yᵀ · (x · Aᵀ)
};

/// Bytes that add_lora_gradients() works in.
[[nodiscard]] std::size_t lora_gradient_workspace(std::span<const LoraGradient> gradients);

/// All gradients, in their order where several add to the same elements: the grad_x of q, k and v may be one matrix.
/// Computes x·Aᵀ anew, so nothing need be kept from the forward pass but x; it and scale·grad_y·B are rounded to x's
/// type. |error| is as of add_lora(), with in + r replaced by out + r (grad_x), out + n (grad_a), in + n (grad_b), S by
/// the sum of the magnitudes of all terms, and 2⁻²⁵·Σ of the other factor's magnitudes more in f16. Errors: as
/// add_lora().
void add_lora_gradients(const Context& context, std::span<const LoraGradient> gradients, DeviceSpan workspace,
                        cudaStream_t stream);

}  // namespace nibble::inline NIBBLE_ABI::cuda
