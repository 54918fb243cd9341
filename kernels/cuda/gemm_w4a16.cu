#include "kernels/cuda/gemm_w4a16.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "kernels/cuda/gemm_w4a16.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

template <class Tile>
constexpr GemmTile describe() {
  return {Tile::tokens, Tile::threads, Tile::stages, Tile::shared_bytes};
}

/// Calls body(kernel, Tile{}) with the kernel of a tile.
template <class T, bool IsCodebook, class Body>
cudaError_t with_tile(unsigned tokens, const Body& body) {
  switch (tokens) {
    case 16: return body(gemm_w4a16_kernel<T, IsCodebook, W4Tile16>, W4Tile16{});
    case 32: return body(gemm_w4a16_kernel<T, IsCodebook, W4Tile32>, W4Tile32{});
    case 64: return body(gemm_w4a16_kernel<T, IsCodebook, W4Tile64>, W4Tile64{});
    case 128: return body(gemm_w4a16_kernel<T, IsCodebook, W4Tile128>, W4Tile128{});
    default: return cudaErrorInvalidValue;
  }
}
template <class Body>
cudaError_t with_kernel(DType activations, bool is_codebook, unsigned tile_tokens, const Body& body) {
  if (activations == DType::f16)
    return is_codebook ? with_tile<half, true>(tile_tokens, body) : with_tile<half, false>(tile_tokens, body);
  return is_codebook ? with_tile<__nv_bfloat16, true>(tile_tokens, body)
                     : with_tile<__nv_bfloat16, false>(tile_tokens, body);
}

bool is_multiple(const void* p, std::size_t of) { return reinterpret_cast<std::uintptr_t>(p) % of == 0; }

bool is_valid(const PackedW4& w) {
  return w.rows > 0 && w.cols > 0 && w.cols % kGemmChunk == 0 && w.group > 0 &&
         (w.group == 32 || w.group % kGemmDepth == 0) && is_multiple(w.codes, 16) && is_multiple(w.scales, 16) &&
         is_multiple(w.zero_points, 16) && w.is_codebook == (w.codebook != nullptr);
}

/// Blocks of one tile add their sums one after the other, so that more of them soon cost more than they save: on an
/// H100 16 tokens of 4096 x 4096 took 27 µs in up to 12 blocks a tile, 13.8 in 4, 14.8 in 3 and 16.2 in 6.
constexpr std::size_t kMaxBlocksATile = 4;

GemmPlan cut(unsigned tile_tokens, std::size_t tokens, std::size_t rows, std::size_t cols, unsigned blocks) {
  // The kernel counts steps in 32 bits, to one block's run beyond the last.
  constexpr std::size_t most = std::numeric_limits<int>::max();
  GemmPlan plan;
  plan.tile_tokens = tile_tokens;
  const std::size_t token_tiles = (tokens + tile_tokens - 1) / tile_tokens;
  const std::size_t output_tiles = round_up(rows, kGemmOutputs) / kGemmOutputs;
  const std::size_t steps_a_tile = round_up(cols, kGemmDepth) / kGemmDepth;
  if (token_tiles == 0 || output_tiles == 0 || steps_a_tile == 0 || tokens > most ||
      token_tiles > most / steps_a_tile || output_tiles > most / (token_tiles * steps_a_tile))
    return plan;
  plan.token_tiles = static_cast<unsigned>(token_tiles);
  plan.steps_a_tile = static_cast<unsigned>(steps_a_tile);
  plan.steps = static_cast<unsigned>(output_tiles * token_tiles * steps_a_tile);
  const auto most_blocks = static_cast<unsigned>(std::min(output_tiles * token_tiles * kMaxBlocksATile, most));
  const unsigned wanted = std::clamp(blocks, 1u, std::min(plan.steps, most_blocks));
  plan.steps_a_block = plan.steps / wanted + (plan.steps % wanted != 0 ? 1 : 0);
  plan.blocks = plan.steps / plan.steps_a_block + (plan.steps % plan.steps_a_block != 0 ? 1 : 0);
  plan.lock_bytes = round_up(plan.blocks * sizeof(int), 128);
  plan.workspace_bytes = plan.lock_bytes + std::size_t{plan.blocks} * plan.tile_tokens * kGemmOutputs * sizeof(float);
  return plan;
}

/// A plan that does not cover the work would leave results out, or wait for a lock that nobody releases. Cutting by a
/// plan's own number of blocks gives that plan again.
bool is_valid(const GemmPlan& plan, std::size_t tokens, const PackedW4& w) {
  return plan.blocks > 0 &&
         std::find(std::begin(kW4Tiles), std::end(kW4Tiles), plan.tile_tokens) != std::end(kW4Tiles) &&
         plan == cut(plan.tile_tokens, tokens, w.rows, w.cols, plan.blocks);
}

}  // namespace

GemmTile w4a16_tile(std::size_t tokens) {
  switch (w4a16_tile_tokens(tokens)) {
    case 16: return describe<W4Tile16>();
    case 32: return describe<W4Tile32>();
    case 64: return describe<W4Tile64>();
    default: return describe<W4Tile128>();
  }
}

int w4a16_resident_blocks(std::size_t tokens, DType activations, bool is_codebook, int* blocks) {
  if (activations != DType::f16 && activations != DType::bf16) return cudaErrorInvalidValue;
  return with_kernel(activations, is_codebook, w4a16_tile_tokens(tokens), [&]<class Tile>(auto kernel, Tile) {
    return resident_blocks(kernel, Tile::threads, Tile::shared_bytes, blocks);
  });
}

GemmPlan plan_gemm_w4a16(std::size_t tokens, std::size_t rows, std::size_t cols, unsigned blocks) {
  return cut(w4a16_tile_tokens(tokens), tokens, rows, cols, blocks);
}

int gemm_w4a16(const PackedW4& w, const void* x, DType x_type, std::size_t x_stride, std::size_t tokens, void* y,
               DType y_type, std::size_t y_stride, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (!is_valid(w) || (x_type != DType::f16 && x_type != DType::bf16) || !is_multiple(x, 16) ||
      x_stride % kGemmChunk != 0 || x_stride < w.cols || y_stride < w.rows || !is_multiple(workspace, 16) ||
      !is_valid(plan, tokens, w))
    return cudaErrorInvalidValue;
  if (y_type != DType::f32 && y_type != DType::f16 && y_type != DType::bf16) return cudaErrorInvalidValue;
  const W4Arguments args{w,
                         x,
                         x_stride,
                         static_cast<unsigned>(tokens),
                         y,
                         y_type,
                         y_stride,
                         plan.token_tiles,
                         plan.steps_a_tile,
                         plan.steps,
                         plan.steps_a_block,
                         static_cast<int*>(workspace),
                         reinterpret_cast<float4*>(static_cast<unsigned char*>(workspace) + plan.lock_bytes)};
  return with_kernel(x_type, w.is_codebook, plan.tile_tokens, [&]<class Tile>(auto kernel, Tile) {
    return launch(kernel, dim3(plan.blocks), dim3(Tile::threads), Tile::shared_bytes, stream, args);
  });
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
