// The factor of a Hessian by cuSOLVER and cuBLAS. Both read columns first, so the lower triangle L of the reversed
// Hessian, rows first, is their upper triangle Lᵀ; U_ij of kernels/cuda/gptq_update.h is element (j, i) of its inverse.
#include <type_traits>

#include "kernels/cuda/gptq_dense.h"
#include "solver/cuda/gptq_work.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

cusolverStatus_t potrf_size(cusolverDnHandle_t solver, int n, float* a, int* size) {
  return cusolverDnSpotrf_bufferSize(solver, CUBLAS_FILL_MODE_UPPER, n, a, n, size);
}
cusolverStatus_t potrf_size(cusolverDnHandle_t solver, int n, double* a, int* size) {
  return cusolverDnDpotrf_bufferSize(solver, CUBLAS_FILL_MODE_UPPER, n, a, n, size);
}
cusolverStatus_t potrf(cusolverDnHandle_t solver, int n, float* a, float* scratch, int size, int* info) {
  return cusolverDnSpotrf(solver, CUBLAS_FILL_MODE_UPPER, n, a, n, scratch, size, info);
}
cusolverStatus_t potrf(cusolverDnHandle_t solver, int n, double* a, double* scratch, int size, int* info) {
  return cusolverDnDpotrf(solver, CUBLAS_FILL_MODE_UPPER, n, a, n, scratch, size, info);
}
cublasStatus_t trsm(cublasHandle_t blas, cublasOperation_t op, int n, const float* a, float* b) {
  const float one = 1;
  return cublasStrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, op, CUBLAS_DIAG_NON_UNIT, n, n, &one, a, n, b, n);
}
cublasStatus_t trsm(cublasHandle_t blas, cublasOperation_t op, int n, const double* a, double* b) {
  const double one = 1;
  return cublasDtrsm(blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_UPPER, op, CUBLAS_DIAG_NON_UNIT, n, n, &one, a, n, b, n);
}

template <class T>
class Factoring {
 public:
  Factoring(const GptqWork& work, const gptq::FactorInput& input) : work_(work), in_(input), n_(input.plan.cols()) {}

  bool run(double lambda, bool dominant, GptqFactor& out) {
    factor_ = work_.buffer(n_ * n_ * sizeof(T));
    if (!factor(lambda, dominant)) return false;
    blas_workspace_ = work_.buffer(kBlasWorkspace);
    out.inverse = inverse();
    if (in_.alpha != 0) out.drift = drift();
    return true;
  }

 private:
  /// factor_ = Lᵀ.
  bool factor(double lambda, bool dominant) {
    const auto host = gptq::reversed_hessian<T>(in_, lambda, dominant, work_.executor());
    std::vector<T> pivots(n_);
    int size = 0, failed_minor = 0;
    WaitOnError wait(work_.stream);
    check(cudaMemcpy2DAsync(factor_.as<>(), n_ * sizeof(T), host.row(0), host.stride * sizeof(T), n_ * sizeof(T), n_,
                            cudaMemcpyHostToDevice, work_.stream),
          "cudaMemcpy2DAsync", "uploading the Hessian");
    const auto solver = work_.context.libraries().solver(work_.stream);
    check(potrf_size(solver.handle, narrow(n_), factor_.as<T>(), &size), "cusolverDn<t>potrf_bufferSize");
    const DeviceBuffer scratch = work_.buffer(static_cast<std::size_t>(size) * sizeof(T));
    const DeviceBuffer info = work_.buffer(sizeof(int));
    check(potrf(solver.handle, narrow(n_), factor_.as<T>(), scratch.as<T>(), size, info.as<int>()),
          "cusolverDn<t>potrf", "factoring the Hessian");
    check(cudaMemcpyAsync(&failed_minor, info.as<>(), sizeof failed_minor, cudaMemcpyDeviceToHost, work_.stream),
          "cudaMemcpyAsync", "downloading the factorisation's outcome");
    check(cudaMemcpy2DAsync(pivots.data(), sizeof(T), factor_.as<>(), (n_ + 1) * sizeof(T), sizeof(T), n_,
                            cudaMemcpyDeviceToHost, work_.stream),
          "cudaMemcpy2DAsync", "downloading pivots");
    wait.wait("factoring the Hessian");
    bool good = failed_minor == 0;
    for (std::size_t i = 0; i < n_ && good; ++i) good = gptq::is_significant(pivots[i], host.row(i)[i]);
    return good;
  }

