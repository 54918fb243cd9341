#include "tests/cuda_emulation/runtime/runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "tests/cuda_emulation/runtime/launch_hook.h"
#include "tests/cuda_emulation/sanitizer.h"

// The types that the toolkit's headers only name.
struct CUstream_st {
  /// A copy to the host: its source as it was in the stream's order, and where that goes once someone waits.
  struct Delivery {
    std::unique_ptr<std::byte[]> bytes;
    void* target;
    std::size_t pitch, width, height;
  };
  std::vector<std::function<void()>> pending;
  std::vector<Delivery> deliveries;
};
struct CUevent_st {
  bool recorded = false;
};

namespace nibble::cuda_emulation {

namespace {

constexpr unsigned char kPoison = 0xff;  // NaN in every float type
constexpr std::size_t kAlignment = 256;

/// On both sides of an allocation. This code is compiled once, without instrumentation, so that whether the program
/// that links it detects bounds is asked when it runs: there nobody may read the guards either, from the first byte on.
constexpr std::size_t kGuard = 4096;  // a page, so that what is mapped begins at one, too
constexpr unsigned char kGuardByte = 0xa5;
/// From here on an allocation is addresses without memory behind them, which begin as zeros; pages come as they are
/// written. For tests of indices beyond 32 bits.
constexpr std::size_t kMinMapped = std::size_t{1} << 30;

struct State {
  std::recursive_mutex mutex;
  Computer computer;
  std::map<const std::byte*, std::size_t> allocations;
  std::set<cudaStream_t> streams;
  std::set<cudaEvent_t> events;
  std::map<std::string, int> handles;
  std::vector<std::string> faults;
  std::map<std::string, std::size_t> counts;
  CUstream_st null_stream;
  std::size_t calls = 0, in_use = 0, peak = 0, fail_at = 0;
  bool will_fail = false;
  std::string failed;
  int current_device = 0;
  cudaError_t last_error = cudaSuccess;
};
State& state() {
  static State s;
  return s;
}
using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t record(cudaError_t status) {
  if (status != cudaSuccess) state().last_error = status;
  return status;
}

CUstream_st* find_stream(cudaStream_t stream) {
  if (stream == nullptr) return &state().null_stream;
  if (state().streams.count(stream) != 0) return stream;
  detail::fault("work was put on a stream that does not exist");
  return nullptr;
}

void run_pending(CUstream_st& stream) {
  for (const auto& action : stream.pending) action();
  stream.pending.clear();
}

void wait_for(CUstream_st& stream) {
  run_pending(stream);
  for (const auto& d : stream.deliveries)
    for (std::size_t r = 0; r < d.height; ++r)
      std::memcpy(static_cast<std::byte*>(d.target) + r * d.pitch, d.bytes.get() + r * d.width, d.width);
  stream.deliveries.clear();
}

void wait_for_all() {
  wait_for(state().null_stream);
  for (cudaStream_t s : state().streams) wait_for(*s);
}

void guard(std::byte* memory, std::size_t bytes) {
  std::memset(memory - kGuard, kGuardByte, kGuard);
  std::memset(memory + bytes, kGuardByte, kGuard);
  if (!detects_bounds()) return;
  __asan_poison_memory_region(memory - kGuard, kGuard);
  __asan_poison_memory_region(memory + bytes, kGuard);
}

void check_guard(const std::byte* memory, std::size_t bytes) {
  for (std::size_t i = 0; i < kGuard; ++i)
    if (memory[-1 - static_cast<std::ptrdiff_t>(i)] != std::byte{kGuardByte} ||
        memory[bytes + i] != std::byte{kGuardByte})
      return detail::fault("something was written beside an allocation of " + std::to_string(bytes) + " bytes");
}

std::byte* take_memory(std::size_t bytes) {
  if (bytes >= kMinMapped) {
    void* const mapping =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mapping == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapping);
  }
  void* memory = nullptr;
  return posix_memalign(&memory, kAlignment, bytes) == 0 ? static_cast<std::byte*>(memory) : nullptr;
}

void* allocate(std::size_t bytes) {
  State& s = state();
  std::byte* const raw = take_memory(bytes + 2 * kGuard);
  if (raw == nullptr) return nullptr;
  std::byte* const memory = raw + kGuard;
  if (bytes + 2 * kGuard < kMinMapped) std::memset(memory, kPoison, bytes);
  guard(memory, bytes);
  s.allocations[memory] = bytes;
  s.in_use += bytes;
  s.peak = std::max(s.peak, s.in_use);
  return memory;
}

void release(std::map<const std::byte*, std::size_t>::iterator at) {
  auto* const memory = const_cast<std::byte*>(at->first);
  const std::size_t bytes = at->second;
  check_guard(memory, bytes);
  state().in_use -= bytes;
  state().allocations.erase(at);
  if (detects_bounds()) {
    __asan_unpoison_memory_region(memory - kGuard, kGuard);
    __asan_unpoison_memory_region(memory + bytes, kGuard);
  }
  if (bytes + 2 * kGuard >= kMinMapped) {
    munmap(memory - kGuard, bytes + 2 * kGuard);
    return;
  }
  std::memset(memory, kPoison, bytes);
  std::free(memory - kGuard);
}

/// A copy of `height` rows, put on a stream as late as a GPU may do it.
cudaError_t copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                 std::size_t height, cudaMemcpyKind kind, CUstream_st& stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (to_pitch < width || from_pitch < width) return record(cudaErrorInvalidPitchValue);
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (!from_device && !to_device) {
    detail::fault("a copy of another kind than host to device, device to host or inside the device");
    return record(cudaErrorInvalidMemcpyDirection);
  }
  const auto extent = [&](std::size_t pitch) { return (height - 1) * pitch + width; };
  if ((from_device && !detail::require_device_memory(from, extent(from_pitch), "the source of a copy")) ||
      (to_device && !detail::require_device_memory(to, extent(to_pitch), "the target of a copy")) ||
      (!from_device && is_device_memory(from, 1)) || (!to_device && is_device_memory(to, 1)))
    return record(cudaErrorInvalidValue);
  if (to_device) {
    stream.pending.push_back([=] {
      for (std::size_t r = 0; r < height; ++r)
        std::memcpy(static_cast<std::byte*>(to) + r * to_pitch, static_cast<const std::byte*>(from) + r * from_pitch,
                    width);
    });
    if (from_device) run_pending(stream);
    return cudaSuccess;
  }
  run_pending(stream);
  CUstream_st::Delivery d{std::make_unique<std::byte[]>(width * height), to, to_pitch, width, height};
  for (std::size_t r = 0; r < height; ++r) {
    std::memcpy(d.bytes.get() + r * width, static_cast<const std::byte*>(from) + r * from_pitch, width);
    std::memset(static_cast<std::byte*>(to) + r * to_pitch, kPoison, width);
  }
  stream.deliveries.push_back(std::move(d));
  return cudaSuccess;
}

