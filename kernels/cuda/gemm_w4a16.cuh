// The kernel of gemm_w4a16.h.
//
// A block computes tiles of `tokens` × 128 results, step by step of 64 columns, which pass through a ring of stages in
// shared memory: activations (rows of 128 bytes, whose 16-byte chunks are exchanged so that ldmatrix meets each bank
// once), codes (each lane's 16 bytes in order), scales and zero points. While one step of depth 16 is multiplied, the
// fragments of the next are loaded from shared memory, and stages − 1 steps ahead are on their way from global memory.
#pragma once

#include "kernels/cuda/gemm_decode.cuh"
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/gemm_w4a16.h"

namespace nibble::cuda {

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

/// A thread's part in the products of its block.
template <class T, bool IsCodebook, class Tile>
struct W4Thread {
  using Decoder = std::conditional_t<IsCodebook, CodebookDecoder<T>, AffineDecoder<T>>;
  using Sums = float[Tile::fragments][kGemmFragments][4];
  /// What is decoded in half a step, 32 columns: four words, and the zero points of their rows, one a byte.
  struct Codes {
    std::uint32_t word[kGemmFragments];
    std::uint32_t zero_points;
  };

  const W4Arguments& args;
  unsigned char* shared;
  unsigned lane, row_warp, column_warp;
  unsigned scale_bytes, parameter_rows;  ///< Of one row of parameters in a tile; rows a step.
  std::size_t padded_rows;
  Decoder decoder;
  unsigned token = 0, output = 0;  ///< The tile's first.

  NIBBLE_DEVICE W4Thread(const W4Arguments& arguments, unsigned char* stages)
      : args(arguments),
        shared(stages),
        lane(threadIdx.x % kWarp),
        row_warp(threadIdx.x / kWarp / kGemmColumnWarps),
        column_warp(threadIdx.x / kWarp % kGemmColumnWarps),
        scale_bytes(kGemmOutputs * (arguments.w.scale_type == ScaleType::f32 ? 4 : 2)),
        parameter_rows(arguments.w.group < kGemmDepth ? 2 : 1),
        padded_rows(round_up(arguments.w.rows, kGemmOutputs)),
        decoder(arguments.w.codebook) {}

  [[nodiscard]] NIBBLE_DEVICE unsigned char* stage(unsigned i) const { return shared + i * Tile::stage_bytes; }

  /// Starts to copy step `step` of the tile's columns to stage i: activations, zeros beyond the last token and column.
  NIBBLE_DEVICE void fetch_activations(unsigned i, unsigned step) const {
    constexpr unsigned chunks = kGemmDepth / kGemmChunk;
    const auto* const x = static_cast<const std::uint16_t*>(args.x);
#pragma unroll
    for (unsigned first = 0; first < Tile::tokens * chunks; first += Tile::threads) {
      const unsigned at = first + threadIdx.x, row = at / chunks, chunk = at % chunks;
      const std::size_t col = std::size_t{step} * kGemmDepth + chunk * kGemmChunk;
#if NIBBLE_MUTANT == 44
      const bool is_inside = col < args.w.cols;
#elif NIBBLE_MUTANT == 45
      const bool is_inside = token + row < args.tokens;
#else
      const bool is_inside = token + row < args.tokens && col < args.w.cols;
#endif
      cp_async_16(stage(i) + swizzled(row, chunk), is_inside ? x + (token + row) * args.x_stride + col : x, is_inside);
    }
  }

