// Turns what CUDA's libraries return into the library's error. Every call of them goes through one of these.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <string_view>

#include "nibble/cuda/device.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Throws CudaError unless the call succeeded. `call` is its name, `purpose` what it was for, and may be empty. What a
/// failed call left behind as the runtime's last error is taken away, so that it is not found by the next one.
void check(cudaError_t status, const char* call, std::string_view purpose = {});
void check(cublasStatus_t status, const char* call, std::string_view purpose = {});
void check(cusolverStatus_t status, const char* call, std::string_view purpose = {});

inline void check_kernel(int status, const char* kernel) {
  check(static_cast<cudaError_t>(status), "a kernel launch", kernel);
}

/// Makes a device the current one, and the one that was so again.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace nibble::inline NIBBLE_ABI::cuda
