// The stages of gemm_w4a16.cuh: what lies in one, and how a block fills it.
#pragma once

#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/gemm_w4a16.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kGemmChunk = 8;  ///< 16-bit elements that one copy moves.
inline constexpr unsigned kW4CodeBytes = kGemmOutputs * kGemmDepth / 2;
inline constexpr unsigned kW4ScaleBytes = 2 * kGemmOutputs * 4;  ///< Two rows of fp32.
inline constexpr unsigned kW4ZeroBytes = 2 * kGemmOutputs;

/// One tile configuration: warps are RowWarps × kGemmColumnWarps, and each computes Tokens / RowWarps × 32 results.
template <unsigned Tokens, unsigned RowWarps, unsigned Stages>
struct W4Tile {
  static constexpr unsigned tokens = Tokens, row_warps = RowWarps, stages = Stages;
  static constexpr unsigned threads = RowWarps * kGemmColumnWarps * kWarp;
  static constexpr unsigned fragments = Tokens / RowWarps / 16;  ///< Of 16 tokens each, in a warp.
  static constexpr unsigned activation_bytes = Tokens * kGemmRowBytes;
  static constexpr unsigned stage_bytes = activation_bytes + kW4CodeBytes + kW4ScaleBytes + kW4ZeroBytes;
  static constexpr std::size_t shared_bytes = std::size_t{Stages} * stage_bytes;
};
using W4Tile16 = W4Tile<16, 1, 4>;
using W4Tile32 = W4Tile<32, 1, 4>;
using W4Tile64 = W4Tile<64, 2, 4>;
using W4Tile128 = W4Tile<128, 2, 3>;

/// What a launch is given.
struct W4Arguments {
  PackedW4 w;
  const void* x;
  std::size_t x_stride;
  unsigned tokens;
  void* y;
  DType y_type;
  std::size_t y_stride;
  unsigned token_tiles, steps_a_tile, steps, steps_a_block;
  int* locks;        ///< One a block.
  float4* partials;  ///< A tile's sums a block, in the order of threads.
};

/// The copies of one tile's steps, each 16 bytes of a thread. A thread finds its places once: from step to step they
/// move by constant distances, so that a step costs it little more than the copies themselves.
template <class Tile>
class W4Fetch {
 public:
  /// From step `step` of the tile that begins at `token` and `output`.
  NIBBLE_DEVICE W4Fetch(const W4Arguments& args, unsigned token, unsigned output, unsigned step) : step_(step) {
    find_activations(args, token, step);
    find_codes(args.w, output, step);
    find_parameters(args.w, output, step);
  }

  /// Starts to copy the next step to a stage: zeros beyond the last token and column. Those addresses are not read.
  NIBBLE_DEVICE void next(unsigned char* stage) {
#pragma unroll
    for (unsigned i = 0; i < kRounds; ++i) {
      const bool is_inside = i * kRows < tokens_inside_ && step_ < steps_inside_;
      cp_async_16(stage + activation_place_ + i * kRows * kGemmRowBytes, activations_ + i * rows_apart_, is_inside);
    }
#pragma unroll
    for (unsigned i = 0; i < kCodeRounds; ++i) {
      cp_async_16(stage + code_place_ + i * Tile::threads * 16, codes_);
      codes_ += codes_apart_;
    }
    if (copies_parameters_ != 0) cp_async_16(stage + parameter_place_, parameters_);
    activations_ += kGemmDepth * 2;
    ++step_;
    if (--steps_in_group_ == 0) {
      steps_in_group_ = steps_a_group_;
      parameters_ += parameters_apart_;
    }
  }

 private:
  static constexpr unsigned kChunks = kGemmDepth / kGemmChunk;    ///< Of a row of activations.
  static constexpr unsigned kRows = Tile::threads / kChunks;      ///< That a round of copies fills.
  static constexpr unsigned kRounds = Tile::tokens / kRows;       ///< Of activations.
  static constexpr unsigned kHalfChunks = kW4CodeBytes / 2 / 16;  ///< Of the codes of 32 columns.
  static constexpr unsigned kCodeRounds = 2 * kHalfChunks / Tile::threads;
  static_assert(kRounds * kRows == Tile::tokens && kRows % 8 == 0, "rounds meet the same chunks of the swizzle");
  static_assert(kCodeRounds * Tile::threads == 2 * kHalfChunks && Tile::threads % kHalfChunks == 0);
  static_assert((kW4ScaleBytes + kW4ZeroBytes) / 16 <= Tile::threads, "a thread copies one chunk of parameters");

