// The kernel of gemm_w8a8.h: a block computes one tile of results. The pipeline is gemm_w4a16.cuh's, steps are 128
// columns, and nothing is decoded.
#pragma once

#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/gemm_w8a8.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kInt8Depth = 128;                            ///< Columns of a step.
inline constexpr unsigned kInt8CodeBytes = kGemmOutputs * kInt8Depth;  ///< Of weights in a stage.
inline constexpr unsigned kOutlierBatch = 32;                          ///< Outlier columns that are staged at once.

template <unsigned Tokens, unsigned RowWarps, unsigned Stages>
struct Int8Tile {
  static constexpr unsigned tokens = Tokens, row_warps = RowWarps, stages = Stages;
  static constexpr unsigned threads = RowWarps * kGemmColumnWarps * kWarp;
  static constexpr unsigned fragments = Tokens / RowWarps / 16;
  static constexpr unsigned activation_bytes = Tokens * kGemmRowBytes;
  static constexpr unsigned stage_bytes = activation_bytes + kInt8CodeBytes;
  static constexpr std::size_t shared_bytes = std::size_t{Stages} * stage_bytes;
  static_assert(shared_bytes >= kOutlierBatch * (Tokens + kGemmOutputs) * sizeof(float));
};
using Int8Tile32 = Int8Tile<32, 1, 3>;
using Int8Tile128 = Int8Tile<128, 2, 3>;

struct Int8Arguments {
  PackedInt8 w;
  RoundedActivations x;
  OutlierColumns outliers;
  void* y;
  DType y_type;
  std::size_t y_stride;
};

/// A value of x in fp32.
NIBBLE_DEVICE float activation_at(const ActivationMatrix& x, std::size_t token, std::size_t col) {
  const std::size_t at = token * x.stride + col;
  if (x.type == DType::f32) return __ldg(static_cast<const float*>(x.data) + at);
  const std::uint16_t bits = __ldg(static_cast<const unsigned short*>(x.data) + at);
  return x.type == DType::f16 ? upcast(f16::from_bits(bits)) : upcast(bf16::from_bits(bits));
}

template <class Tile>
struct Int8Thread {
  using Results = float[Tile::fragments][kGemmFragments][4];
  using Activations = std::uint32_t[Tile::fragments][4];
  using Codes = std::uint32_t[kGemmFragments][4];  ///< Of 64 columns.

  const Int8Arguments& args;
  unsigned char* shared;
  unsigned lane, row_warp, column_warp;
  std::size_t padded_rows;
  std::size_t token, output;  ///< The tile's first.

  NIBBLE_DEVICE Int8Thread(const Int8Arguments& arguments, unsigned char* stages)
      : args(arguments),
        shared(stages),
        lane(threadIdx.x % kWarp),
        row_warp(threadIdx.x / kWarp / kGemmColumnWarps),
        column_warp(threadIdx.x / kWarp % kGemmColumnWarps),
        padded_rows(round_up(arguments.w.rows, kGemmOutputs)),
        token(std::size_t{blockIdx.x} * Tile::tokens),
        output(std::size_t{blockIdx.y} * kGemmOutputs) {}

  [[nodiscard]] NIBBLE_DEVICE unsigned char* stage(unsigned i) const { return shared + i * Tile::stage_bytes; }

  /// Starts to copy step `step` to stage i, zeros beyond the last token and column.
  NIBBLE_DEVICE void fetch(unsigned i, unsigned step) const {
    constexpr unsigned chunks = kInt8Depth / 16, half_chunks = kInt8CodeBytes / 2 / 16;
#pragma unroll
    for (unsigned first = 0; first < Tile::tokens * chunks; first += Tile::threads) {
      const unsigned at = first + threadIdx.x, row = at / chunks, chunk = at % chunks;
      const std::size_t col = std::size_t{step} * kInt8Depth + chunk * 16;
      const bool is_inside = token + row < args.x.tokens && col < args.w.cols;
      const std::int8_t* const from = args.x.codes + (is_inside ? (token + row) * args.x.stride + col : 0);
      cp_async_16(stage(i) + swizzled(row, chunk), from, is_inside);
    }
#pragma unroll
    for (unsigned first = 0; first < 2 * half_chunks; first += Tile::threads) {
      const unsigned at = first + threadIdx.x;
      const std::size_t word = ((std::size_t{step} * 2 + at / half_chunks) * padded_rows + output) * 16 +
                               at % half_chunks * 4;  // 64 columns of a row are 16 words
      cp_async_16(stage(i) + Tile::activation_bytes + at * 16, args.w.codes + word);
    }
  }

