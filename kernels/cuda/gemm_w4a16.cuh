// The kernel of gemm_w4a16.h.
//
// A block computes tiles of `tokens` × 128 results, step by step of 64 columns, which pass through a ring of stages in
// shared memory: activations (rows of 128 bytes, whose 16-byte chunks are exchanged so that ldmatrix meets each bank
// once), codes (each lane's 16 bytes in order), scales and zero points. While one step of depth 16 is multiplied, the
// fragments of the next are loaded from shared memory, and stages − 1 steps ahead are on their way from global memory.
// What a step does not change (addresses, the length of groups) is found before the loop: instructions issued, not
// tensor cores, would else be the limit.
#pragma once

#include "kernels/cuda/gemm_decode.cuh"
#include "kernels/cuda/gemm_stages.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

/// A thread's part in the products of its block.
template <class T, bool IsCodebook, class Tile>
struct W4Thread {
  using Decoder = std::conditional_t<IsCodebook, CodebookDecoder<T>, AffineDecoder<T>>;
  using Sums = float[Tile::fragments][kGemmFragments][4];
  /// What is decoded in half a step, 32 columns: four words, and the zero points of their rows, one a byte, where a
  /// group begins.
  struct Codes {
    std::uint32_t word[kGemmFragments];
    std::uint32_t zero_points;
  };

  const W4Arguments& args;
  unsigned char* shared;
  unsigned lane, row_warp, column_warp;
  /// Where the lane's bytes lie in a stage: activations of each depth of 16, codes, zero points; and its first scale.
  unsigned activations_at[kGemmDepth / 16], codes_at, zero_points_at, scale_at;
  unsigned has_zero_points;
  Decoder decoder;
  unsigned token = 0, output = 0;  ///< The tile's first.

  NIBBLE_DEVICE W4Thread(const W4Arguments& arguments, unsigned char* stages)
      : args(arguments),
        shared(stages),
        lane(threadIdx.x % kWarp),
        row_warp(threadIdx.x / kWarp / kGemmColumnWarps),
        column_warp(threadIdx.x / kWarp % kGemmColumnWarps),
        has_zero_points(in_register(!IsCodebook && arguments.w.zero_points != nullptr ? 1u : 0u)),
        decoder(arguments.w.codebook) {
    constexpr unsigned weights = Tile::activation_bytes, parameters = weights + kW4CodeBytes;
#pragma unroll
    for (unsigned k16 = 0; k16 < kGemmDepth / 16; ++k16)
      activations_at[k16] = in_register(swizzled(row_warp * Tile::fragments * 16 + lane % 16, k16 * 2 + lane / 16));
    codes_at = in_register(weights + column_warp * 512 + lane * 16);
    zero_points_at = in_register(parameters + kW4ScaleBytes + column_warp * 32 + lane / 4 * 4);
    scale_at = in_register(column_warp * 32 + lane % 4 * 8);
  }

  [[nodiscard]] NIBBLE_DEVICE unsigned char* stage(unsigned i) const { return shared + i * Tile::stage_bytes; }