  /// (Lᵀ)⁻¹.
  DeviceBuffer inverse() {
    DeviceBuffer out = work_.buffer(n_ * n_ * sizeof(T));
    const std::vector<T> ones(n_, T(1));
    WaitOnError wait(work_.stream);
    check(cudaMemsetAsync(out.as<>(), 0, out.size(), work_.stream), "cudaMemsetAsync", "the inverse factor");
    check(cudaMemcpy2DAsync(out.as<>(), (n_ + 1) * sizeof(T), ones.data(), sizeof(T), sizeof(T), n_,
                            cudaMemcpyHostToDevice, work_.stream),
          "cudaMemcpy2DAsync", "setting a diagonal");
    solve(CUBLAS_OP_N, out);
    wait.wait("inverting the factor");
    return out;
  }

  /// GPTAQ's P = share·triu(D·Uᵀ, 1)·U, D the cross statistic in the order of solving: what w_i, by the difference of
  /// the inputs, asks of the columns after i. Reversed and transposed, that is two solves with L and Lᵀ.
  DeviceBuffer drift() {
    DeviceBuffer out = work_.buffer(n_ * n_ * sizeof(T));
    std::vector<T> cross(n_ * n_);
    const double share = in_.scale * in_.alpha;
    const auto column = [&](std::size_t reversed) { return in_.plan.order[n_ - 1 - reversed]; };
    parallel_for(work_.executor(), n_, 16, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i)
        for (std::size_t j = 0; j < n_; ++j)
          cross[i * n_ + j] = static_cast<T>(share * in_.hessian.cross(column(i), column(j)));
    });
    WaitOnError wait(work_.stream);
    work_.upload<T>(out, cross, "uploading the cross statistic");
    solve(CUBLAS_OP_T, out);
    check_kernel(gptq_keep_above_diagonal(out.as<T>(), n_, work_.stream), "gptq_keep_above_diagonal");
    solve(CUBLAS_OP_N, out);
    wait.wait("the drift");
    return out;
  }

  void solve(cublasOperation_t op, const DeviceBuffer& b) {
    const auto blas = work_.context.libraries().blas(work_.stream, blas_workspace_.span());
    check(trsm(blas.handle, op, narrow(n_), factor_.as<T>(), b.as<T>()), "cublas<t>trsm", "solving with the factor");
  }

  const GptqWork& work_;
  const gptq::FactorInput& in_;
  std::size_t n_;
  DeviceBuffer factor_, blas_workspace_;
};

}  // namespace

template <class T>
bool gptq_factor(const GptqWork& work, const gptq::FactorInput& input, double lambda, bool dominant, GptqFactor& out) {
  return Factoring<T>(work, input).run(lambda, dominant, out);
}
template bool gptq_factor<float>(const GptqWork&, const gptq::FactorInput&, double, bool, GptqFactor&);
template bool gptq_factor<double>(const GptqWork&, const gptq::FactorInput&, double, bool, GptqFactor&);

GptqFactor gptq_in_float(const GptqWork& work, std::size_t n, GptqFactor&& factor) {
  const auto rounded = [&](DeviceBuffer from) {
    if (from.size() == 0) return DeviceBuffer();
    DeviceBuffer to = work.buffer(n * n * sizeof(float));
    check_kernel(gptq_downcast(from.as<double>(), to.as<float>(), n * n, work.stream), "gptq_downcast");
    return to;
  };
  GptqFactor out;
  out.inverse = rounded(std::move(factor.inverse));
  out.drift = rounded(std::move(factor.drift));
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
