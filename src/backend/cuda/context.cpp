#include "backend/cuda/libraries.h"

namespace nibble::inline NIBBLE_ABI::cuda {

Context::Context(int device, DeviceAllocator& allocator) : device_(device_info(device)), allocator_(&allocator) {
  const DeviceScope scope(device);
  libraries_ = std::make_unique<Libraries>();
}

Context::~Context() = default;

Context::Libraries::Libraries() { check(cublasCreate(&blas_), "cublasCreate"); }

Context::Libraries::~Libraries() {
  if (blas_ != nullptr) (void)cublasDestroy(blas_);
  if (solver_ != nullptr) (void)cusolverDnDestroy(solver_);
}

auto Context::Libraries::blas(cudaStream_t stream, DeviceSpan workspace) -> Held<cublasHandle_t> {
  std::unique_lock lock(blas_mutex_);
  check(cublasSetStream(blas_, stream), "cublasSetStream");
  // Setting the stream takes the workspace away, so the order matters.
  check(cublasSetWorkspace(blas_, workspace.data, workspace.size), "cublasSetWorkspace");
  check(cublasSetMathMode(blas_, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION), "cublasSetMathMode");
  return {blas_, std::move(lock)};
}

auto Context::Libraries::solver(cudaStream_t stream) -> Held<cusolverDnHandle_t> {
  std::unique_lock lock(solver_mutex_);
  if (solver_ == nullptr) check(cusolverDnCreate(&solver_), "cusolverDnCreate");
  check(cusolverDnSetStream(solver_, stream), "cusolverDnSetStream");
  return {solver_, std::move(lock)};
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