cudaError_t launch(cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (detail::begin_call("a kernel launch")) return record(cudaErrorLaunchOutOfResources);
  return detail::catch_up(stream) ? cudaSuccess : record(cudaErrorInvalidResourceHandle);
}

}  // namespace

DeviceModel t4() { return {"Tesla T4", 7, 5, 40, std::size_t{15} << 30, 4 << 20, 64 << 10}; }
DeviceModel a100() { return {"A100-SXM4-80GB", 8, 0, 108, std::size_t{80} << 30, 40 << 20, 163 << 10}; }
DeviceModel rtx4090() { return {"GeForce RTX 4090", 8, 9, 128, std::size_t{24} << 30, 72 << 20, 99 << 10}; }
DeviceModel h100() { return {"H100 SXM", 9, 0, 132, std::size_t{80} << 30, 50 << 20, 227 << 10}; }
DeviceModel v100() { return {"Tesla V100", 7, 0, 80, std::size_t{16} << 30, 6 << 20, 96 << 10}; }

void power_on(Computer computer) {
  State& s = state();
  const Lock lock(s.mutex);
  while (!s.allocations.empty()) release(s.allocations.begin());
  for (cudaStream_t stream : s.streams) delete stream;
  for (cudaEvent_t event : s.events) delete event;
  s.streams.clear();
  s.events.clear();
  s.handles.clear();
  s.faults.clear();
  s.counts.clear();
  s.null_stream = {};
  s.calls = s.in_use = s.peak = 0;
  s.will_fail = false;
  s.failed.clear();
  s.current_device = 0;
  s.last_error = cudaSuccess;
  s.computer = std::move(computer);
  on_launch = launch;
}

std::string leaks() {
  const Lock lock(state().mutex);
  std::string out;
  for (const auto& [memory, bytes] : state().allocations) out += std::to_string(bytes) + " bytes of device memory\n";
  if (!state().streams.empty()) out += std::to_string(state().streams.size()) + " streams\n";
  if (!state().events.empty()) out += std::to_string(state().events.size()) + " events\n";
  for (const auto& [kind, count] : state().handles)
    if (count != 0) out += std::to_string(count) + " × " + kind + "\n";
  return out;
}

