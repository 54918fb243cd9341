// What the compiler says of kernels, read without a GPU and without the toolkit's disassembler.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cuda_static {

/// Counts of instructions in the machine code of each kernel (mangled name), by name: "HMMA", "LDGSTS.128" … Those that
/// are not named in cubin.cpp are under "other". The names of opcodes hold for sm_75 to sm_90: instructions are 16
/// bytes, and the low 9 bits are the operation. NVIDIA does not document this; the tests check it on kernels whose
/// instructions are known. Throws std::runtime_error where the file is no 64-bit ELF.
using InstructionCounts = std::map<std::string, std::size_t>;
std::map<std::string, InstructionCounts> count_instructions(const std::string& cubin_path);
/// The same of each kernel's loops that hold `operation` and no other such loop, the shortest first. Whatever stands
/// between a backward branch and its target counts once, be it on a path that few iterations take. Kernels without such
/// a loop are left out.
std::map<std::string, std::vector<InstructionCounts>> count_loops(const std::string& cubin_path,
                                                                  const std::string& operation);
/// Of all operations that are named, each with any width.
std::size_t count_of(const InstructionCounts& counts, std::initializer_list<std::string_view> operations);
std::size_t count_of(const InstructionCounts& counts);  ///< Of all instructions.

/// What `ptxas -v` tells of one kernel.
struct Resources {
  int registers = 0;
  std::size_t shared_bytes = 0;  ///< Static.
  std::size_t stack_bytes = 0, spill_store_bytes = 0, spill_load_bytes = 0;
};
std::map<std::string, Resources> read_resources(const std::string& path);

/// A GPU, as much as occupancy and the roofline need. Sources: NVIDIA's CUDA programming guide, "Technical
/// specifications per compute capability"; the data sheets of the A100 SXM 80 GB, GeForce RTX 4090 and H100 SXM.
struct Gpu {
  const char* name;
  int major, minor;
  int multiprocessors, threads_per_multiprocessor;
  std::size_t shared_per_multiprocessor, shared_per_block;
  double memory_bandwidth;  ///< Bytes a second.
  double float_peak;        ///< Operations a second, fp32 on CUDA cores.
  double half_tensor_peak;  ///< Operations a second, fp16 with fp32 sums, dense.
  double int8_tensor_peak;
  /// Instructions of warps a second: multiprocessors × 4 schedulers × the boost clock.
  double issue_rate = 0;
};
const std::vector<Gpu>& gpus();

/// Blocks of a kernel that fit on one multiprocessor, by the toolkit's cuda_occupancy.h.
int blocks_per_multiprocessor(const Gpu& gpu, const Resources& kernel, int threads, std::size_t dynamic_shared_bytes);

/// One line of gates.txt: a kernel's ceilings, and how it is launched.
struct Gate {
  std::string name;  ///< What its mangled name contains.
  int registers = 0;
  std::size_t shared_bytes = 0;
  int threads = 0;
  std::size_t dynamic_shared_bytes = 0;
  int least_blocks[3] = {};  ///< On a multiprocessor of each of gpus().
};
std::vector<Gate> read_gates(const std::string& path);
/// The first gate that fits the kernel; null if there is none.
const Gate* gate_of(const std::vector<Gate>& all, const std::string& kernel);

}  // namespace nibble::cuda_static
