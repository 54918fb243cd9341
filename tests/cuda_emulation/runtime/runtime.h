// A CUDA machine that is not there: the calls of the CUDA runtime, cuBLAS and cuSOLVER that this library makes, so that
// its host code runs in tests as it is. Link it instead of the toolkit's libraries; the toolkit's headers declare it.
//
// It is stricter than a GPU. Device memory is exact allocations filled with NaN bits; every copy and product is checked
// to lie inside one, writes beside one are noted, and with the address sanitizer no kernel may read or write a byte
// beside one or of one that was freed. An allocation of 1 GiB or more takes addresses and no memory: it begins as
// zeros. Copies to and from the host happen as late as they may: one to the device when the stream's next work needs
// it, so its source must live that long; one to the host when someone waits for the stream, and until then its target
// holds NaN bits. Kernels run at their launch. What a program does wrong is noted in faults(), apart from the error
// that it gets, since programs may swallow errors.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace nibble::cuda_emulation {

struct DeviceModel {
  std::string name;
  int major, minor;
  int multiprocessors;
  std::size_t memory_bytes;
  int l2_bytes;
  std::size_t shared_bytes_optin;
};

DeviceModel t4();
DeviceModel a100();
DeviceModel rtx4090();
DeviceModel h100();
DeviceModel v100();  ///< Too old for this library.

struct Computer {
  int driver_version = 13000;  ///< 0: no driver.
  std::vector<DeviceModel> devices;
};

/// Replaces the machine by a fresh one: nothing allocated, no faults, no failure planned.
void power_on(Computer computer);

/// What the program still holds: "256 bytes of device memory", "a stream", "a cuBLAS handle" … one a line; empty if
/// nothing.
std::string leaks();
/// What it did wrong so far, one a line; empty if nothing.
std::string faults();
/// Device memory in use, and the most since power_on().
std::size_t bytes_in_use();
std::size_t peak_bytes();

/// Calls that can fail, counted since power_on(); launches count too.
std::size_t calls();
/// How many of one name, "cudaMalloc" say.
std::size_t calls_of(const std::string& name);
/// From now on, the call after the next `after` ones fails once, as that call fails when the hardware does.
void fail_once(std::size_t after);
/// The name of the call that fail_once() made fail; empty if none so far.
std::string failed_call();

/// Whether [p, p + bytes) lies in one live allocation.
bool is_device_memory(const void* p, std::size_t bytes);
/// Every live allocation.
std::vector<std::span<std::byte>> device_memory();

namespace detail {

/// For the entry points. True where this call is the one to fail; `name` is noted.
bool begin_call(const char* name);
void fault(const std::string& what);
/// A fault, and false, unless is_device_memory.
bool require_device_memory(const void* p, std::size_t bytes, const char* who);
/// Brings the stream's pending copies into effect on the device. False, with a fault, for a stream that is not alive.
bool catch_up(cudaStream_t stream);
/// Counts handles of a kind, for leaks().
void count_handle(const char* kind, int change);

}  // namespace detail

}  // namespace nibble::cuda_emulation