std::string faults() {
  const Lock lock(state().mutex);
  std::string out;
  for (const auto& [memory, bytes] : state().allocations) check_guard(memory, bytes);
  for (const std::string& f : state().faults) out += f + "\n";
  return out;
}

std::size_t bytes_in_use() { return state().in_use; }
std::size_t peak_bytes() { return state().peak; }
std::size_t calls() { return state().calls; }
std::size_t calls_of(const std::string& name) {
  const Lock lock(state().mutex);
  const auto at = state().counts.find(name);
  return at == state().counts.end() ? 0 : at->second;
}

void fail_once(std::size_t after) {
  const Lock lock(state().mutex);
  state().fail_at = state().calls + after;
  state().will_fail = true;
  state().failed.clear();
}
std::string failed_call() { return state().failed; }

std::vector<std::span<std::byte>> device_memory() {
  std::vector<std::span<std::byte>> out;
  for (const auto& [memory, bytes] : state().allocations) out.emplace_back(const_cast<std::byte*>(memory), bytes);
  return out;
}

bool is_device_memory(const void* p, std::size_t bytes) {
  const Lock lock(state().mutex);
  const auto* first = static_cast<const std::byte*>(p);
  auto at = state().allocations.upper_bound(first);
  if (at == state().allocations.begin()) return false;
  --at;
  const auto offset = static_cast<std::size_t>(first - at->first);
  return offset < at->second && bytes <= at->second - offset;
}

namespace detail {

bool begin_call(const char* name) {
  State& s = state();
  const Lock lock(s.mutex);
  ++s.counts[name];
  const bool fails = s.will_fail && s.calls == s.fail_at;
  ++s.calls;
  if (fails) {
    s.will_fail = false;
    s.failed = name;
  }
  return fails;
}

void fault(const std::string& what) {
  const Lock lock(state().mutex);
  state().faults.push_back(what);
}

bool require_device_memory(const void* p, std::size_t bytes, const char* who) {
  if (is_device_memory(p, bytes)) return true;
  fault(std::string(who) + ": " + std::to_string(bytes) + " bytes do not lie in one allocation of the device");
  return false;
}

bool catch_up(cudaStream_t stream) {
  const Lock lock(state().mutex);
  CUstream_st* s = find_stream(stream);
  if (s == nullptr) return false;
  run_pending(*s);
  return true;
}

void count_handle(const char* kind, int change) {
  const Lock lock(state().mutex);
  state().handles[kind] += change;
}

}  // namespace detail

}  // namespace nibble::cuda_emulation

// The runtime's entry points.