  const unsigned char *activations_, *codes_, *parameters_ = nullptr;
  std::size_t rows_apart_, codes_apart_, parameters_apart_ = 0;
  unsigned step_, steps_inside_;  ///< The next one; those whose columns are there.
  unsigned tokens_inside_;        ///< From the thread's first row on.
  unsigned steps_in_group_, steps_a_group_;
  unsigned activation_place_, code_place_, parameter_place_ = 0;
  unsigned copies_parameters_;

  NIBBLE_DEVICE void find_activations(const W4Arguments& args, unsigned token, unsigned step) {
    const unsigned row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const std::size_t col = std::size_t{step} * kGemmDepth + chunk * kGemmChunk;
    activations_ = static_cast<const unsigned char*>(args.x) + ((token + row) * args.x_stride + col) * 2;
    rows_apart_ = kRows * args.x_stride * 2;
    tokens_inside_ = token + row < args.tokens ? args.tokens - token - row : 0;
    steps_inside_ =
        in_register(static_cast<unsigned>((args.w.cols + kGemmDepth - 1 - chunk * kGemmChunk) / kGemmDepth));
    activation_place_ = in_register(swizzled(row, chunk));
  }

  NIBBLE_DEVICE void find_codes(const PackedW4& w, unsigned output, unsigned step) {
    const std::size_t half_step = round_up(w.rows, kGemmOutputs) * 16;  // 32 columns of a row are 16 bytes
    codes_apart_ = in_register(2 / kCodeRounds * half_step);
    codes_ = reinterpret_cast<const unsigned char*>(w.codes) +
             (std::size_t{step} * 2 + threadIdx.x / kHalfChunks) * half_step +
             (output + threadIdx.x % kHalfChunks) * std::size_t{16};
    code_place_ = in_register(Tile::activation_bytes + threadIdx.x * 16);
  }

  /// The first threads copy scales, the next ones zero points, the others nothing.
  NIBBLE_DEVICE void find_parameters(const PackedW4& w, unsigned output, unsigned step) {
    const unsigned rows = w.group < kGemmDepth ? 2 : 1;  // of parameters, in a step
    const std::size_t steps_a_group = rows == 2 ? 1 : w.group / kGemmDepth, padded = round_up(w.rows, kGemmOutputs);
    constexpr std::size_t most = 0xffffffffu;  // there are fewer steps
    steps_a_group_ = static_cast<unsigned>(steps_a_group < most ? steps_a_group : most);
    const unsigned at = step;
    const std::size_t row = std::size_t{at / steps_a_group_} * rows;
    steps_in_group_ = steps_a_group_ - at % steps_a_group_;
    const unsigned scale_size = w.scale_type == ScaleType::f32 ? 4 : 2, chunks = rows * 8 * scale_size;
    const bool is_scale = threadIdx.x < chunks;
    const bool is_zero_point = !is_scale && w.zero_points != nullptr && threadIdx.x < chunks + rows * 8;
    copies_parameters_ = in_register(is_scale || is_zero_point ? 1u : 0u);
    if (copies_parameters_ == 0) return;
    const unsigned size = is_scale ? scale_size : 1, chunk = is_scale ? threadIdx.x : threadIdx.x - chunks;
    const unsigned row_bytes = kGemmOutputs * size;
    parameters_ = (is_scale ? static_cast<const unsigned char*>(w.scales) : w.zero_points) +
                  ((row + chunk * 16 / row_bytes) * padded + output) * size + chunk * 16 % row_bytes;
    parameters_apart_ = rows * padded * size;
    parameter_place_ = Tile::activation_bytes + kW4CodeBytes + (is_scale ? 0 : kW4ScaleBytes) + chunk * 16;
  }
};

}  // namespace nibble::inline NIBBLE_ABI::cuda
