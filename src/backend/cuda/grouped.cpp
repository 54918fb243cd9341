#include "backend/cuda/grouped.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/cuda/libraries.h"
#include "kernels/cuda/pointers.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

/// Whether two results have an element in common; at worst true where they do not, if their strides differ. Slices of
/// columns of one matrix, as a fused Q/K/V has them, have none.
bool overlap(const MutableDeviceMatrix& a, const MutableDeviceMatrix& b) {
  const auto begin = [](const MutableDeviceMatrix& m) { return reinterpret_cast<std::uintptr_t>(m.data); };
  const auto bytes = [](const MutableDeviceMatrix& m) { return ((m.rows - 1) * m.stride + m.cols) * size_of(m.type); };
  if (begin(b) < begin(a)) return overlap(b, a);
  const std::uintptr_t distance = begin(b) - begin(a);
  if (distance >= bytes(a)) return false;
  if (a.stride != b.stride || a.type != b.type || distance % size_of(a.type) != 0) return true;
  const std::size_t column = distance / size_of(a.type) % a.stride;
  return column < a.cols || column + b.cols > a.stride;
}

/// Products of one level have no result in common, and come after all of the levels before.
std::vector<std::size_t> levels_of(std::span<const GroupedProduct> products) {
  std::vector<std::size_t> levels(products.size(), 0);
  for (std::size_t i = 0; i < products.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (overlap(products[i].c, products[j].c)) levels[i] = std::max(levels[i], levels[j] + 1);
  return levels;
}

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

/// cuBLAS's grouped product takes results of the operands' type, and its kernels for 16 bits addresses of whole 16
/// bytes.
bool can_group(const GroupedProduct& p) {
  return p.c.type == p.a.type &&
         (p.a.type == DType::f32 || (is_aligned(p.a.data) && is_aligned(p.b.data) && is_aligned(p.c.data)));
}

/// A product as cuBLAS sees it. It counts columns first, to which a row-major matrix is the transposed one; so it is
/// asked for cᵀ = bᵀ·aᵀ.
struct BlasProduct {
  explicit BlasProduct(const GroupedProduct& p)
      : first_op(p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
        second_op(p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N),
        m(narrow(p.c.cols)),
        n(narrow(p.c.rows)),
        k(narrow(p.a_transposed ? p.a.rows : p.a.cols)),
        first_stride(narrow(p.b.stride)),
        second_stride(narrow(p.a.stride)),
        result_stride(narrow(p.c.stride)),
        alpha(p.alpha),
        beta(p.beta) {}
  bool operator==(const BlasProduct&) const = default;

  cublasOperation_t first_op, second_op;
  int m, n, k, first_stride, second_stride, result_stride;
  float alpha, beta;
};

void gemm_one(cublasHandle_t handle, const GroupedProduct& p, const char* purpose) {
  const BlasProduct b(p);
  check(cublasGemmEx(handle, b.first_op, b.second_op, b.m, b.n, b.k, &b.alpha, p.b.data, blas_type(p.b.type),
                     b.first_stride, p.a.data, blas_type(p.a.type), b.second_stride, &b.beta, p.c.data,
                     blas_type(p.c.type), b.result_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx", purpose);
}

/// What cuBLAS wants of a grouped product on the host: an array of each field, an entry for each run of like products.
struct Groups {
  explicit Groups(std::span<const GroupedProduct* const> products) {
    const BlasProduct* last = nullptr;
    std::vector<BlasProduct> like;
    like.reserve(products.size());
    for (const GroupedProduct* p : products) {
      const BlasProduct b(*p);
      if (last != nullptr && *last == b) {
        ++size.back();
        continue;
      }
      last = &like.emplace_back(b);
      size.push_back(1);
    }
    for (const BlasProduct& b : like) {
      first_op.push_back(b.first_op), second_op.push_back(b.second_op);
      m.push_back(b.m), n.push_back(b.n), k.push_back(b.k);
      first_stride.push_back(b.first_stride), second_stride.push_back(b.second_stride);
      result_stride.push_back(b.result_stride);
      alpha.push_back(b.alpha), beta.push_back(b.beta);
    }
  }
  std::vector<cublasOperation_t> first_op, second_op;
  std::vector<int> m, n, k, first_stride, second_stride, result_stride, size;
  std::vector<float> alpha, beta;
};

void gemm_together(cublasHandle_t handle, std::span<const GroupedProduct* const> products, const void** addresses,
                   const char* purpose, cudaStream_t stream) {
  const std::size_t count = products.size();
  std::vector<const void*> host(kAddressesAProduct * count);
  for (std::size_t i = 0; i < count; ++i) {
    host[i] = products[i]->b.data;
    host[count + i] = products[i]->a.data;
    host[2 * count + i] = products[i]->c.data;
  }
  check_kernel(store_pointers(host, addresses, stream), "store_pointers");
  const Groups g(products);
  const cudaDataType type = blas_type(products[0]->a.type);
  const void* const* first = addresses;
  const void* const* second = addresses + count;
  void* const* results = const_cast<void* const*>(addresses + 2 * count);
  check(cublasGemmGroupedBatchedEx(handle, g.first_op.data(), g.second_op.data(), g.m.data(), g.n.data(), g.k.data(),
                                   g.alpha.data(), first, type, g.first_stride.data(), second, type,
                                   g.second_stride.data(), g.beta.data(), results, type, g.result_stride.data(),
                                   narrow(g.size.size()), g.size.data(), CUBLAS_COMPUTE_32F),
        "cublasGemmGroupedBatchedEx", purpose);
}

}  // namespace

void gemm_grouped(const Context& context, std::span<const GroupedProduct> products, DeviceSpan blas,
                  const void** addresses, const char* purpose, cudaStream_t stream) {
  const auto held = context.libraries().blas(stream, blas);
  const std::vector<std::size_t> levels = levels_of(products);
  const std::size_t count = levels.empty() ? 0 : *std::max_element(levels.begin(), levels.end()) + 1;
  for (std::size_t level = 0; level < count; ++level)
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      std::vector<const GroupedProduct*> together, apart;
      for (std::size_t i = 0; i < products.size(); ++i)
        if (levels[i] == level && products[i].a.type == type)
          (can_group(products[i]) ? together : apart).push_back(&products[i]);
      if (together.size() == 1) apart.push_back(together.front());
      if (together.size() > 1) {
        gemm_together(held.handle, together, addresses, purpose, stream);
        addresses += kAddressesAProduct * together.size();
      }
      for (const GroupedProduct* p : apart) gemm_one(held.handle, *p, purpose);
    }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