using namespace nibble::cuda_emulation;

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  *version = state().computer.driver_version;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaGetDeviceCount")) return record(cudaErrorInitializationError);
  if (state().computer.driver_version < CUDART_VERSION) return record(cudaErrorInsufficientDriver);
  if (state().computer.devices.empty()) return record(cudaErrorNoDevice);
  *count = static_cast<int>(state().computer.devices.size());
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  if (detail::begin_call("cudaGetDevice")) return record(cudaErrorInitializationError);
  *device = state().current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (detail::begin_call("cudaSetDevice")) return record(cudaErrorInvalidDevice);
  if (device < 0 || device >= static_cast<int>(state().computer.devices.size())) return record(cudaErrorInvalidDevice);
  state().current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (detail::begin_call("cudaGetDeviceProperties")) return record(cudaErrorInvalidDevice);
  const DeviceModel& model = state().computer.devices.at(static_cast<std::size_t>(device));
  *properties = {};
  std::strncpy(properties->name, model.name.c_str(), sizeof properties->name - 1);
  properties->major = model.major;
  properties->minor = model.minor;
  properties->multiProcessorCount = model.multiprocessors;
  properties->totalGlobalMem = model.memory_bytes;
  properties->l2CacheSize = model.l2_bytes;
  properties->sharedMemPerBlockOptin = model.shared_bytes_optin;
  properties->warpSize = 32;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (detail::begin_call("cudaDeviceGetAttribute")) return record(cudaErrorInvalidDevice);
  if (device < 0 || device >= static_cast<int>(state().computer.devices.size())) return record(cudaErrorInvalidDevice);
  const DeviceModel& model = state().computer.devices[static_cast<std::size_t>(device)];
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = model.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = model.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = model.multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(model.shared_bytes_optin); break;
    case cudaDevAttrL2CacheSize: *value = model.l2_bytes; break;
    default: detail::fault("an attribute that the emulated device does not know"); return record(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

// By threads and shared memory alone; registers are the compiler's, and there is none here.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads, size_t shared_bytes) {
  if (detail::begin_call("cudaOccupancyMaxActiveBlocksPerMultiprocessor")) return record(cudaErrorInvalidValue);
  const DeviceModel& model = state().computer.devices.at(static_cast<std::size_t>(state().current_device));
  const std::size_t system_bytes = 1024, most_threads = model.major == 7 ? 1024 : 2048;
  if (shared_bytes > model.shared_bytes_optin) return record(cudaErrorInvalidValue);
  const std::size_t by_memory = (model.shared_bytes_optin + system_bytes) / (shared_bytes + system_bytes);
  *blocks = static_cast<int>(std::min(by_memory, most_threads / static_cast<std::size_t>(threads)));
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const Lock lock(state().mutex);
  return std::exchange(state().last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() { return state().last_error; }
const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInitializationError: return "cudaErrorInitializationError";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    default: return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorMemoryAllocation ? "out of memory" : "as the emulated runtime was told to say";
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaMalloc")) return record(cudaErrorMemoryAllocation);
  const std::size_t device = static_cast<std::size_t>(state().current_device);
  if (device >= state().computer.devices.size()) return record(cudaErrorNoDevice);
  if (bytes > state().computer.devices[device].memory_bytes) return record(cudaErrorMemoryAllocation);
  *memory = bytes == 0 ? nullptr : allocate(bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  const Lock lock(state().mutex);
  if (memory == nullptr) return cudaSuccess;
  wait_for_all();
  const auto at = state().allocations.find(static_cast<const std::byte*>(memory));
  if (at == state().allocations.end()) {
    detail::fault("cudaFree of what is no allocation");
    return record(cudaErrorInvalidValue);
  }
  release(at);
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaMemcpy2DAsync")) return record(cudaErrorInvalidValue);
  CUstream_st* s = find_stream(stream);
  return s == nullptr ? record(cudaErrorInvalidResourceHandle)
                      : copy(to, to_pitch, from, from_pitch, width, height, kind, *s);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaMemcpyAsync")) return record(cudaErrorInvalidValue);
  CUstream_st* s = find_stream(stream);
  return s == nullptr ? record(cudaErrorInvalidResourceHandle) : copy(to, bytes, from, bytes, bytes, 1, kind, *s);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaMemcpy")) return record(cudaErrorInvalidValue);
  const cudaError_t status = copy(to, bytes, from, bytes, bytes, 1, kind, state().null_stream);
  wait_for(state().null_stream);
  return status;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaMemsetAsync")) return record(cudaErrorInvalidValue);
  if (bytes == 0) return cudaSuccess;
  if (!detail::catch_up(stream) || !detail::require_device_memory(to, bytes, "cudaMemsetAsync"))
    return record(cudaErrorInvalidValue);
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaStreamCreateWithFlags")) return record(cudaErrorMemoryAllocation);
  *stream = new CUstream_st;
  state().streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (stream == nullptr || find_stream(stream) == nullptr) return record(cudaErrorInvalidResourceHandle);
  if (!stream->deliveries.empty()) detail::fault("a stream was destroyed with copies to the host under way");
  wait_for(*stream);
  state().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(state().mutex);
  CUstream_st* s = find_stream(stream);
  if (s == nullptr) return record(cudaErrorInvalidResourceHandle);
  const bool fails = detail::begin_call("cudaStreamSynchronize");
  wait_for(*s);
  return fails ? record(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const Lock lock(state().mutex);
  const bool fails = detail::begin_call("cudaDeviceSynchronize");
  wait_for_all();
  return fails ? record(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaEventCreateWithFlags")) return record(cudaErrorMemoryAllocation);
  *event = new CUevent_st;
  state().events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(state().mutex);
  if (state().events.erase(event) == 0) {
    detail::fault("cudaEventDestroy of what is no event");
    return record(cudaErrorInvalidResourceHandle);
  }
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaEventRecord")) return record(cudaErrorInvalidResourceHandle);
  if (state().events.count(event) == 0 || !detail::catch_up(stream)) return record(cudaErrorInvalidResourceHandle);
  event->recorded = true;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaEventSynchronize")) return record(cudaErrorLaunchFailure);
  if (state().events.count(event) == 0) return record(cudaErrorInvalidResourceHandle);
  wait_for_all();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaStreamWaitEvent")) return record(cudaErrorInvalidResourceHandle);
  if (state().events.count(event) == 0 || find_stream(stream) == nullptr) return record(cudaErrorInvalidResourceHandle);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t last) {
  const Lock lock(state().mutex);
  if (detail::begin_call("cudaEventElapsedTime")) return record(cudaErrorNotReady);
  if (!first->recorded || !last->recorded) return record(cudaErrorInvalidResourceHandle);
  *milliseconds = 0;  // there is no clock that would mean anything
  return cudaSuccess;
}

}  // extern "C"
