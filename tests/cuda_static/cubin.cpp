#include "tests/cuda_static/cubin.h"

#include <cuda_occupancy.h>
#include <cuda_runtime_api.h>
#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <stdexcept>

namespace nibble::cuda_static {

namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

template <class T>
T at(const std::string& bytes, std::size_t offset) {
  if (offset > bytes.size() || sizeof(T) > bytes.size() - offset) throw std::runtime_error("a cubin that ends early");
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

const std::map<unsigned, const char*>& operations() {
  static const std::map<unsigned, const char*> names{
      {0x03c, "HMMA"},  {0x037, "IMMA"},  {0x03b, "LDSM"},  {0x1ae, "LDGSTS"}, {0x181, "LDG"},  {0x186, "STG"},
      {0x184, "LDS"},   {0x188, "STS"},   {0x183, "LDL"},   {0x187, "STL"},    {0x11d, "BAR"},  {0x012, "LOP3"},
      {0x031, "HFMA2"}, {0x030, "HADD2"}, {0x032, "HMUL2"}, {0x189, "SHFL"},   {0x023, "FFMA"}, {0x021, "FADD"},
      {0x020, "FMUL"},  {0x016, "PRMT"},  {0x024, "IMAD"},  {0x010, "IADD3"},  {0x019, "SHF"},  {0x106, "I2F"},
      {0x045, "I2FP"},  {0x105, "F2I"},   {0x147, "BRA"}};
  return names;
}
bool has_width(const std::string& name) {
  return name == "LDG" || name == "STG" || name == "LDS" || name == "STS" || name == "LDGSTS";
}

constexpr std::size_t kInstruction = 16;

struct Instruction {
  std::uint64_t low, high;
  [[nodiscard]] std::string name() const {
    static const std::map<unsigned, const char*> widths{{4, ".32"}, {5, ".64"}, {6, ".128"}};
    const auto found = operations().find(static_cast<unsigned>(low & 0x1ff));
    std::string name = found == operations().end() ? "other" : found->second;
    if (has_width(name))
      if (const auto width = widths.find(static_cast<unsigned>(high >> 9 & 7)); width != widths.end())
        name += width->second;
    return name;
  }
};

/// One kernel's code.
struct Code {
  std::string kernel;  ///< Mangled name.
  int architecture;    ///< 80 for sm_80.
  std::vector<Instruction> instructions;

  [[nodiscard]] InstructionCounts count(std::size_t begin, std::size_t end) const {
    InstructionCounts counts;
    for (std::size_t n = begin; n < end; ++n) ++counts[instructions[n].name()];
    return counts;
  }
  /// Where the branch at n leads to, relative to the one after it. The distance is in bits 32 … 81, in bytes; from
  /// sm_90 on in words of 4 bytes, the low 8 bits of which are apart.
  [[nodiscard]] std::ptrdiff_t distance(std::size_t n) const {
    const auto [low, high] = instructions[n];
    const std::uint64_t upper = high & 0x3ffff;
    const auto extended = [](std::uint64_t value, unsigned bits) {
      return static_cast<std::int64_t>(value << (64 - bits)) >> (64 - bits);
    };
    const std::int64_t bytes = architecture < 90
                                   ? extended(upper << 32 | low >> 32, 50)
                                   : 4 * extended((upper << 30 | low >> 34) << 8 | (low >> 16 & 0xff), 56);
    return static_cast<std::ptrdiff_t>(bytes / static_cast<std::int64_t>(kInstruction));
  }
};

/// Instructions from begin to a branch back to it, the last before end.
struct Loop {
  std::size_t begin, end;
  [[nodiscard]] bool contains(const Loop& other) const { return begin <= other.begin && other.end <= end; }
};

std::vector<Code> read_code(const std::string& path) {
  const std::string bytes = read_file(path);
  const auto header = at<Elf64_Ehdr>(bytes, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
    throw std::runtime_error(path + " is no 64-bit ELF");
  const auto section = [&](std::size_t n) { return at<Elf64_Shdr>(bytes, header.e_shoff + n * sizeof(Elf64_Shdr)); };
  const std::size_t names = section(header.e_shstrndx).sh_offset;
  const std::string prefix = ".text.";
  std::vector<Code> out;
  for (std::size_t n = 0; n < header.e_shnum; ++n) {
    const Elf64_Shdr s = section(n);
    if (names + s.sh_name >= bytes.size()) throw std::runtime_error("a cubin that ends early");
    const std::string name = bytes.c_str() + names + s.sh_name;
    if (!name.starts_with(prefix)) continue;
    Code code{name.substr(prefix.size()), static_cast<int>(header.e_flags >> 8 & 0xff), {}};
    if (code.architecture < 75 || code.architecture > 90)
      throw std::runtime_error(path + ": machine code of an architecture whose instructions are not known here");
    for (std::size_t offset = 0; offset + kInstruction <= s.sh_size; offset += kInstruction)
      code.instructions.push_back(
          {at<std::uint64_t>(bytes, s.sh_offset + offset), at<std::uint64_t>(bytes, s.sh_offset + offset + 8)});
    out.push_back(std::move(code));
  }
  return out;
}

}  // namespace

std::map<std::string, InstructionCounts> count_instructions(const std::string& cubin_path) {
  std::map<std::string, InstructionCounts> out;
  for (const Code& code : read_code(cubin_path)) out[code.kernel] = code.count(0, code.instructions.size());
  return out;
}

std::map<std::string, std::vector<InstructionCounts>> count_loops(const std::string& cubin_path,
                                                                  const std::string& operation) {
  std::map<std::string, std::vector<InstructionCounts>> out;
  for (const Code& code : read_code(cubin_path)) {
    std::vector<Loop> loops;
    for (std::size_t n = 0; n < code.instructions.size(); ++n) {
      if (code.instructions[n].name() != "BRA") continue;
      const std::ptrdiff_t target = static_cast<std::ptrdiff_t>(n) + 1 + code.distance(n);
      if (target < 0 || target > static_cast<std::ptrdiff_t>(code.instructions.size()))
        throw std::runtime_error(cubin_path + ": a branch out of " + code.kernel);
      const Loop loop{static_cast<std::size_t>(target), n + 1};
      if (loop.begin <= n && count_of(code.count(loop.begin, loop.end), {operation}) > 0) loops.push_back(loop);
    }
    std::stable_sort(loops.begin(), loops.end(), [](Loop a, Loop b) { return a.end - a.begin < b.end - b.begin; });
    std::vector<Loop> innermost;
    for (const Loop loop : loops) {
      if (std::any_of(innermost.begin(), innermost.end(), [&](Loop l) { return loop.contains(l); })) continue;
      innermost.push_back(loop);
      out[code.kernel].push_back(code.count(loop.begin, loop.end));
    }
  }
  return out;
}

std::size_t count_of(const InstructionCounts& counts, std::initializer_list<std::string_view> operations) {
  std::size_t n = 0;
  for (const auto& [name, count] : counts)
    for (const std::string_view operation : operations)
      if (std::string_view(name).substr(0, name.find('.')) == operation) n += count;
  return n;
}

std::size_t count_of(const InstructionCounts& counts) {
  std::size_t n = 0;
  for (const auto& [name, count] : counts) n += count;
  return n;
}

std::map<std::string, Resources> read_resources(const std::string& path) {
  std::istringstream text(read_file(path));
  const std::regex entry("Compiling entry function '([^']+)'"), stack(
                                                                    "(\\d+) bytes stack frame, (\\d+) bytes spill "
                                                                    "stores, (\\d+) bytes spill loads");
  const std::regex used("Used (\\d+) registers"), shared("(\\d+) bytes smem");
  std::map<std::string, Resources> out;
  Resources* kernel = nullptr;
  std::smatch match;
  for (std::string line; std::getline(text, line);) {
    if (std::regex_search(line, match, entry)) {
      kernel = &out[match[1]];
    } else if (kernel != nullptr && std::regex_search(line, match, stack)) {
      kernel->stack_bytes = std::stoul(match[1]);
      kernel->spill_store_bytes = std::stoul(match[2]);
      kernel->spill_load_bytes = std::stoul(match[3]);
    } else if (kernel != nullptr && std::regex_search(line, match, used)) {
      kernel->registers = std::stoi(match[1]);
      if (std::regex_search(line, match, shared)) kernel->shared_bytes = std::stoul(match[1]);
    }
  }
  return out;
}

const std::vector<Gpu>& gpus() {
  static const std::vector<Gpu> all{
      {"A100", 8, 0, 108, 2048, 164 << 10, 163 << 10, 2.039e12, 19.5e12, 312e12, 624e12, 108 * 4 * 1.41e9},
      {"RTX 4090", 8, 9, 128, 1536, 100 << 10, 99 << 10, 1.008e12, 82.6e12, 165.2e12, 660.6e12, 128 * 4 * 2.52e9},
      {"H100", 9, 0, 132, 2048, 228 << 10, 227 << 10, 3.35e12, 66.9e12, 989.4e12, 1978.9e12, 132 * 4 * 1.98e9},
  };
  return all;
}

int blocks_per_multiprocessor(const Gpu& gpu, const Resources& kernel, int threads, std::size_t dynamic_shared_bytes) {
  cudaOccDeviceProp device{};
  device.computeMajor = gpu.major;
  device.computeMinor = gpu.minor;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = gpu.threads_per_multiprocessor;
  device.regsPerBlock = device.regsPerMultiprocessor = 64 << 10;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 << 10;
  device.sharedMemPerMultiprocessor = gpu.shared_per_multiprocessor;
  device.sharedMemPerBlockOptin = gpu.shared_per_block;
  device.reservedSharedMemPerBlock = 1 << 10;
  device.numSms = gpu.multiprocessors;
  cudaOccFuncAttributes attributes{};
  attributes.maxThreadsPerBlock = threads;
  attributes.numRegs = kernel.registers;
  attributes.sharedSizeBytes = kernel.shared_bytes;
  attributes.maxDynamicSharedSizeBytes = gpu.shared_per_block;
  attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;  // as launch() asks for
  cudaOccDeviceState state{};
  state.carveoutConfig = 100;
  cudaOccResult result{};
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &attributes, &state, threads, dynamic_shared_bytes) !=
      CUDA_OCC_SUCCESS)
    throw std::runtime_error(std::string("cuda_occupancy.h refuses a kernel for ") + gpu.name);
  return result.activeBlocksPerMultiprocessor;
}

std::vector<Gate> read_gates(const std::string& path) {
  std::vector<Gate> out;
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    for (char& c : line)
      if (c == '|') c = ' ';
    Gate g;
    std::istringstream words(line);
    words >> g.name >> g.registers >> g.shared_bytes >> g.threads >> g.dynamic_shared_bytes >> g.least_blocks[0] >>
        g.least_blocks[1] >> g.least_blocks[2];
    if (words.fail()) throw std::runtime_error(path + ": " + line);
    out.push_back(g);
  }
  return out;
}

const Gate* gate_of(const std::vector<Gate>& all, const std::string& kernel) {
  for (const Gate& g : all)
    if (kernel.find(g.name) != std::string::npos) return &g;
  return nullptr;
}

}  // namespace nibble::cuda_static
