// What the emulated entry points of cuBLAS and cuSOLVER share: a handle, column-major matrices, and the product.
#pragma once

#include <cublas_v2.h>

#include <string>

#include "nibble/core/float_types.h"
#include "tests/cuda_emulation/runtime/runtime.h"

// The type that the toolkit's header only names.
struct cublasContext {
  cudaStream_t stream = nullptr;
  bool has_workspace = false;
};

namespace nibble::cuda_emulation::blas {

inline std::size_t size_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_8I: return 1;
    case CUDA_R_16F:
    case CUDA_R_16BF: return 2;
    case CUDA_R_32F:
    case CUDA_R_32I: return 4;
    case CUDA_R_64F: return 8;
    default: return 0;
  }
}

/// A column-major matrix of a type known at run time.
struct Matrix {
  void* data;
  cudaDataType type;
  std::size_t ld;

  [[nodiscard]] double get(std::size_t r, std::size_t c) const {
    const std::size_t i = c * ld + r;
    switch (type) {
      case CUDA_R_8I: return static_cast<const signed char*>(data)[i];
      case CUDA_R_32I: return static_cast<const int*>(data)[i];
      case CUDA_R_16F: return static_cast<double>(static_cast<float>(static_cast<const f16*>(data)[i]));
      case CUDA_R_16BF: return static_cast<double>(static_cast<float>(static_cast<const bf16*>(data)[i]));
      case CUDA_R_32F: return static_cast<double>(static_cast<const float*>(data)[i]);
      default: return static_cast<const double*>(data)[i];
    }
  }
  void set(std::size_t r, std::size_t c, double x) const {
    const std::size_t i = c * ld + r;
    switch (type) {
      case CUDA_R_32I: static_cast<int*>(data)[i] = static_cast<int>(x); break;
      case CUDA_R_16F: static_cast<f16*>(data)[i] = f16(static_cast<float>(x)); break;
      case CUDA_R_16BF: static_cast<bf16*>(data)[i] = bf16(static_cast<float>(x)); break;
      case CUDA_R_32F: static_cast<float*>(data)[i] = static_cast<float>(x); break;
      default: static_cast<double*>(data)[i] = x; break;
    }
  }
};

inline std::size_t u(int n) { return static_cast<std::size_t>(n); }

/// A rows × cols operand must lie in device memory and be aligned to its type.
inline bool valid(const Matrix& m, std::size_t rows, std::size_t cols, const char* who) {
  if (rows == 0 || cols == 0) return true;
  if (m.ld < rows) {
    detail::fault(std::string(who) + ": a leading dimension is less than the rows");
    return false;
  }
  return detail::require_device_memory(m.data, ((cols - 1) * m.ld + rows) * size_of(m.type), who);
}

/// What every call of a handle begins with.
inline cublasStatus_t begin(cublasHandle_t handle, const char* name) {
  if (detail::begin_call(name)) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!handle->has_workspace) detail::fault(std::string(name) + " was left to cuBLAS's own workspace");
  return detail::catch_up(handle->stream) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

inline double scalar(const void* p, cublasComputeType_t compute) {
  switch (compute) {
    case CUBLAS_COMPUTE_32I: return *static_cast<const int*>(p);
    case CUBLAS_COMPUTE_64F: return *static_cast<const double*>(p);
    default: return static_cast<double>(*static_cast<const float*>(p));
  }
}

/// Whether cuBLAS has a product of these types (the table of cublasGemmEx, as far as the library needs it).
inline bool has_product(cublasComputeType_t compute, cudaDataType a, cudaDataType b, cudaDataType c) {
  if (a != b) return false;
  switch (compute) {
    case CUBLAS_COMPUTE_32I: return a == CUDA_R_8I && c == CUDA_R_32I;
    case CUBLAS_COMPUTE_64F: return a == CUDA_R_64F && c == CUDA_R_64F;
    case CUBLAS_COMPUTE_32F:
      return (a == CUDA_R_16F || a == CUDA_R_16BF || a == CUDA_R_32F) && (c == a || c == CUDA_R_32F);
    default: return false;
  }
}

/// C = alpha·op(A)·op(B) + beta·C, where op transposes or not; C is not read where beta is 0.
struct Product {
  bool ta, tb;
  std::size_t m, n, k;
  double alpha, beta;
  Matrix a, b, c;
};
inline bool valid(const Product& p, const char* who) {
  return valid(p.a, p.ta ? p.k : p.m, p.ta ? p.m : p.k, who) && valid(p.b, p.tb ? p.n : p.k, p.tb ? p.k : p.n, who) &&
         valid(p.c, p.m, p.n, who);
}
inline void multiply(const Product& p) {
  for (std::size_t j = 0; j < p.n; ++j)
    for (std::size_t i = 0; i < p.m; ++i) {
      double sum = 0;
      for (std::size_t l = 0; l < p.k; ++l)
        sum += (p.ta ? p.a.get(l, i) : p.a.get(i, l)) * (p.tb ? p.b.get(j, l) : p.b.get(l, j));
      p.c.set(i, j, p.alpha * sum + (p.beta == 0 ? 0 : p.beta * p.c.get(i, j)));
    }
}

}  // namespace nibble::cuda_emulation::blas
