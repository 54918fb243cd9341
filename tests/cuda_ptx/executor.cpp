// Linked into a test of kernels, this takes their launches from the emulation to the interpreter of PTX.
//
// A kernel is found by its mangled name, which nvcc and the host's compiler agree on. Each launch runs twice from the
// same device memory: the PTX of the file that NIBBLE_PTX names, and the emulation. Whatever byte of device memory
// differs afterwards is an error. That holds for matrix products, too: both add exact products in double, by ascending
// column, and round once, where a device rounds in an order of its own; what a device may deviate by is the bound of
// the test's own comparison with exact values. The test goes on with the interpreter's results.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/runtime/launch_hook.h"
#include "tests/cuda_emulation/runtime/runtime.h"
#include "tests/cuda_ptx/interpreter.h"

namespace nibble::cuda_ptx {

namespace {

using cuda_emulation::KernelLaunch;
using Snapshot = std::vector<std::vector<std::byte>>;

/// The PTX texts that NIBBLE_PTX lists, separated by ":".
const std::vector<Module>& modules() {
  static const std::vector<Module> all = [] {
    std::vector<Module> out;
    const char* list = std::getenv("NIBBLE_PTX");
    std::istringstream paths(list == nullptr ? "" : list);
    for (std::string path; std::getline(paths, path, ':');) {
      std::ifstream file(path);
      if (!file) throw Fault("cannot read " + path);
      std::ostringstream text;
      text << file.rdbuf();
      out.emplace_back(text.str());
    }
    return out;
  }();
  return all;
}

std::string name_of(const void* kernel) {
  Dl_info info{};
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr || info.dli_saddr != kernel)
    throw Fault("a kernel without a name");
  return info.dli_sname;
}

const Module& module_of(const std::string& kernel) {
  for (const Module& m : modules())
    if (m.has(kernel)) return m;
  throw Fault("no PTX of " + kernel + " in NIBBLE_PTX");
}

Launch launch_of(const KernelLaunch& from) {
  Launch to{
      {from.grid.x, from.grid.y, from.grid.z}, {from.block.x, from.block.y, from.block.z}, from.shared_bytes, {}, 0};
  for (const KernelLaunch::Parameter& p : from.parameters) {
    to.parameters.resize((to.parameters.size() + p.alignment - 1) / p.alignment * p.alignment);
    const auto* bytes = static_cast<const std::byte*>(p.data);
    to.parameters.insert(to.parameters.end(), bytes, bytes + p.bytes);
  }
  const cuda_emulation::Options& options = cuda_emulation::options();
  if (options.order == cuda_emulation::ThreadOrder::descending) to.seed = 1;
  if (options.order == cuda_emulation::ThreadOrder::random) to.seed = 1 + static_cast<unsigned>(options.seed);
  return to;
}

Snapshot snapshot() {
  Snapshot out;
  for (const auto buffer : cuda_emulation::device_memory()) out.emplace_back(buffer.begin(), buffer.end());
  return out;
}
void restore(const Snapshot& snapshot) {
  const auto buffers = cuda_emulation::device_memory();
  for (std::size_t n = 0; n < buffers.size(); ++n)
    std::copy(snapshot[n].begin(), snapshot[n].end(), buffers[n].begin());
}

void compare(const std::string& kernel, const Snapshot& interpreted, const Snapshot& emulated) {
  for (std::size_t n = 0; n < interpreted.size(); ++n) {
    const auto [a, b] = std::mismatch(interpreted[n].begin(), interpreted[n].end(), emulated[n].begin());
    if (a == interpreted[n].end()) continue;
    throw Fault(kernel + ": PTX and emulation differ in a buffer of " + std::to_string(interpreted[n].size()) +
                " bytes at byte " + std::to_string(a - interpreted[n].begin()));
  }
}

/// Whether no two lanes may meet in a bank of shared memory: the tensor-core products, and those of few tokens whose
/// codes are not looked up.
bool is_free_of_bank_conflicts(const std::string& kernel) {
  for (const char* part : {"gemm_w4a16_kernel", "gemm_w8a8_kernel"})
    if (kernel.find(part) != std::string::npos) return true;
  const std::size_t gemv = kernel.find("gemv_kernelILi");  // <bits, codebook, …>
  return gemv != std::string::npos && kernel.compare(gemv + 16, 3, "Lb0") == 0;
}

cudaError_t run_ptx(const KernelLaunch& from) {
  const std::string name = name_of(from.kernel);
  const Launch launch = launch_of(from);
  if (launch.grid.count() == 0 || launch.block.count() == 0) return cudaErrorInvalidConfiguration;
  MemoryMap memory;
  for (const auto buffer : cuda_emulation::device_memory()) memory.add(buffer.data(), buffer.size());
  const Snapshot before = snapshot();
  const cudaError_t status = from.emulate();
  if (status != cudaSuccess) return status;
  const Snapshot emulated = snapshot();
  restore(before);
  const Statistics statistics = module_of(name).run(name, launch, memory);
  if (is_free_of_bank_conflicts(name) && statistics.bank_conflict_ratio() != 1.0)
    throw Fault(name + ": bank conflicts: " + std::to_string(statistics.shared_passes) + " passes in place of " +
                std::to_string(statistics.shared_ideal_passes));
  compare(name, snapshot(), emulated);
  return cudaSuccess;
}

const bool takes_launches = [] {
  cuda_emulation::run_elsewhere = run_ptx;
  return true;
}();

}  // namespace

}  // namespace nibble::cuda_ptx
