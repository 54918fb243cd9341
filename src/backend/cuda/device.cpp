// Which device there is, and its memory.
#include <string>

#include "backend/cuda/status.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

int compute_capability(int device) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
         attribute(cudaDevAttrComputeCapabilityMinor, device);
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

/// As much as the runtime knows of why it sees no device.
std::string explain(cudaError_t status) {
  (void)cudaGetLastError();
  if (status == cudaErrorNoDevice) return "there is a driver, but no CUDA device";
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    (void)cudaGetLastError();
    return "there is no NVIDIA driver";
  }
  if (status == cudaErrorInsufficientDriver)
    return "the NVIDIA driver serves CUDA up to " + version(driver) + ", this library was built with " +
           version(CUDART_VERSION);
  return std::string("cudaGetDeviceCount failed: ") + cudaGetErrorName(status) + ", " + cudaGetErrorString(status);
}

class PlainAllocator final : public DeviceAllocator {
 public:
  void* allocate(std::size_t bytes, cudaStream_t) override {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc", std::to_string(bytes) + " bytes");
    return memory;
  }
  void deallocate(void* memory, std::size_t, cudaStream_t) noexcept override {
    // A failure here is an earlier launch's, which the stream's owner hears of where they wait for it.
    if (cudaFree(memory) != cudaSuccess) (void)cudaGetLastError();
  }
};

}  // namespace

std::string why_unavailable(int device) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) return explain(status);
  if (count == 0) return explain(cudaErrorNoDevice);
  if (device < 0 || device >= count)
    return "there is no CUDA device " + std::to_string(device) + ", only " + std::to_string(count);
  try {
    const int capability = compute_capability(device);
    if (capability >= kMinComputeCapability) return {};
    const auto text = [](int c) { return std::to_string(c / 10) + "." + std::to_string(c % 10); };
    return "CUDA device " + std::to_string(device) + " has compute capability " + text(capability) + "; " +
           text(kMinComputeCapability) + " (Turing) is the least";
  } catch (const CudaError& e) {
    return e.what();
  }
}

DeviceInfo device_info(int device) {
  if (const std::string why = why_unavailable(device); !why.empty())
    throw Error(ErrorCode::unsupported, "the backend 'cuda' cannot run here: " + why);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  DeviceInfo out;
  out.ordinal = device;
  out.name = properties.name;
  out.compute_capability = 10 * properties.major + properties.minor;
  out.multiprocessors = properties.multiProcessorCount;
  out.memory_bytes = properties.totalGlobalMem;
  out.l2_bytes = static_cast<std::size_t>(properties.l2CacheSize);
  out.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  return out;
}

DeviceAllocator& default_allocator() {
  static PlainAllocator allocator;
  return allocator;
}

DeviceBuffer::DeviceBuffer(std::size_t bytes, DeviceAllocator& allocator, cudaStream_t stream)
    : allocator_(&allocator), stream_(stream) {
  if (bytes == 0) return;
  data_ = allocator.allocate(bytes, stream);
  size_ = bytes;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) allocator_->deallocate(data_, size_, stream_);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
