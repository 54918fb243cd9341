// What the compiled kernels must be: no spills, few registers, enough blocks on a multiprocessor, and the instructions
// that the design counts on.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/cuda_static/cubin.h"

namespace nibble::cuda_static {
namespace {

namespace fs = std::filesystem;
const char* const kArchitectures[] = {"sm_80", "sm_86", "sm_89", "sm_90"};

/// One line of gates.txt.
struct Gate {
  std::string name;
  int registers = 0;
  std::size_t shared_bytes = 0;
  int threads = 0;
  std::size_t dynamic_shared_bytes = 0;
  int least_blocks[3] = {};
};
std::vector<Gate> gates() {
  std::vector<Gate> out;
  std::ifstream file(NIBBLE_STATIC_GATES);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    for (char& c : line)
      if (c == '|') c = ' ';
    Gate g;
    std::istringstream words(line);
    words >> g.name >> g.registers >> g.shared_bytes >> g.threads >> g.dynamic_shared_bytes >> g.least_blocks[0] >>
        g.least_blocks[1] >> g.least_blocks[2];
    if (words.fail()) throw std::runtime_error("gates.txt: " + line);
    out.push_back(g);
  }
  return out;
}
const Gate* gate_of(const std::vector<Gate>& all, const std::string& kernel) {
  for (const Gate& g : all)
    if (kernel.find(g.name) != std::string::npos) return &g;
  return nullptr;
}

std::vector<fs::path> files(const std::string& folder, const std::string& end) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().string().ends_with(end)) out.push_back(entry.path());
  return out;
}

class EveryArchitecture : public testing::TestWithParam<const char*> {
 protected:
  [[nodiscard]] static std::string folder() { return std::string(NIBBLE_CUBINS) + "/" + GetParam(); }
};

TEST_P(EveryArchitecture, KernelsKeepWithinTheirCeilings) {
  const std::vector<Gate> all = gates();
  std::size_t kernels = 0;
  for (const fs::path& file : files(folder(), ".resources.txt"))
    for (const auto& [name, r] : read_resources(file)) {
      ++kernels;
      EXPECT_EQ(r.spill_store_bytes + r.spill_load_bytes, 0u) << name << " spills";
      EXPECT_EQ(r.stack_bytes, 0u) << name << " has a stack";
      const Gate* gate = gate_of(all, name);
      ASSERT_NE(gate, nullptr) << name << " has no line in gates.txt";
      EXPECT_GT(r.registers, 0) << name;
      EXPECT_LE(r.registers, gate->registers) << name;
      EXPECT_LE(r.shared_bytes, gate->shared_bytes) << name;
    }
  EXPECT_GT(kernels, 0u);
}

TEST_P(EveryArchitecture, EnoughBlocksFitOnAMultiprocessor) {
  const std::vector<Gate> all = gates();
  const std::string number = std::string(GetParam()).substr(3);
  for (std::size_t n = 0; n < gpus().size(); ++n) {
    const Gpu& gpu = gpus()[n];
    if (std::to_string(10 * gpu.major + gpu.minor) != number) continue;
    for (const fs::path& file : files(folder(), ".resources.txt"))
      for (const auto& [name, r] : read_resources(file))
        if (const Gate* gate = gate_of(all, name); gate != nullptr)
          EXPECT_GE(blocks_per_multiprocessor(gpu, r, gate->threads, gate->dynamic_shared_bytes), gate->least_blocks[n])
              << name << " on " << gpu.name;
  }
}

TEST_P(EveryArchitecture, NoKernelUsesLocalMemory) {
  std::size_t instructions = 0;
  for (const fs::path& file : files(folder(), ".cubin"))
    for (const auto& [name, counts] : count_instructions(file)) {
      EXPECT_FALSE(counts.contains("LDL")) << name;
      EXPECT_FALSE(counts.contains("STL")) << name;
      for (const auto& [operation, count] : counts) instructions += count;
    }
  EXPECT_GT(instructions, 1000u);
}

TEST_P(EveryArchitecture, GemvReadsWeightsSixteenBytesAtATime) {
  std::size_t kernels = 0;
  for (const auto& [name, counts] : count_instructions(folder() + "/gemv.cubin")) {
    // The kernel of 4 bits, <4, codebook, uniform, …>: a lane's 32 codes are one load.
    if (name.find("gemv_kernelILi4E") == std::string::npos) continue;
    ++kernels;
    EXPECT_TRUE(counts.contains("LDG.128")) << name;
    EXPECT_TRUE(counts.contains("FFMA")) << name;
    EXPECT_TRUE(counts.contains("SHFL")) << name;
  }
  EXPECT_GT(kernels, 0u);
}

/// probe.cu holds one known instruction of each kind that the counts above rest on.
TEST_P(EveryArchitecture, TheCountsAreRightOnAKnownKernel) {
  const auto kernels = count_instructions(std::string(NIBBLE_PROBES) + "/" + GetParam() + "/probe.cubin");
  ASSERT_EQ(kernels.size(), 1u);
  const InstructionCounts& counts = kernels.begin()->second;
  for (const char* operation : {"HMMA", "IMMA", "LDSM", "LDGSTS.128", "LDG.128", "STG.128", "SHFL"})
    EXPECT_TRUE(counts.contains(operation)) << operation;
  EXPECT_EQ(counts.at("HMMA"), 1u);
  EXPECT_EQ(counts.at("LDSM"), 1u);
  EXPECT_EQ(counts.at("LDGSTS.128"), 1u);
  EXPECT_TRUE(counts.contains("LDL") && counts.contains("STL")) << "a local array that must be found";
}

INSTANTIATE_TEST_SUITE_P(Cuda, EveryArchitecture, testing::ValuesIn(kArchitectures),
                         [](const auto& info) { return std::string(info.param); });

TEST(Occupancy, FollowsRegistersAndSharedMemory) {
  Resources r;
  r.registers = 128;
  EXPECT_EQ(blocks_per_multiprocessor(gpus()[0], r, 128, 0), 4);         // 65536 / (128·128)
  EXPECT_EQ(blocks_per_multiprocessor(gpus()[0], r, 128, 80 << 10), 2);  // 164 KiB / 81 KiB
  r.registers = 32;
  EXPECT_EQ(blocks_per_multiprocessor(gpus()[1], r, 256, 0), 6);  // 1536 threads
}

}  // namespace
}  // namespace nibble::cuda_static
