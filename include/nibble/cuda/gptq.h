// GPTQ on a CUDA device: the Hessian by cuBLAS, its factor by cuSOLVER and cuBLAS, the columns by a kernel.
//
//   nibble::cuda::DeviceHessian h(context, in_features, "q_proj", stream);
//   for (auto& batch : calibration) h.add(batch, stream);               // [tokens, in_features] on the device
//   auto [q, report] = nibble::cuda::gptq_solve(context, weights, h.download(stream), {.bits = 4}, stream);
//
// The library is nibble::cuda.
#pragma once

#include "nibble/cuda/device.h"
#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Σ x·xᵀ over tokens, in fp32 on the device (nibble::Hessian adds batches in fp64): an element is off by at most
/// tokens·ε·Σ|x_i·x_j|, ε = 2⁻²⁴; one of the cross statistic by (tokens + 1)·ε·Σ|(full − x)_i·x_j|. Of one stream at a
/// time.
class DeviceHessian {
 public:
  /// Holds channels² floats and cuBLAS's 32 MiB; with `asymmetric`, for GPTAQ, channels² and 256·channels floats more.
  /// Allocates. Errors: invalid_argument (no channels), CudaError.
  DeviceHessian(const Context& context, std::size_t channels, std::string name, cudaStream_t stream,
                bool asymmetric = false);

  /// Adds a batch [tokens, channels] of f32 on the stream. Errors: shape_mismatch, unsupported (another type),
  /// invalid_argument (an asymmetric one), CudaError. Values are not looked at; download() tells of sums that are not
  /// finite.
  void add(const DeviceMatrix& x, cudaStream_t stream);
  /// As Hessian::add() of two. Error{invalid_argument} unless made with `asymmetric`.
  void add(const DeviceMatrix& x, const DeviceMatrix& full, cudaStream_t stream);
  /// Waits for the stream. Errors: as Hessian::from_sum, CudaError.
  [[nodiscard]] Hessian download(cudaStream_t stream) const;

  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] bool asymmetric() const { return cross_.size() != 0; }

 private:
  void check_batch(const DeviceMatrix& x, const char* which) const;
  void add_squares(const DeviceMatrix& x, cudaStream_t stream);

  const Context* context_;
  std::size_t channels_;
  std::string name_;
  std::uint64_t tokens_ = 0;
  DeviceBuffer sums_, cross_, difference_, workspace_;
};

/// gptq::solve on the device, for weights in host memory: every option but qronos and refit_scales means what it means
/// there, and the report is the same, recovery and fallback included. What the options leave to the host (order,
/// groups, H's reversal) the same code does; factors, grids and codes are the device's work, and nothing that fails
/// there is done on the host instead. Waits for the stream; Options::executor serves what is prepared on the host.
/// Errors: as gptq::solve(), unsupported (qronos, refit_scales; more than 2³¹−1 rows or columns), CudaError.
///
/// How near the codes are to those of exact arithmetic. Let ε be 2⁻²⁴ (2⁻⁵³ with double_precision), n the columns,
/// H + λI = R·Rᵀ and U = R⁻¹ exact, indices in the order of solving, and follow a row exactly but with the codes that
/// the device chose: v_i is what column i then comes to, q_i what its code decodes to, e_i = (v_i − q_i)/U_ii. Each
/// code is then within ½ + (A_i + 2ε|v_i|)/scale of v_i/scale: the nearest one, but where v_i is nearly in the middle
/// between two.
///
///   A_j  = Σ_{k≤j} Λ_k·|R_kj|·U_jj              what was lost before, as the columns between spread it
///   Λ_j  = 1.01·(Σ_{k<j} E_k·(D_kj + |U_kj|·(3ε + D_kk/U_kk)) + (j + 1)·ε·(|w_j| + Σ_{k<j} E_k·|U_kj|))
///   E_k  = |e_k| + 1.01·A_k/U_kk
///   D    = ε·((n + 3)·T + n·|U|·|R|·|U| + |U|)  what the factor is off by
///   T_ij = a_i·Σ_{i≤k≤j} a_k·|U_kj|             by the backward error of Cholesky's factorisation
///   a_i  = Σ_j |U_ij|·√H_jj
///
/// to first order in D, for any order of adding up (Higham, Accuracy and Stability of Numerical Algorithms, theorems
/// 8.5, 10.3 and 10.5); alpha adds P's share of each of these (tests/cuda/gptq_replay.h has it). Where the
/// factor had to be fp64's, D is |U|·2⁻²⁴ and the rest of it with 2⁻⁵³.
gptq::Result gptq_solve(const Context& context, FloatMatrix weights, const Hessian& hessian,
                        const gptq::Options& options, cudaStream_t stream);

/// The most bytes that gptq_solve() holds on the device at once for weights of this shape and type, whatever it takes
/// to factor the Hessian; all of it comes from the context's allocator. Asks cuSOLVER; allocates nothing but its
/// handle. 16·cols² and 32 MiB, or 4·cols² + 5·rows·cols and 32 MiB, make up most of it. Errors: invalid_argument (an
/// option out of range), unsupported (as gptq_solve()), CudaError.
std::size_t gptq_device_bytes(const Context& context, std::size_t rows, std::size_t cols, DType type,
                              const gptq::Options& options);

}  // namespace nibble::inline NIBBLE_ABI::cuda
