// What the host asks the device for, at the sizes of real layers: grids, threads and shared memory. Results do not show
// whether a launch keeps the rules that make it fast, so that these are tested by themselves. No kernel runs.
#include "kernels/cuda/activations.h"
#include "kernels/cuda/adam8.h"
#include "kernels/cuda/blocks.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/gemm_w4a16.h"
#include "kernels/cuda/gemm_w8a8.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/gptq_dense.h"
#include "kernels/cuda/gptq_update.h"
#include "kernels/cuda/quantize.h"
#include "tests/cuda/machine.h"

namespace nibble {
namespace {

using namespace cuda_test;

struct Asked {
  dim3 grid, block;
  std::size_t shared_bytes;
};

/// The launches of `body`, which do not happen.
template <class Body>
std::vector<Asked> launches_of(const Body& body) {
  static std::vector<Asked> asked;
  asked.clear();
  const auto before = std::exchange(cuda_emulation::run_elsewhere, [](const cuda_emulation::KernelLaunch& launch) {
    asked.push_back({launch.grid, launch.block, launch.shared_bytes});
    return cudaSuccess;
  });
  EXPECT_EQ(body(), cudaSuccess);
  cuda_emulation::run_elsewhere = before;
  return asked;
}

void expect_launch(const Asked& asked, dim3 grid, unsigned threads, std::size_t shared_bytes) {
  EXPECT_EQ(asked.grid.x, grid.x);
  EXPECT_EQ(asked.grid.y, grid.y);
  EXPECT_EQ(asked.grid.z, grid.z);
  EXPECT_EQ(asked.block.x * asked.block.y * asked.block.z, threads);
  EXPECT_EQ(asked.shared_bytes, shared_bytes);
}

/// Memory that nobody touches, aligned as any kernel may want.
alignas(256) unsigned char place[256];
template <class T>
T* some() {
  return reinterpret_cast<T*>(place);
}

cuda::CanonicalMatrix canonical(const char* spec, std::size_t rows, std::size_t cols) {
  cuda::CanonicalMatrix q;
  q.spec = QuantSpec::parse(spec);
  q.rows = rows, q.cols = cols;
  q.pitch = cuda::round_up(cols * static_cast<std::size_t>(q.spec.bits) / 8, 16);
  q.codes = some<std::uint8_t>();
  return q;
}

/// Blocks that add to one tile do so one after the other: at most four, wherever the device has room for more.
TEST(CudaLaunchRules, NoTileIsCutForMoreThanFourBlocks) {
  for (const std::size_t tokens : {1u, 16u, 17u, 64u, 128u, 1000u})
    for (const std::size_t rows : {1u, 128u, 1024u, 4096u, 14336u})
      for (const std::size_t cols : {64u, 4096u, 14336u})
        for (const unsigned room : {1u, 80u, 132u, 528u, 4096u}) {
          const cuda::GemmPlan plan = cuda::plan_gemm_w4a16(tokens, rows, cols, room);
          const std::size_t tiles = std::size_t{plan.token_tiles} * (cuda::round_up(rows, 128) / 128);
          ASSERT_LE(plan.blocks, room);
          ASSERT_LE(plan.blocks, 4 * tiles) << tokens << " x " << rows << " x " << cols << ", room for " << room;
          // Nor fewer blocks than there is room for, where that makes none of them shorter.
          const std::size_t wanted = std::min<std::size_t>({room, 4 * tiles, plan.steps});
          ASSERT_EQ(plan.steps_a_block, (plan.steps + wanted - 1) / wanted);
        }
  EXPECT_EQ(cuda::plan_gemm_w4a16(16, 128, 4096, 132).blocks, 4u);
  EXPECT_EQ(cuda::plan_gemm_w4a16(16, 4096, 4096, 132).blocks, 128u);
}

/// The smallest tile that holds the tokens, and of 8 bits the one that shared memory allows.
TEST(CudaLaunchRules, TilesFitTheTokens) {
  const std::pair<std::size_t, unsigned> w4[] = {{1, 16}, {16, 16}, {17, 32}, {32, 32}, {33, 64}, {64, 64}, {65, 128}};
  for (const auto& [tokens, tile] : w4) EXPECT_EQ(cuda::plan_gemm_w4a16(tokens, 4096, 4096, 100).tile_tokens, tile);
  EXPECT_EQ(cuda::int8_tile(32, 227 << 10).tokens, 32u);
  EXPECT_EQ(cuda::int8_tile(33, 227 << 10).tokens, 128u);
  EXPECT_EQ(cuda::int8_tile(33, 64 << 10).tokens, 32u);
}

/// Activations take 32 KiB of shared memory at most, and no more than the columns need.
TEST(CudaLaunchRules, GemvStages32KiB) {
  const auto asked = [](const char* spec, std::size_t cols, std::size_t tokens) {
    const auto w = canonical(spec, 4096, cols);
    return launches_of(
        [&] { return cuda::gemv(w, some<void>(), DType::f16, cols, tokens, some<void>(), DType::f16, 4096, nullptr); });
  };
  expect_launch(asked("int4-g128-sym", 4096, 1).at(0), 512, 128, 16384);
  expect_launch(asked("int4-g128-sym", 14336, 1).at(0), 512, 128, 32768);
  expect_launch(asked("int4-g128-sym", 14336, 3).at(0), 512, 128, 32768);
  expect_launch(asked("int8", 14336, 8).at(0), 512, 128, 32768);
  expect_launch(asked("int2-g64-sym", 100, 8).at(0), 512, 128, 32768);
  expect_launch(asked("int2-g64-sym", 100, 1).at(0), 512, 128, 4096);
}

/// A thread has eight columns of a row, and a block 256 by 8 rows: as many blocks as that takes, in one wave or many.
TEST(CudaLaunchRules, DecodersHaveAThreadForEightColumns) {
  const auto q = canonical("int4-g128-sym", 4096, 14336);
  const auto decoded =
      launches_of([&] { return cuda::dequantize(q, 0, some<void>(), DType::f16, 4096, 14336, nullptr); });
  expect_launch(decoded.at(0), dim3(512, 56), 256, 0);
  const auto blocks = launches_of([] {
    return cuda::dequantize_blocks(BlockType::q4_k, some<void>(), 4096, 14336, some<void>(), DType::f16, 14336,
                                   nullptr);
  });
  expect_launch(blocks.at(0), dim3(512, 56), 256, 0);
  const auto gathered = launches_of([] {
    return cuda::gather_columns({some<void>(), DType::f16, 2048, 4096, 4096}, some<std::int32_t>(), 4096, nullptr,
                                some<void>(), 4096, nullptr);
  });
  expect_launch(gathered.at(0), dim3(4, 2048), 128, 0);
}

/// A group of 128 is fitted by 16 lanes, a row of 14336 by warps that read 4096 elements each; the codes as decoders.
TEST(CudaLaunchRules, QuantizersShareGroupsAmongLanes) {
  const auto asked = [](const char* spec) {
    cuda::CanonicalBuffers to;
    to.codes = some<std::uint8_t>(), to.pitch = 14336, to.scales = to.zero_points = some<void>();
    return launches_of([&] {
      return cuda::quantize(some<void>(), DType::f16, 4096, 14336, 14336, QuantSpec::parse(spec), to, some<void>(),
                            some<cuda::QuantizeStatus>(), nullptr);
    });
  };
  const auto grouped = asked("int4-g128-sym"), by_row = asked("int8");
  ASSERT_EQ(grouped.size(), 3u);
  expect_launch(grouped[1], 4096 * 112 * 16 / 256, 256, 0);
  expect_launch(grouped[2], dim3(512, 56), 256, 0);
  ASSERT_EQ(by_row.size(), 4u);
  expect_launch(by_row[1], 4096 * 4 * 32 / 256, 256, 0);
  expect_launch(by_row[2], 16, 256, 0);
  expect_launch(by_row[3], dim3(512, 56), 256, 0);
}

/// A block a token; of the search for outliers, one for 64 tokens of 2048 columns.
TEST(CudaLaunchRules, ActivationsHaveABlockAToken) {
  const cuda::ActivationMatrix x{some<void>(), DType::f16, 2048, 4096, 4096};
  const auto rounded = launches_of([&] {
    return cuda::round_activations(x, nullptr, some<std::int8_t>(), 4096, some<float>(), some<unsigned long long>(),
                                   nullptr);
  });
  expect_launch(rounded.at(1), 2048, 256, 0);
  const auto outliers = launches_of([&] {
    return cuda::find_outlier_columns(x, 6, some<std::uint32_t>(), some<std::int32_t>(), some<std::int32_t>(), nullptr);
  });
  expect_launch(outliers.at(1), dim3(2, 32), 256, 0);
}

/// A warp a block of 256 parameters, and of GPTQ a thread a row and many blocks for what is done element by element.
TEST(CudaLaunchRules, TrainingAndGptqFillTheDevice) {
  const auto updated =
      launches_of([] { return cuda::adam8(some<void>(), some<void>(), DType::bf16, 1 << 24, {}, {}, nullptr); });
  expect_launch(updated.at(0), (1 << 24) / 2048, 256, 0);
  cuda::GptqStep step;
  step.rows = 4096, step.cols = 14336, step.end = 128, step.groups = 112;
  const auto solved = launches_of([&] { return cuda::gptq_update(step, cuda::GptqBuffers<float>{}, nullptr); });
  expect_launch(solved.at(0), 64, 64, 32768);
  const auto fitted = launches_of([&] { return cuda::gptq_fit(step, cuda::GptqBuffers<float>{}, nullptr); });
  expect_launch(fitted.at(0), dim3(64, 112), 64, 0);
  const auto downcasts =
      launches_of([] { return cuda::gptq_downcast(some<double>(), some<float>(), 1 << 24, nullptr); });
  expect_launch(downcasts.at(0), 4096, 128, 0);
  const auto products = launches_of(
      [] { return cuda::gptq_row_products(some<float>(), some<float>(), 4000, 4096, some<double>(), nullptr); });
  expect_launch(products.at(0), 4000, 128, 0);
}

}  // namespace
}  // namespace nibble
