// cuBLAS's grouped product. On a GPU all products of a call may run at once, so two that write to one element race; and
// its kernels for 16 bits read 16 bytes at a time. Both are faults here.
#include <cstdint>
#include <unordered_set>

#include "tests/cuda_emulation/runtime/blas.h"

namespace {

using namespace nibble::cuda_emulation;
using namespace nibble::cuda_emulation::blas;

constexpr const char* name = "cublasGemmGroupedBatchedEx";

/// The results so far of a call.
class Written {
 public:
  void add(const Matrix& c, std::size_t rows, std::size_t cols) {
    for (std::size_t j = 0; j < cols; ++j)
      for (std::size_t i = 0; i < rows; ++i)
        if (!elements_.insert(static_cast<const std::byte*>(c.data) + (j * c.ld + i) * size_of(c.type)).second)
          return detail::fault(std::string(name) + ": two products write to the same element");
  }

 private:
  std::unordered_set<const void*> elements_;
};

void require_alignment(const Product& p) {
  for (const Matrix& m : {p.a, p.b, p.c})
    if (size_of(m.type) == 2 && reinterpret_cast<std::uintptr_t>(m.data) % 16 != 0)
      detail::fault(std::string(name) + ": an operand of 16 bits is not aligned to 16 bytes");
}

}  // namespace

extern "C" cublasStatus_t cublasGemmGroupedBatchedEx(cublasHandle_t handle, const cublasOperation_t ta[],
                                                     const cublasOperation_t tb[], const int m[], const int n[],
                                                     const int k[], const void* alpha, const void* const a[],
                                                     cudaDataType_t a_type, const int lda[], const void* const b[],
                                                     cudaDataType_t b_type, const int ldb[], const void* beta,
                                                     void* const c[], cudaDataType_t c_type, const int ldc[],
                                                     int groups, const int group_size[], cublasComputeType_t compute) {
  if (const cublasStatus_t status = begin(handle, name); status != CUBLAS_STATUS_SUCCESS) return status;
  const bool has_type = a_type == CUDA_R_32F || a_type == CUDA_R_16F || a_type == CUDA_R_16BF;
  if (compute != CUBLAS_COMPUTE_32F || !has_type || a_type != b_type || a_type != c_type)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  std::size_t products = 0;
  for (int g = 0; g < groups; ++g) products += u(group_size[g]);
  // The addresses of operands lie on the device, everything else on the host.
  for (const void* addresses : {static_cast<const void*>(a), static_cast<const void*>(b), static_cast<const void*>(c)})
    if (!detail::require_device_memory(addresses, products * sizeof(void*), name)) return CUBLAS_STATUS_INVALID_VALUE;
  Written written;
  std::size_t i = 0;
  for (int g = 0; g < groups; ++g)
    for (int of_group = 0; of_group < group_size[g]; ++of_group, ++i) {
      const Product p{ta[g] != CUBLAS_OP_N,
                      tb[g] != CUBLAS_OP_N,
                      u(m[g]),
                      u(n[g]),
                      u(k[g]),
                      static_cast<double>(static_cast<const float*>(alpha)[g]),
                      static_cast<double>(static_cast<const float*>(beta)[g]),
                      {const_cast<void*>(a[i]), a_type, u(lda[g])},
                      {const_cast<void*>(b[i]), b_type, u(ldb[g])},
                      {c[i], c_type, u(ldc[g])}};
      if (!valid(p, name)) return CUBLAS_STATUS_INVALID_VALUE;
      require_alignment(p);
      written.add(p.c, p.m, p.n);
      multiply(p);
    }
  return CUBLAS_STATUS_SUCCESS;
}
