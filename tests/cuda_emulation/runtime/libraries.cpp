// The cuBLAS and cuSOLVER entry points that the library calls, as plain loops. Sums are fp64, so results are better
// than a GPU's; tests compare within bounds that hold for both.
#include <cusolverDn.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "tests/cuda_emulation/runtime/blas.h"

// The type that the toolkit's header only names.
struct cusolverDnContext {
  cudaStream_t stream = nullptr;
};

namespace {

using namespace nibble::cuda_emulation;
using namespace nibble::cuda_emulation::blas;

/// Solves op(A)·X = alpha·B or X·op(A) = alpha·B for a triangular A, in place of B (m × n).
cublasStatus_t triangular_solve(cublasHandle_t handle, const char* name, cublasSideMode_t side, cublasFillMode_t fill,
                                cublasOperation_t op, cublasDiagType_t diagonal, int m, int n, double alpha, Matrix a,
                                Matrix b) {
  if (const cublasStatus_t status = begin(handle, name); status != CUBLAS_STATUS_SUCCESS) return status;
  const std::size_t order = u(side == CUBLAS_SIDE_LEFT ? m : n), others = u(side == CUBLAS_SIDE_LEFT ? n : m);
  if (!valid(a, order, order, name) || !valid(b, u(m), u(n), name)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool transposed = op != CUBLAS_OP_N, left = side == CUBLAS_SIDE_LEFT;
  // X·op(A) = B is op(A)ᵀ·Xᵀ = Bᵀ.
  const auto element = [&](std::size_t i, std::size_t j) { return transposed == left ? a.get(j, i) : a.get(i, j); };
  const bool lower = (fill == CUBLAS_FILL_MODE_LOWER) == (transposed != left);
  const auto get = [&](std::size_t i, std::size_t o) { return left ? b.get(i, o) : b.get(o, i); };
  for (std::size_t o = 0; o < others; ++o)
    for (std::size_t step = 0; step < order; ++step) {
      const std::size_t i = lower ? step : order - 1 - step;
      double x = alpha * get(i, o);
      for (std::size_t done = 0; done < step; ++done) {
        const std::size_t j = lower ? done : order - 1 - done;
        x -= element(i, j) * get(j, o);
      }
      if (diagonal == CUBLAS_DIAG_NON_UNIT) x /= element(i, i);
      if (left) b.set(i, o, x);
      else b.set(o, i, x);
    }
  return CUBLAS_STATUS_SUCCESS;
}

/// A = L·Lᵀ or Uᵀ·U in place of one triangle; `info` is the order of the first minor that is not positive.
template <class T>
cusolverStatus_t factor(cusolverDnHandle_t handle, const char* name, cublasFillMode_t fill, int n, T* a, int lda,
                        T* work, int work_size, int* info) {
  if (detail::begin_call(name)) return CUSOLVER_STATUS_EXECUTION_FAILED;
  if (!detail::catch_up(handle->stream)) return CUSOLVER_STATUS_EXECUTION_FAILED;
  const Matrix m{a, sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_64F, u(lda)};
  if (!valid(m, u(n), u(n), name) || !detail::require_device_memory(info, sizeof *info, name) ||
      !detail::require_device_memory(work, u(work_size) * sizeof(T), name))
    return CUSOLVER_STATUS_INVALID_VALUE;
  const auto at = [&](std::size_t i, std::size_t j) -> T& {  // of the lower triangle
    return fill == CUBLAS_FILL_MODE_LOWER ? a[j * u(lda) + i] : a[i * u(lda) + j];
  };
  std::memset(work, 0xff, u(work_size) * sizeof(T));
  *info = 0;
  for (std::size_t j = 0; j < u(n); ++j) {
    double pivot = static_cast<double>(at(j, j));
    for (std::size_t k = 0; k < j; ++k) pivot -= static_cast<double>(at(j, k)) * static_cast<double>(at(j, k));
    if (!(pivot > 0)) {
      *info = static_cast<int>(j) + 1;
      return CUSOLVER_STATUS_SUCCESS;
    }
    at(j, j) = static_cast<T>(std::sqrt(pivot));
    for (std::size_t i = j + 1; i < u(n); ++i) {
      double sum = static_cast<double>(at(i, j));
      for (std::size_t k = 0; k < j; ++k) sum -= static_cast<double>(at(i, k)) * static_cast<double>(at(j, k));
      at(i, j) = static_cast<T>(sum / static_cast<double>(at(j, j)));
    }
  }
  return CUSOLVER_STATUS_SUCCESS;
}

/// What a factorisation asks for here: enough that a forgotten workspace is noticed.
constexpr int kFactorWork = 64;

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  if (detail::begin_call("cublasCreate")) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = new cublasContext;
  detail::count_handle("cuBLAS handle", 1);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  delete handle;
  detail::count_handle("cuBLAS handle", -1);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  if (detail::begin_call("cublasSetStream")) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  handle->has_workspace = false;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (detail::begin_call("cublasSetWorkspace")) return CUBLAS_STATUS_INVALID_VALUE;
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (bytes != 0 && !detail::require_device_memory(workspace, bytes, "cublasSetWorkspace"))
    return CUBLAS_STATUS_INVALID_VALUE;
  handle->has_workspace = true;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) {
  return detail::begin_call("cublasSetMathMode") ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
}
const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_ALLOC_FAILED ? "CUBLAS_STATUS_ALLOC_FAILED" : "CUBLAS_STATUS_EXECUTION_FAILED";
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void* alpha, const void* a, cudaDataType a_type, int lda, const void* b,
                            cudaDataType b_type, int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t) {
  if (const cublasStatus_t status = begin(handle, "cublasGemmEx"); status != CUBLAS_STATUS_SUCCESS) return status;
  if (!has_product(compute, a_type, b_type, c_type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Product p{ta != CUBLAS_OP_N,
                  tb != CUBLAS_OP_N,
                  u(m),
                  u(n),
                  u(k),
                  scalar(alpha, compute),
                  scalar(beta, compute),
                  {const_cast<void*>(a), a_type, u(lda)},
                  {const_cast<void*>(b), b_type, u(ldb)},
                  {c, c_type, u(ldc)}};
  if (!valid(p, "cublasGemmEx")) return CUBLAS_STATUS_INVALID_VALUE;
  multiply(p);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSsyrk_v2(cublasHandle_t handle, cublasFillMode_t fill, cublasOperation_t op, int n, int k,
                              const float* alpha, const float* a, int lda, const float* beta, float* c, int ldc) {
  if (const cublasStatus_t status = begin(handle, "cublasSsyrk"); status != CUBLAS_STATUS_SUCCESS) return status;
  const bool t = op != CUBLAS_OP_N;
  const Matrix ma{const_cast<float*>(a), CUDA_R_32F, u(lda)}, mc{c, CUDA_R_32F, u(ldc)};
  if (!valid(ma, u(t ? k : n), u(t ? n : k), "cublasSsyrk") || !valid(mc, u(n), u(n), "cublasSsyrk"))
    return CUBLAS_STATUS_INVALID_VALUE;
  for (std::size_t j = 0; j < u(n); ++j) {
    const bool lower = fill == CUBLAS_FILL_MODE_LOWER;
    for (std::size_t i = lower ? j : 0; i < (lower ? u(n) : j + 1); ++i) {
      double sum = 0;
      for (std::size_t l = 0; l < u(k); ++l) sum += (t ? ma.get(l, i) * ma.get(l, j) : ma.get(i, l) * ma.get(j, l));
      const double scaled = static_cast<double>(*alpha) * sum;
      mc.set(i, j, *beta == 0 ? scaled : scaled + static_cast<double>(*beta) * mc.get(i, j));
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasStrsm_v2(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t fill, cublasOperation_t op,
                              cublasDiagType_t diagonal, int m, int n, const float* alpha, const float* a, int lda,
                              float* b, int ldb) {
  return triangular_solve(handle, "cublasStrsm", side, fill, op, diagonal, m, n, static_cast<double>(*alpha),
                          {const_cast<float*>(a), CUDA_R_32F, u(lda)}, {b, CUDA_R_32F, u(ldb)});
}
cublasStatus_t cublasDtrsm_v2(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t fill, cublasOperation_t op,
                              cublasDiagType_t diagonal, int m, int n, const double* alpha, const double* a, int lda,
                              double* b, int ldb) {
  return triangular_solve(handle, "cublasDtrsm", side, fill, op, diagonal, m, n, *alpha,
                          {const_cast<double*>(a), CUDA_R_64F, u(lda)}, {b, CUDA_R_64F, u(ldb)});
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  if (detail::begin_call("cusolverDnCreate")) return CUSOLVER_STATUS_ALLOC_FAILED;
  *handle = new cusolverDnContext;
  detail::count_handle("cuSOLVER handle", 1);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete handle;
  detail::count_handle("cuSOLVER handle", -1);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  if (detail::begin_call("cusolverDnSetStream")) return CUSOLVER_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSpotrf_bufferSize(cusolverDnHandle_t, cublasFillMode_t, int, float*, int, int* size) {
  if (detail::begin_call("cusolverDnSpotrf_bufferSize")) return CUSOLVER_STATUS_INVALID_VALUE;
  *size = kFactorWork;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDpotrf_bufferSize(cusolverDnHandle_t, cublasFillMode_t, int, double*, int, int* size) {
  if (detail::begin_call("cusolverDnDpotrf_bufferSize")) return CUSOLVER_STATUS_INVALID_VALUE;
  *size = kFactorWork;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSpotrf(cusolverDnHandle_t handle, cublasFillMode_t fill, int n, float* a, int lda,
                                  float* work, int work_size, int* info) {
  return factor(handle, "cusolverDnSpotrf", fill, n, a, lda, work, work_size, info);
}
cusolverStatus_t cusolverDnDpotrf(cusolverDnHandle_t handle, cublasFillMode_t fill, int n, double* a, int lda,
                                  double* work, int work_size, int* info) {
  return factor(handle, "cusolverDnDpotrf", fill, n, a, lda, work, work_size, info);
}

}  // extern "C"