  /// Codes, scales and zero points of the same.
  NIBBLE_DEVICE void fetch_weights(unsigned i, unsigned step) const {
    constexpr unsigned half_chunks = kW4CodeBytes / 2 / 16;
    unsigned char* to = stage(i) + Tile::activation_bytes;
#pragma unroll
    for (unsigned first = 0; first < 2 * half_chunks; first += Tile::threads) {
      const unsigned at = first + threadIdx.x;
      const std::size_t word = (std::size_t{step} * 2 + at / half_chunks) * padded_rows * 4 + output * 4 +
                               at % half_chunks * 4;  // 32 columns of a row are 4 words
      cp_async_16(to + at * 16, args.w.codes + word);
    }
    to += kW4CodeBytes;
#if NIBBLE_MUTANT == 57
    const std::size_t row = parameter_rows == 2 ? std::size_t{step} * 2 : (step + 1) / (args.w.group / kGemmDepth);
#else
    const std::size_t row = parameter_rows == 2 ? std::size_t{step} * 2 : step / (args.w.group / kGemmDepth);
#endif
    const auto* const scales = static_cast<const unsigned char*>(args.w.scales);
    const std::size_t scale_size = scale_bytes / kGemmOutputs;
    for (unsigned at = threadIdx.x * 16; at < parameter_rows * scale_bytes; at += Tile::threads * 16)
      cp_async_16(to + at, scales + ((row + at / scale_bytes) * padded_rows + output) * scale_size + at % scale_bytes);
    to += kW4ScaleBytes;
    if (args.w.zero_points == nullptr) return;
    for (unsigned at = threadIdx.x * 16; at < parameter_rows * kGemmOutputs; at += Tile::threads * 16)
      cp_async_16(to + at, args.w.zero_points + (row + at / kGemmOutputs) * padded_rows + output + at % kGemmOutputs);
  }

  NIBBLE_DEVICE void fetch(unsigned i, unsigned step) const {
    fetch_activations(i, step);
    fetch_weights(i, step);
  }

  /// The first operand of depth 16, `k16` of four in the stage.
  NIBBLE_DEVICE void load_activations(unsigned i, unsigned k16, std::uint32_t (&a)[Tile::fragments][4]) const {
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f) {
      const unsigned row = (row_warp * Tile::fragments + f) * 16 + lane % 16;
      ldmatrix_x4(a[f], stage(i) + swizzled(row, k16 * 2 + lane / 16));
    }
  }

  NIBBLE_DEVICE void load_codes(unsigned i, unsigned half_step, Codes& codes) const {
    const unsigned char* at = stage(i) + Tile::activation_bytes;
    const uint4 words =
        *reinterpret_cast<const uint4*>(at + half_step * (kW4CodeBytes / 2) + column_warp * 512 + lane * 16);
    codes.word[0] = words.x, codes.word[1] = words.y, codes.word[2] = words.z, codes.word[3] = words.w;
    codes.zero_points = 0x08080808u;
    if (IsCodebook || args.w.zero_points == nullptr) return;
    at += kW4CodeBytes + kW4ScaleBytes + (parameter_rows == 2 ? half_step : 0) * kGemmOutputs;
    codes.zero_points = *reinterpret_cast<const std::uint32_t*>(at + column_warp * 32 + lane / 4 * 4);
  }

