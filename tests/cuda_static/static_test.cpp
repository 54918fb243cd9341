// What the compiled kernels must be: no spills, few registers, enough blocks on a multiprocessor, and the instructions
// that the design counts on.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "kernels/cuda/gemm_w4a16.h"
#include "kernels/cuda/gemm_w8a8.h"
#include "tests/cuda_static/cubin.h"

namespace nibble::cuda_static {
namespace {

namespace fs = std::filesystem;
const char* const kArchitectures[] = {"sm_80", "sm_86", "sm_89", "sm_90"};

std::vector<Gate> gates() { return read_gates(NIBBLE_STATIC_GATES); }

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

/// A lane's share of a step of GEMV: 32 codes of each of two rows.
constexpr std::size_t kGemvWeights = 64;

/// Where pieces lie in one group, a step holds a fused multiply-add a weight and token, a few for scales, one
/// subtraction to decode an affine code, a few for zero points, and what takes a code out of its word: one mask and a
/// shift for two or four codes, or one byte permutation; the rest is addresses. A codebook's are shifted one by one.
/// Nothing is converted but zero points and scales.
TEST_P(EveryArchitecture, GemvDecodesWithoutConversions) {
  std::size_t kernels = 0;
  for (const auto& [name, loops] : count_loops(folder() + "/gemv.cubin", "FFMA"))
    for (const std::size_t tokens : {1, 4, 8})
      for (const bool is_codebook : {false, true}) {
        const std::string arguments = std::string(is_codebook ? "ELb1E" : "ELb0E") + "Lb1ELi" + std::to_string(tokens);
        if (name.find(arguments + "EEEv") == std::string::npos) continue;
        ++kernels;
        const InstructionCounts& counts = loops.front();
        const std::size_t products = count_of(counts, {"FFMA"});
        EXPECT_GE(products, tokens * kGemvWeights) << name;
        EXPECT_LE(products, tokens * (kGemvWeights + 4) + 4) << name;
        EXPECT_GE(count_of(counts, {"FADD"}), is_codebook ? 0 : kGemvWeights) << name;
        EXPECT_LE(count_of(counts, {"FADD"}), is_codebook ? 0 : kGemvWeights + 8) << name;
        EXPECT_LE(count_of(counts, {"LOP3", "SHF", "PRMT"}), kGemvWeights * (is_codebook ? 26 : 22) / 10) << name;
        EXPECT_LE(count_of(counts, {"I2F", "I2FP", "F2I"}), 16u) << name;
      }
  EXPECT_EQ(kernels, 3 * 5u) << "2, 3, 4 and 8 bits, and codebooks of 4";
}

/// A tensor-core product's tile: what its kernels' names hold, the fragments of 16 tokens of a warp, and the most
/// instructions of each loop over steps, the shortest first.
struct TensorTile {
  const char* name;
  std::size_t fragments;
  std::vector<std::size_t> most;
};
/// W4A16 has two loops: for groups of 64 columns or more, and of 32, whose scales are applied twice a step. Integer
/// codes, and codebooks.
const TensorTile kW4Tiles[] = {{"Lb0ENS1_6W4TileILj16E", 1, {236, 296}},  {"Lb1ENS1_6W4TileILj16E", 1, {342, 384}},
                               {"Lb0ENS1_6W4TileILj32E", 2, {288, 360}},  {"Lb1ENS1_6W4TileILj32E", 2, {388, 446}},
                               {"Lb0ENS1_6W4TileILj64E", 2, {284, 358}},  {"Lb1ENS1_6W4TileILj64E", 2, {386, 444}},
                               {"Lb0ENS1_6W4TileILj128E", 4, {364, 472}}, {"Lb1ENS1_6W4TileILj128E", 4, {468, 562}}};
const TensorTile kInt8Tiles[] = {{"Int8TileILj32E", 2, {7 * 32}}, {"Int8TileILj128E", 4, {5 * 64}}};

/// Each loop over steps, an innermost one with products, holds all products and each fragment once.
void expect_loop(const std::string& file, const TensorTile& tile, const char* product) {
  std::size_t found = 0;
  for (const auto& [name, loops] : count_loops(file, product)) {
    if (name.find(tile.name) == std::string::npos) continue;
    ++found;
    ASSERT_EQ(loops.size(), tile.most.size()) << name;
    for (std::size_t i = 0; i < loops.size(); ++i) {
      EXPECT_EQ(count_of(loops[i], {product}), 4 * 4 * tile.fragments) << name;
      EXPECT_EQ(count_of(loops[i], {"LDSM"}), 4 * tile.fragments) << name;
      EXPECT_GT(count_of(loops[i], {"LDGSTS"}), 0u) << name << ": copies overlap with products";
      EXPECT_EQ(count_of(loops[i], {"LDG", "STG", "STS"}), 0u) << name << ": all comes by asynchronous copies";
      EXPECT_LE(count_of(loops[i]), tile.most[i]) << name << ", loop " << i;
    }
  }
  EXPECT_GT(found, 0u) << tile.name;
}

TEST_P(EveryArchitecture, TheLoopOverStepsKeepsWithinItsCeiling) {
  for (const TensorTile& tile : kW4Tiles) expect_loop(folder() + "/gemm_w4a16.cubin", tile, "HMMA");
  for (const TensorTile& tile : kInt8Tiles) expect_loop(folder() + "/gemm_w8a8.cubin", tile, "IMMA");
}

/// A step is there once a loop, and holds nothing but its share: 4 depths of 16 (or 32) columns, each a fragment of 16
/// tokens by 4 of 8 outputs; a fragment of activations is one ldmatrix.x4, read ahead of the step once more; stages are
/// filled by asynchronous copies of 16 bytes.
void expect_step(const std::string& name, const InstructionCounts& counts, const char* product,
                 const TensorTile& tile) {
  const std::size_t fragments = tile.most.size() * tile.fragments;
  EXPECT_EQ(counts.contains(product) ? counts.at(product) : 0, 4 * 4 * fragments) << name;
  EXPECT_EQ(counts.contains("LDSM") ? counts.at("LDSM") : 0, (4 + 1) * fragments) << name;
  EXPECT_TRUE(counts.contains("LDGSTS.128")) << name;
  EXPECT_FALSE(counts.contains("LDGSTS.64") || counts.contains("LDGSTS.32")) << name;
}

/// The kernels of a tile, of which there are `each`.
void expect_steps(const std::map<std::string, InstructionCounts>& kernels, const TensorTile& tile, const char* product,
                  std::size_t each) {
  std::size_t found = 0;
  for (const auto& [name, counts] : kernels) {
    if (name.find(tile.name) == std::string::npos) continue;
    ++found;
    expect_step(name, counts, product, tile);
  }
  EXPECT_EQ(found, each) << tile.name;
}

TEST_P(EveryArchitecture, ProductsAreMadeOnTensorCores) {
  const auto w4 = count_instructions(folder() + "/gemm_w4a16.cubin");
  const auto w8 = count_instructions(folder() + "/gemm_w8a8.cubin");
  for (const TensorTile& tile : kW4Tiles) expect_steps(w4, tile, "HMMA", 2);  // fp16, bf16
  for (const TensorTile& tile : kInt8Tiles) expect_steps(w8, tile, "IMMA", 1);
}

/// Integer codes become numbers at one operation a pair: a lane has 64 a step. Where a group begins, four more make its
/// zero points (half), and eight its scales where they are fp16. Codebooks are looked up.
TEST_P(EveryArchitecture, W4A16DecodesAPairInOneInstruction) {
  for (const auto& [name, loops] : count_loops(folder() + "/gemm_w4a16.cubin", "HMMA")) {
    ASSERT_EQ(loops.size(), 2u) << name;
    for (std::size_t groups : {1, 2})
      EXPECT_LE(count_of(loops[groups - 1], {"HADD2", "HFMA2"}), 64 / 2 + groups * (4 + 8)) << name;
  }
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}
std::string ptx_of(const std::string& arch, const std::string& name) {
  std::ifstream file(std::string(NIBBLE_PTX_FILES) + "/" + arch + "/" + name + ".ptx");
  EXPECT_TRUE(file.good()) << arch << " " << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What nvcc was told, before ptxas chose instructions.
TEST(Ptx, HoldsTheDesignsInstructions) {
  for (const char* arch : {"sm_80", "sm_90"}) {
    const std::string w4 = ptx_of(arch, "gemm_w4a16"), w8 = ptx_of(arch, "gemm_w8a8"), gemv = ptx_of(arch, "gemv");
    std::size_t products = 0;
    for (const TensorTile& tile : kW4Tiles) products += tile.most.size() * 16 * tile.fragments;
    for (const char* type : {"f16", "bf16"})
      EXPECT_EQ(occurrences(w4, std::string("mma.sync.aligned.m16n8k16.row.col.f32.") + type), products);
    EXPECT_EQ(occurrences(w8, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"), 16u * (2 + 4));
    for (const std::string& text : {w4, w8}) {
      EXPECT_GT(occurrences(text, "ldmatrix.sync.aligned.m8n8.x4"), 0u);
      EXPECT_GT(occurrences(text, "cp.async.cg.shared.global"), 0u);
      EXPECT_EQ(occurrences(text, "cp.async.ca"), 0u) << "copies of less than 16 bytes";
      EXPECT_EQ(occurrences(text, "cache_hint"), 0u) << "of which ptxas can make an illegal instruction (atoms.h)";
    }
    EXPECT_GT(occurrences(gemv, ".v4"), 0u);
    EXPECT_EQ(occurrences(gemv, ".f64"), 0u) << "arithmetic in double by mistake";
    EXPECT_EQ(occurrences(w4, ".f64"), 0u);
  }
}

/// The lines of gates.txt say what a launch takes.
TEST(Gates, AgreeWithTheTiles) {
  const std::vector<Gate> all = gates();
  const auto expect_tile = [&](const char* name, unsigned threads, std::size_t shared_bytes) {
    const Gate* gate = gate_of(all, std::string("a kernel of ") + name);
    ASSERT_NE(gate, nullptr) << name;
    EXPECT_EQ(gate->threads, static_cast<int>(threads)) << name;
    EXPECT_EQ(gate->dynamic_shared_bytes, shared_bytes) << name;
  };
  for (const std::size_t tokens : {16, 32, 64, 128}) {
    const cuda::GemmTile tile = cuda::w4a16_tile(tokens);
    expect_tile(("W4TileILj" + std::to_string(tokens) + "E").c_str(), tile.threads, tile.shared_bytes);
  }
  for (const std::size_t tokens : {32, 128}) {
    const cuda::Int8TileShape tile = cuda::int8_tile(tokens, 227 << 10);
    expect_tile(("Int8TileILj" + std::to_string(tokens) + "E").c_str(), tile.threads, tile.shared_bytes);
  }
}

/// The counts of one kernel among several.
const InstructionCounts& counts_of(const std::map<std::string, InstructionCounts>& kernels, const char* part) {
  for (const auto& [name, counts] : kernels)
    if (name.find(part) != std::string::npos) return counts;
  throw std::runtime_error(std::string("no kernel ") + part);
}
std::string probe(const char* architecture) { return std::string(NIBBLE_PROBES) + "/" + architecture + "/probe.cubin"; }

/// probe.cu holds one known instruction of each kind that the counts above rest on.
TEST_P(EveryArchitecture, TheCountsAreRightOnAKnownKernel) {
  const auto kernels = count_instructions(probe(GetParam()));
  ASSERT_EQ(kernels.size(), 3u);
  const InstructionCounts& counts = counts_of(kernels, "probe_kernel");
  for (const char* operation : {"HMMA", "IMMA", "LDSM", "LDGSTS.128", "LDG.128", "STG.128", "SHFL"})
    EXPECT_TRUE(counts.contains(operation)) << operation;
  EXPECT_EQ(counts.at("HMMA"), 1u);
  EXPECT_EQ(counts.at("LDSM"), 1u);
  EXPECT_EQ(counts.at("LDGSTS.128"), 1u);
  EXPECT_TRUE(counts.contains("LDL") && counts.contains("STL")) << "a local array that must be found";
  const InstructionCounts& conversions = counts_of(kernels, "probe_conversion_kernel");
  EXPECT_EQ(count_of(conversions, {"I2F", "I2FP"}), 1u);
  EXPECT_EQ(count_of(conversions, {"F2I"}), 1u);
  EXPECT_EQ(count_of(conversions, {"LDG"}), 2u);
}

TEST_P(EveryArchitecture, TheInnermostLoopIsFoundInAKnownKernel) {
  const InstructionCounts whole = counts_of(count_instructions(probe(GetParam())), "probe_loop_kernel");
  EXPECT_EQ(whole.at("HMMA"), 4u);
  const auto loops = count_loops(probe(GetParam()), "HMMA");
  EXPECT_EQ(loops.size(), 1u) << "the other kernels multiply outside of loops";
  const std::vector<InstructionCounts>& found = loops.begin()->second;
  ASSERT_NE(loops.begin()->first.find("probe_loop_kernel"), std::string::npos);
  ASSERT_EQ(found.size(), 1u) << "the loop around it is none of its own";
  EXPECT_EQ(found[0].at("HMMA"), 1u);
  EXPECT_LT(count_of(found[0]), count_of(whole) / 2);
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
