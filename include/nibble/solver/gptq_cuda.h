// GPTQ on a CUDA device: the Hessian by cuBLAS, its factor by cuSOLVER and cuBLAS, the columns by a kernel.
//
//   nibble::cuda::DeviceHessian h(context, in_features, "q_proj", stream);
//   for (auto& batch : calibration) h.add(batch, stream);               // [tokens, in_features] on the device
//   auto [q, report] = nibble::cuda::gptq_solve(context, weights, h.download(stream), {.bits = 4}, stream);
//
// The library is nibble::cuda.
#pragma once

#include "nibble/backend/cuda.h"
#include "nibble/solver/gptq.h"

namespace nibble::cuda {

/// Σ x·xᵀ over tokens, in fp32 on the device (nibble::Hessian adds batches in fp64): an element is off by at most
/// tokens·ε·Σ|x_i·x_j|, ε = 2⁻²⁴.
class DeviceHessian {
 public:
  /// Holds channels² floats and cuBLAS's 32 MiB. Allocates. Errors: invalid_argument (no channels), CudaError.
  DeviceHessian(const Context& context, std::size_t channels, std::string name, cudaStream_t stream);

  /// Adds a batch [tokens, channels] of f32 on the stream. Errors: shape_mismatch, unsupported (another type),
  /// CudaError. Values are not looked at; download() tells of sums that are not finite.
  void add(const DeviceMatrix& x, cudaStream_t stream);
  /// Waits for the stream. Errors: as Hessian::from_sum, CudaError.
  [[nodiscard]] Hessian download(cudaStream_t stream) const;

  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }

 private:
  const Context* context_;
  std::size_t channels_;
  std::string name_;
  std::uint64_t tokens_ = 0;
  DeviceBuffer sums_, workspace_;
};

/// gptq::solve on the device, for weights in host memory: the same grids, order and damping, in fp32; codes differ from
/// solve()'s only where rounding of the factor and of sums moves a weight across the middle between two codes. Where
/// the factorisation fails, damp rises by damp_increment up to 1, which the report tells. Holds two in × in matrices
/// and about ten bytes a weight on the device. Allocates, and waits for the stream.
///
/// Not here yet, Error{unsupported}: static_groups, act_group_aware, one scale a row, grid_search, compat,
/// double_precision, asymmetric_share. Errors else: invalid_argument (an option out of range; no calibration tokens, or
/// none that is not zero; a Hessian that no damp makes positive definite), shape_mismatch, non_finite, CudaError.
gptq::Result gptq_solve(const Context& context, FloatMatrix weights, const Hessian& hessian,
                        const gptq::Options& options, cudaStream_t stream);

}  // namespace nibble::cuda
