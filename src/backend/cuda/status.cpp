#include "backend/cuda/status.h"

#include <string>

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

[[noreturn]] void fail(const char* call, std::string_view purpose, const std::string& words, int status) {
  std::string message = std::string(call) + " failed";
  if (!purpose.empty()) message += " (" + std::string(purpose) + ")";
  throw CudaError(message + ": " + words, status);
}

const char* words_of(cusolverStatus_t status) {
  switch (status) {
    case CUSOLVER_STATUS_NOT_INITIALIZED: return "CUSOLVER_STATUS_NOT_INITIALIZED";
    case CUSOLVER_STATUS_ALLOC_FAILED: return "CUSOLVER_STATUS_ALLOC_FAILED";
    case CUSOLVER_STATUS_INVALID_VALUE: return "CUSOLVER_STATUS_INVALID_VALUE";
    case CUSOLVER_STATUS_ARCH_MISMATCH: return "CUSOLVER_STATUS_ARCH_MISMATCH";
    case CUSOLVER_STATUS_EXECUTION_FAILED: return "CUSOLVER_STATUS_EXECUTION_FAILED";
    case CUSOLVER_STATUS_INTERNAL_ERROR: return "CUSOLVER_STATUS_INTERNAL_ERROR";
    default: return "cuSOLVER status";
  }
}

}  // namespace

void check(cudaError_t status, const char* call, std::string_view purpose) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  fail(call, purpose, std::string(cudaGetErrorName(status)) + ", " + cudaGetErrorString(status), status);
}

void check(cublasStatus_t status, const char* call, std::string_view purpose) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  (void)cudaGetLastError();
  fail(call, purpose, cublasGetStatusString(status), status);
}

void check(cusolverStatus_t status, const char* call, std::string_view purpose) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  (void)cudaGetLastError();
  fail(call, purpose, std::string(words_of(status)) + " (" + std::to_string(static_cast<int>(status)) + ")", status);
}

DeviceScope::DeviceScope(int device) {
  check(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ == device) return;
  check(cudaSetDevice(device), "cudaSetDevice", "device " + std::to_string(device));
  changed_ = true;
}

DeviceScope::~DeviceScope() {
  if (changed_ && cudaSetDevice(previous_) != cudaSuccess) (void)cudaGetLastError();  // nobody to tell
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