  NIBBLE_DEVICE void load_activations(unsigned i, unsigned k32, Activations& a) const {
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f) {
      const unsigned row = (row_warp * Tile::fragments + f) * 16 + lane % 16;
      ldmatrix_x4(a[f], stage(i) + swizzled(row, k32 * 2 + lane / 16));
    }
  }

  NIBBLE_DEVICE void load_codes(unsigned i, unsigned half_step, Codes& codes) const {
    const unsigned char* const at =
        stage(i) + Tile::activation_bytes + half_step * (kInt8CodeBytes / 2) + column_warp * 2048 + lane * 16;
#pragma unroll
    for (unsigned j = 0; j < kGemmFragments; ++j) {
      const uint4 words = *reinterpret_cast<const uint4*>(at + j * 512);
      codes[j][0] = words.x, codes[j][1] = words.y, codes[j][2] = words.z, codes[j][3] = words.w;
    }
  }

  /// The exact sums of the tile.
  NIBBLE_DEVICE void multiply(int (&sums)[Tile::fragments][kGemmFragments][4]) const {
    constexpr unsigned stages = Tile::stages, depths = kInt8Depth / 32;
    const auto steps = static_cast<unsigned>(round_up(args.w.cols, kInt8Depth) / kInt8Depth);
    Activations a[2];
    Codes codes[2];
#pragma unroll
    for (unsigned s = 0; s < stages - 1; ++s) {
      if (s < steps) fetch(s, s);
      cp_async_commit();
    }
    cp_async_wait<stages - 2>();
    __syncthreads();
    load_activations(0, 0, a[0]);
    load_codes(0, 0, codes[0]);
    unsigned now = 0;
    for (unsigned t = 0; t < steps; ++t) {
      const unsigned next = now + 1 == stages ? 0 : now + 1;
#pragma unroll
      for (unsigned k32 = 0; k32 < depths; ++k32) {
        const bool is_last = k32 + 1 == depths, has_next = !is_last || t + 1 < steps;
        if (is_last && has_next) {
          cp_async_wait<stages - 2>();
          __syncthreads();
        }
        if (has_next) {
          load_activations(is_last ? next : now, (k32 + 1) % depths, a[(k32 + 1) % 2]);
          if (k32 % 2 == 1) load_codes(is_last ? next : now, is_last ? 0 : 1, codes[is_last ? 0 : 1]);
        }
        if (k32 == 0) {
          if (t + stages - 1 < steps) fetch(now == 0 ? stages - 1 : now - 1, t + stages - 1);
          cp_async_commit();
        }
#pragma unroll
        for (unsigned j = 0; j < kGemmFragments; ++j) {
          const std::uint32_t b[2] = {codes[k32 / 2][j][k32 % 2 * 2], codes[k32 / 2][j][k32 % 2 * 2 + 1]};
#pragma unroll
          for (unsigned f = 0; f < Tile::fragments; ++f) mma_s8(sums[f][j], a[k32 % 2][f], b);
        }
      }
      now = next;
    }
  }

  /// Of the tile: the token of a lane's results f, h; the output of its results j, e.
  [[nodiscard]] NIBBLE_DEVICE unsigned row_of(unsigned f, unsigned h) const {
    return (row_warp * Tile::fragments + f) * 16 + lane / 4 + 8 * h;
  }
  [[nodiscard]] NIBBLE_DEVICE unsigned col_of(unsigned j) const { return column_warp * 32 + j * 8 + lane % 4 * 2; }
  [[nodiscard]] NIBBLE_DEVICE float multiplier(std::size_t col) const {
    return output + col < args.w.rows ? __ldg(args.w.multipliers + output + col) : 0.0f;
  }

  NIBBLE_DEVICE void scale(const int (&sums)[Tile::fragments][kGemmFragments][4], Results& y) const {
#pragma unroll
    for (unsigned j = 0; j < kGemmFragments; ++j) {
      const float multipliers[2] = {multiplier(col_of(j)), multiplier(col_of(j) + 1)};
#pragma unroll
      for (unsigned f = 0; f < Tile::fragments; ++f)
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
          const std::size_t row = token + row_of(f, i / 2);
          const float absmax = row < args.x.tokens ? __ldg(args.x.absmax + row) : 0.0f;
          y[f][j][i] = multipliers[i % 2] * static_cast<float>(sums[f][j][i]) * (absmax * LlmInt8::inverse_127);
        }
    }
  }

  /// Columns first … first + count − 1 of the list, staged as fp32: activations [column][token of the tile], then
  /// weights [column][output of the tile].
  NIBBLE_DEVICE void stage_outliers(unsigned first, unsigned count, float* x, float* w) const {
    const PackedInt8Layout layout{args.w.rows, args.w.cols};
    for (unsigned at = threadIdx.x; at < count * Tile::tokens; at += Tile::threads) {
      const std::size_t row = token + at % Tile::tokens;
      const auto col = static_cast<std::size_t>(__ldg(args.outliers.columns + first + at / Tile::tokens));
      x[at] = row < args.x.tokens ? activation_at(args.outliers.x, row, col) : 0.0f;
    }
    for (unsigned at = threadIdx.x; at < count * kGemmOutputs; at += Tile::threads) {
      const unsigned row = at % kGemmOutputs;
      const auto col = static_cast<std::size_t>(__ldg(args.outliers.columns + first + at / kGemmOutputs));
      const CodePlace place = layout.place(output + row, col);
      const auto code = static_cast<std::int8_t>(__ldg(args.w.codes + place.word) >> place.shift & 0xff);
      w[at] = static_cast<float>(code) * multiplier(row);
    }
  }

  NIBBLE_DEVICE void add_outliers(Results& y) const {
    auto* const x = reinterpret_cast<float*>(shared);
    float* const w = x + kOutlierBatch * Tile::tokens;
    const auto count = static_cast<unsigned>(__ldg(args.outliers.count));
    for (unsigned first = 0; first < count; first += kOutlierBatch) {
      const unsigned batch = count - first < kOutlierBatch ? count - first : kOutlierBatch;
      __syncthreads();  // what lay here has been read
      stage_outliers(first, batch, x, w);
      __syncthreads();
      for (unsigned i = 0; i < batch; ++i)
#pragma unroll
        for (unsigned j = 0; j < kGemmFragments; ++j)
#pragma unroll
          for (unsigned f = 0; f < Tile::fragments; ++f)
#pragma unroll
            for (unsigned k = 0; k < 4; ++k)
              y[f][j][k] = __fadd_rn(y[f][j][k], __fmul_rn(x[i * Tile::tokens + row_of(f, k / 2)],
                                                           w[i * kGemmOutputs + col_of(j) + k % 2]));
    }
  }

  NIBBLE_DEVICE void store(const Results& y) const {
#pragma unroll
    for (unsigned f = 0; f < Tile::fragments; ++f)
#pragma unroll
      for (unsigned j = 0; j < kGemmFragments; ++j)
#pragma unroll
        for (unsigned h = 0; h < 2; ++h) {
          const std::size_t row = token + row_of(f, h), col = output + col_of(j);
          if (row < args.x.tokens && col < args.w.rows)
            store_pair(args.y, args.y_type, row * args.y_stride + col, args.w.rows - col, y[f][j][2 * h],
                       y[f][j][2 * h + 1]);
        }
  }
};

template <class Tile>
NIBBLE_KERNEL(Tile::threads, 1)
void gemm_w8a8_kernel(const Int8Arguments args) {
  NIBBLE_DYNAMIC_SHARED(shared);
  const Int8Thread<Tile> thread(args, shared);
  int sums[Tile::fragments][kGemmFragments][4] = {};
  thread.multiply(sums);
  typename Int8Thread<Tile>::Results y;
  thread.scale(sums, y);
  if (args.outliers.count != nullptr) thread.add_outliers(y);
  thread.store(y);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