  /// The scales of a lane's results: of rows 8·j + 2·(lane % 4) + i of the warp's 32, at 2·j + i.
  NIBBLE_DEVICE void load_scales(unsigned i, unsigned half_step, float (&scale)[2 * kGemmFragments]) const {
    const unsigned row = parameter_rows == 2 ? half_step : 0;
    const unsigned char* at = stage(i) + Tile::activation_bytes + kW4CodeBytes + row * scale_bytes;
    const unsigned place = column_warp * 32 + lane % 4 * 8;
    if (args.w.scale_type == ScaleType::f32) {
      const auto* const four = reinterpret_cast<const float4*>(at + place * 4);
#pragma unroll
      for (unsigned k = 0; k < 2; ++k) {
        const float4 v = four[k];
        scale[4 * k] = v.x, scale[4 * k + 1] = v.y, scale[4 * k + 2] = v.z, scale[4 * k + 3] = v.w;
      }
      return;
    }
    const uint4 eight = *reinterpret_cast<const uint4*>(at + place * 2);
    const std::uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
    const bool is_half = args.w.scale_type == ScaleType::f16;
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
      const auto first = static_cast<std::uint16_t>(pairs[k]), second = static_cast<std::uint16_t>(pairs[k] >> 16);
      scale[2 * k] = is_half ? widen(f16::from_bits(first)) : widen(bf16::from_bits(first));
      scale[2 * k + 1] = is_half ? widen(f16::from_bits(second)) : widen(bf16::from_bits(second));
    }
  }

  /// group_sums += a · decoded codes, of depth 16.
  NIBBLE_DEVICE void multiply(const std::uint32_t (&a)[Tile::fragments][4], const Codes& codes, unsigned k16,
                              Sums& group_sums) const {
#pragma unroll
    for (unsigned j = 0; j < kGemmFragments; ++j) {
      std::uint32_t b[2];
      decoder.decode(codes.word[j], k16 % 2, codes.zero_points >> (8 * j) & 0xff, b);
#pragma unroll
      for (unsigned f = 0; f < Tile::fragments; ++f) {
#if NIBBLE_MUTANT == 46
        if (lane == 5 && k16 == 3) continue;
#endif
        mma(group_sums[f][j], a[f], b, T{});
      }
    }
  }

  /// sums += scale · group_sums, which become 0.
  NIBBLE_DEVICE void apply_scales(const float (&scale)[2 * kGemmFragments], Sums& group_sums, Sums& sums) const {
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f)
#pragma unroll
      for (unsigned j = 0; j < kGemmFragments; ++j)
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
          sums[f][j][i] = fmaf(scale[2 * j + i % 2], group_sums[f][j][i], sums[f][j][i]);
          group_sums[f][j][i] = 0;
        }
  }

  /// sums += the products of steps first … first + count − 1 of the tile.
  NIBBLE_DEVICE void multiply_steps(unsigned first, unsigned count, Sums& sums) const {
    constexpr unsigned stages = Tile::stages, depths = kGemmDepth / 16;
    std::uint32_t a[2][Tile::fragments][4];
    Codes codes[2];
    float scale[2 * kGemmFragments];
    Sums group_sums = {};
#pragma unroll
    for (unsigned s = 0; s < stages - 1; ++s) {
      if (s < count) fetch(s, first + s);
      cp_async_commit();
    }
    cp_async_wait<stages - 2>();
    __syncthreads();
    load_activations(0, 0, a[0]);
    load_codes(0, 0, codes[0]);
    unsigned now = 0;  // the stage that is multiplied; the one before it is free once all have come to the last barrier
    for (unsigned t = 0; t < count; ++t) {
      const unsigned next = now + 1 == stages ? 0 : now + 1;
#pragma unroll
      for (unsigned k16 = 0; k16 < depths; ++k16) {
        const bool is_last = k16 + 1 == depths, has_next = !is_last || t + 1 < count;
        if (is_last && has_next) {
#if NIBBLE_MUTANT == 47
          cp_async_wait<stages - 1>();
#else
          cp_async_wait<stages - 2>();
#endif
#if NIBBLE_MUTANT != 48
          __syncthreads();
#endif
        }
        if (has_next) {
          load_activations(is_last ? next : now, (k16 + 1) % depths, a[(k16 + 1) % 2]);
          if (k16 % 2 == 1) load_codes(is_last ? next : now, is_last ? 0 : 1, codes[is_last ? 0 : 1]);
        }
        if (k16 == 0) {
          const unsigned ahead = t + stages - 1;
#if NIBBLE_MUTANT == 49
          if (ahead < count) fetch(now, first + ahead);
#else
          if (ahead < count) fetch(now == 0 ? stages - 1 : now - 1, first + ahead);
#endif
          cp_async_commit();
        }
        const bool ends_group = k16 == depths - 1 || parameter_rows == 2;
        if (k16 % 2 == 0 && (k16 == 2 || parameter_rows == 2)) {
#if NIBBLE_MUTANT == 50
          load_scales(now, 0, scale);
#else
          load_scales(now, k16 / 2, scale);
#endif
        }
        multiply(a[k16 % 2], codes[k16 / 2], k16, group_sums);
        if (k16 % 2 == 1 && ends_group) apply_scales(scale, group_sums, sums);
      }
      now = next;
    }
#if NIBBLE_MUTANT != 51
    __syncthreads();  // every stage has been read: the next tile's columns may come
#endif
  }

  /// Writes the sums as results.
  NIBBLE_DEVICE void store(const Sums& sums) const {
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f)
#pragma unroll
      for (unsigned j = 0; j < kGemmFragments; ++j)