  /// The first operand of depth 16, `k16` of four in the stage.
  NIBBLE_DEVICE void load_activations(unsigned i, unsigned k16, std::uint32_t (&a)[Tile::fragments][4]) const {
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f)
      ldmatrix_x4(a[f], stage(i) + activations_at[k16] + f * 16 * kGemmRowBytes);
  }

  NIBBLE_DEVICE void load_codes(unsigned i, unsigned half_step, Codes& codes) const {
    const uint4 words = *reinterpret_cast<const uint4*>(stage(i) + codes_at + half_step * (kW4CodeBytes / 2));
    codes.word[0] = words.x, codes.word[1] = words.y, codes.word[2] = words.z, codes.word[3] = words.w;
  }

  /// Of parameters' row `row` in the stage.
  NIBBLE_DEVICE std::uint32_t load_zero_points(unsigned i, unsigned row) const {
    return *reinterpret_cast<const std::uint32_t*>(stage(i) + zero_points_at + row * kGemmOutputs);
  }

  /// The scales of a lane's results: of rows 8·j + 2·(lane % 4) + i of the warp's 32, at 2·j + i.
  NIBBLE_DEVICE void load_scales(unsigned i, unsigned row, float (&scale)[2 * kGemmFragments]) const {
    const unsigned char* at = stage(i) + Tile::activation_bytes + kW4CodeBytes;
    const unsigned place = row * static_cast<unsigned>(kGemmOutputs) + scale_at;
    if (args.w.scale_type == ScaleType::f32) load_eight(reinterpret_cast<const float*>(at) + place, scale);
    else if (args.w.scale_type == ScaleType::f16) load_eight(reinterpret_cast<const f16*>(at) + place, scale);
    else load_eight(reinterpret_cast<const bf16*>(at) + place, scale);
  }

  /// group_sums += a · decoded codes, of depth 16.
  NIBBLE_DEVICE void multiply(const std::uint32_t (&a)[Tile::fragments][4], const Codes& codes,
                              const typename Decoder::Zeros& zeros, unsigned k16, Sums& group_sums) const {
#pragma unroll
    for (unsigned j = 0; j < kGemmFragments; ++j) {
      std::uint32_t b[2];
      decoder.decode(codes.word[j], k16 % 2, zeros, j, b);
#pragma unroll
      for (unsigned f = 0; f < Tile::fragments; ++f) {
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

  /// sums += the products of steps first … first + count − 1 of the tile. `HalfGroups`: groups of 32 columns, two a
  /// step; else a step lies in one.
  template <bool HalfGroups>
  NIBBLE_DEVICE void gemm_steps(unsigned first, unsigned count, Sums& sums) const {
    constexpr unsigned stages = Tile::stages, depths = kGemmDepth / 16;
    std::uint32_t a[2][Tile::fragments][4];
    Codes codes[2];
    typename Decoder::Zeros zeros(0x08080808u);
    float scale[2 * kGemmFragments];
    Sums group_sums = {};
    W4Fetch<Tile> fetch(args, token, output, first);
#pragma unroll
    for (unsigned s = 0; s < stages - 1; ++s) {
      if (s < count) fetch.next(stage(s));
      cp_async_commit();
    }
    cp_async_wait<stages - 2>();
    __syncthreads();
    load_activations(0, 0, a[0]);
    load_codes(0, 0, codes[0]);
    if (has_zero_points != 0) codes[0].zero_points = load_zero_points(0, 0);
    unsigned now = 0;  // the stage that is multiplied; the one before it is free once all have come to the last barrier
    for (unsigned t = 0; t < count; ++t) {
      const unsigned next = now + 1 == stages ? 0 : now + 1;
#pragma unroll
      for (unsigned k16 = 0; k16 < depths; ++k16) {
        const bool is_last = k16 + 1 == depths, has_next = !is_last || t + 1 < count;
        const bool begins_group = k16 == 0 || (HalfGroups && k16 == 2);
        const bool ends_group = is_last || (HalfGroups && k16 == 1);
        if (begins_group && has_zero_points != 0) zeros = typename Decoder::Zeros(codes[k16 / 2].zero_points);
        if (is_last && has_next) {
          cp_async_wait<stages - 2>();
          __syncthreads();
        }
        if (has_next) {
          const unsigned from = is_last ? next : now, half_step = is_last ? 0 : 1;
          load_activations(from, (k16 + 1) % depths, a[(k16 + 1) % 2]);
          if (k16 % 2 == 1) load_codes(from, half_step, codes[half_step]);
          if (ends_group && has_zero_points != 0) codes[half_step].zero_points = load_zero_points(from, half_step);
        }
        if (k16 == 0) {
          if (t + stages - 1 < count) fetch.next(stage(now == 0 ? stages - 1 : now - 1));
          cp_async_commit();
        }
        if (k16 == 2 || (HalfGroups && k16 == 0)) {
          load_scales(now, HalfGroups ? k16 / 2 : 0, scale);
        }
        multiply(a[k16 % 2], codes[k16 / 2], zeros, k16, group_sums);
        if (ends_group) apply_scales(scale, group_sums, sums);
      }
      now = next;
    }
    __syncthreads();  // every stage has been read: the next tile's columns may come
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
          if (row < args.tokens && col < args.w.rows)
            store_pair(args.y, args.y_type, row * args.y_stride + col, args.w.rows - col, sums[f][j][2 * h],
                       sums[f][j][2 * h + 1]);
        }
  }

  /// Adds what the blocks after this one summed of the tile, which are `behind`, and leaves the sum for those before
  /// it, or stores it if this is the tile's first block. `slot` is that first block.
  NIBBLE_DEVICE void reduce(unsigned slot, unsigned behind, bool is_first, Sums& sums) const {
    float4* const partial = args.partials + std::size_t{slot} * (Tile::tokens * kGemmOutputs / 4) + threadIdx.x;
    int* const lock = args.locks + slot;
    if (behind > 0) {
      if (threadIdx.x == 0)
        while (load_acquire(lock) != static_cast<int>(behind)) spin_hint();
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
    __syncthreads();
    if (threadIdx.x == 0) add_release(lock, is_first ? -static_cast<int>(behind) : 1);
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
    if (args.w.group < kGemmDepth) thread.template gemm_steps<true>(step - tile_begin, stop - step, sums);
    else thread.template gemm_steps<false>(step - tile_begin, stop - step, sums);
    if (step == tile_begin && stop == tile_end) thread.store(sums);
    else
      thread.reduce(tile_begin / args.steps_a_block, (tile_end - 1) / args.steps_a_block - block, step == tile_begin,
                    sums);
    step = stop;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
