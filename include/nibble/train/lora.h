// LoRA adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") on a CPU: their small products,
// forward and backward, beside a weight that is quantized and stays as it is.
//
//   matmul(x, w, y);                                                     // the frozen weight
//   const train::LoraProduct product{x, a, b, y, alpha / r};
//   train::add_lora({&product, 1});                                      // y += (α/r)·(x·Aᵀ)·Bᵀ
//   …
//   w.backend().matmul_transposed(grad_y, w, grad_x, executor);          // through the frozen weight, which has no
//   const train::LoraGradient gradient{x, a, b, grad_y, grad_x, grad_a, grad_b, alpha / r};   // gradient of its own
//   train::add_lora_gradients({&gradient, 1});
//
// All sums are fused multiply-adds in the order of their index, 256 from zero and those sums added up, on every CPU and
// for any number of threads: recomputing a block in the backward pass gives the bits of the forward one. (On a CUDA
// device: cuda/lora.h.)
#pragma once

#include <span>

#include "nibble/core/matrix_view.h"
#include "nibble/core/parallel.h"
#include "nibble/train/dropout.h"

namespace nibble::inline NIBBLE_ABI {

class Backend;

namespace train {

/// y [n, out] += scale · (dropout(x) [n, in] · Aᵀ) · Bᵀ for the tokens of one adapter and one projection. Tokens, x and
/// y of several products may be slices of the same matrices: of rows (adapters of a batch) or of columns.
struct LoraProduct {
  MatrixView<const float> x;  ///< [n, in]
  MatrixView<const float> a;  ///< A [r, in], PEFT's lora_A.weight.
  MatrixView<const float> b;  ///< B [out, r], lora_B.weight.
  MatrixView<float> y;        ///< [n, out]
  float scale = 1;            ///< α/r, or α/√r (rsLoRA: Kalajdzievski 2023).
  Dropout dropout;
};

/// All products, one after the other. ε = 2⁻²⁴:
///   |error| ≤ (in + r + 4)·ε·S + ε·|y|,  S = |scale|·Σ_k |b_ok|·Σ_i |x_i·a_ki|, for in + r ≤ 2¹⁶.
/// `backend` says whose kernels compute (null: default_backend()); it never shows in a result.
/// Error{shape_mismatch} says which product and its shapes, before anything is written.
void add_lora(std::span<const LoraProduct> products, Executor& executor = default_executor(),
              const Backend* backend = nullptr);

/// The same product, and where its gradients go: each is added to. A matrix without data: not wanted.
struct LoraGradient {
  MatrixView<const float> x, a, b;  ///< As in the product.
  MatrixView<const float> grad_y;   ///< [n, out]
  MatrixView<float> grad_x;         ///< [n, in]  += dropout of scale · grad_y · B · A
  MatrixView<float> grad_a;         ///< [r, in]  += scale · (grad_y · B)ᵀ · dropout(x)
  MatrixView<float> grad_b;         ///< [out, r] += scale · grad_yᵀ · (dropout(x) · Aᵀ)
  float scale = 1;
  Dropout dropout;  ///< The same as in the product, whose mask it makes again.
};

/// All gradients, one after the other: the grad_x of query, key and value may be one matrix. x·Aᵀ is computed anew, so
/// nothing need be kept from the forward pass but x. The bound is add_lora's, with in + r replaced by out + r (grad_x),
/// out + n (grad_a) and in + n (grad_b), and S by the sum of the magnitudes of all terms.
void add_lora_gradients(std::span<const LoraGradient> gradients, Executor& executor = default_executor(),
                        const Backend* backend = nullptr);

}  // namespace train
}  // namespace nibble::inline NIBBLE_ABI