#pragma unroll
        for (unsigned h = 0; h < 2; ++h) {
          const std::size_t row = token + (row_warp * Tile::fragments + f) * 16 + lane / 4 + 8 * h;
          const std::size_t col = output + column_warp * 32 + j * 8 + lane % 4 * 2;
#if NIBBLE_MUTANT == 52
          if (row <= args.tokens && col < args.w.rows)
#else
          if (row < args.tokens && col < args.w.rows)
#endif
#if NIBBLE_MUTANT == 53
            store_pair(args.y, args.y_type, row * args.y_stride + col, 2, sums[f][j][2 * h], sums[f][j][2 * h + 1]);
#else
            store_pair(args.y, args.y_type, row * args.y_stride + col, args.w.rows - col, sums[f][j][2 * h],
                       sums[f][j][2 * h + 1]);
#endif
        }
  }

  /// Adds what the blocks after this one summed of the tile, which are `behind`, and leaves the sum for those before
  /// it, or stores it if this is the tile's first block. `slot` is that first block.
  NIBBLE_DEVICE void reduce(unsigned slot, unsigned behind, bool is_first, Sums& sums) const {
    float4* const partial = args.partials + std::size_t{slot} * (Tile::tokens * kGemmOutputs / 4) + threadIdx.x;
    int* const lock = args.locks + slot;
    if (behind > 0) {
#if NIBBLE_MUTANT == 58
      if (threadIdx.x == 0)
        while (load_acquire(lock) == 0) spin_hint();
#elif NIBBLE_MUTANT != 54
      if (threadIdx.x == 0)
        while (load_acquire(lock) != static_cast<int>(behind)) spin_hint();
#endif
      __syncthreads();
    }
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f)
#pragma unroll
      for (unsigned j = 0; j < kGemmFragments; ++j) {
        float4* const at = partial + (f * kGemmFragments + j) * Tile::threads;
        float(&c)[4] = sums[f][j];
        if (behind > 0) {
          const float4 v = *at;
          c[0] = v.x + c[0], c[1] = v.y + c[1], c[2] = v.z + c[2], c[3] = v.w + c[3];
        }
        if (!is_first) *at = float4{c[0], c[1], c[2], c[3]};
      }
    if (is_first) store(sums);
#if NIBBLE_MUTANT != 55
    __syncthreads();
#endif
#if NIBBLE_MUTANT == 56
    if (threadIdx.x == 0 && !is_first) add_release(lock, 1);
#else
    if (threadIdx.x == 0) add_release(lock, is_first ? -static_cast<int>(behind) : 1);
#endif
  }
};

template <class T, bool IsCodebook, class Tile>
NIBBLE_KERNEL(Tile::threads, 1)
void gemm_w4a16_kernel(const W4Arguments args) {
  NIBBLE_DYNAMIC_SHARED(shared);
  W4Thread<T, IsCodebook, Tile> thread(args, shared);
  // Later columns belong to blocks of lower index, which the device starts first: nobody waits for one not begun.
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  unsigned step = block * args.steps_a_block;
  const unsigned end = step + args.steps_a_block < args.steps ? step + args.steps_a_block : args.steps;
  while (step < end) {
    const unsigned tile = step / args.steps_a_tile, tile_begin = tile * args.steps_a_tile;
    const unsigned tile_end = tile_begin + args.steps_a_tile, stop = tile_end < end ? tile_end : end;
    thread.token = tile % args.token_tiles * Tile::tokens;
    thread.output = tile / args.token_tiles * static_cast<unsigned>(kGemmOutputs);
    typename W4Thread<T, IsCodebook, Tile>::Sums sums = {};
    thread.multiply_steps(step - tile_begin, stop - step, sums);
    if (step == tile_begin && stop == tile_end) thread.store(sums);
    else
      thread.reduce(tile_begin / args.steps_a_block, (tile_end - 1) / args.steps_a_block - block, step == tile_begin,
                    sums);
    step = stop;
  }
}

}  // namespace nibble::cuda
