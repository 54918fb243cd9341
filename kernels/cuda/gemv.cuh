// The kernel of gemv.h. One for each decoder family and width of codes, for 1, up to 4 and up to 8 tokens; and one for
// groups that fit no pieces.
#pragma once

#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kGemvWarps = 4;
inline constexpr unsigned kGemvThreads = kGemvWarps * kWarp;
inline constexpr unsigned kGemvRows = 2;       ///< Of one warp: they share the reads of activations.
inline constexpr unsigned kGemvStep = 1024;    ///< Columns that a warp covers at a time, 32 a lane.
inline constexpr unsigned kGemvStaged = 8192;  ///< The most activations in shared memory: 32 KiB.

/// Neighbouring columns of one lane whose codes come in one load; a step has 32/piece of them.
template <int Bits>
inline constexpr unsigned kGemvPiece = Bits == 8 ? 16 : 32;

/// Activations or results: a matrix of a type known at run time.
struct GemvVectors {
  const void* data;
  DType type;
  std::size_t stride;
};

/// Where four activations of a token lie in shared memory, in units of 16 bytes: those of lane l are spread over eight
/// rows of 32, and the lanes of row f are exchanged by l xor f (2·f where a piece is 16 columns). Then a warp that
/// stages neighbouring columns, and one whose lanes each read the f-th four of their own columns, meet every bank once.
template <int Bits>
NIBBLE_DEVICE unsigned staged_at(unsigned step, unsigned lane, unsigned fours) {
  return (step * 8 + fours) * kWarp + (lane ^ (kGemvPiece<Bits> == 16 ? fours * 2 % 8 : fours));
}

NIBBLE_DEVICE void load_vector_run(const GemvVectors& x, std::size_t token, std::size_t col, int n,
                                   float (&out)[kRun]) {
  const std::size_t at = token * x.stride + col;
  if (x.type == DType::f32) load_run(static_cast<const float*>(x.data) + at, n, out);
  else if (x.type == DType::f16) load_run(static_cast<const f16*>(x.data) + at, n, out);
  else load_run(static_cast<const bf16*>(x.data) + at, n, out);
}

/// Stages columns first … first+columns−1 of every token, `columns` a multiple of a step; zeros past the last column
/// and token.
template <int Bits, int Tokens>
NIBBLE_DEVICE void stage_activations(const GemvVectors& x, std::size_t tokens, std::size_t cols, std::size_t first,
                                     unsigned columns, float4* staged) {
  constexpr unsigned piece = kGemvPiece<Bits>;
#pragma unroll 1
  for (unsigned t = 0; t < Tokens; ++t)
#pragma unroll 2
    for (unsigned c = threadIdx.x * kRun; c < columns; c += kGemvThreads * kRun) {
      const std::size_t col = first + c, left = col < cols ? cols - col : 0;
      float v[kRun];
      load_vector_run(x, t, col, t >= tokens ? 0 : left < kRun ? static_cast<int>(left) : kRun, v);
      const unsigned in_step = c % kGemvStep, lane = in_step % (kWarp * piece) / piece;
      const unsigned fours = in_step / (kWarp * piece) * (piece / 4) + in_step % piece / 4;
      float4* to = staged + t * (columns / 4);
      to[staged_at<Bits>(c / kGemvStep, lane, fours)] = float4{v[0], v[1], v[2], v[3]};
      to[staged_at<Bits>(c / kGemvStep, lane, fours + 1)] = float4{v[4], v[5], v[6], v[7]};
    }
}

/// The codes of one lane's 32 columns of a step, as words. Zeros from beyond the row.
template <int Bits>
NIBBLE_DEVICE void load_lane_codes(const std::uint8_t* row, std::size_t pitch, std::size_t step, unsigned lane,
                                   std::uint32_t (&words)[Bits]) {
  const std::size_t at = step * (kGemvStep / 8 * Bits);
  if constexpr (Bits == 4 || Bits == 8) {
#pragma unroll
    for (unsigned i = 0; i < Bits; i += 4) {  // sixteen bytes; those of 8 bits are half a step apart
      const std::size_t byte = at + i * 128 + lane * 16;
      uint4 quad{0, 0, 0, 0};
      if (byte < pitch) quad = load_stream(reinterpret_cast<const uint4*>(row + byte));
      words[i] = quad.x, words[i + 1] = quad.y, words[i + 2] = quad.z, words[i + 3] = quad.w;
    }
  } else if constexpr (Bits == 2) {
    const std::size_t byte = at + lane * 8;
    uint2 pair{0, 0};
    if (byte < pitch) pair = __ldg(reinterpret_cast<const uint2*>(row + byte));
    words[0] = pair.x, words[1] = pair.y;
  } else {
#pragma unroll
    for (unsigned i = 0; i < Bits; ++i) {
      const std::size_t byte = at + lane * (4 * Bits) + i * 4;
      words[i] = byte < pitch ? __ldg(reinterpret_cast<const unsigned*>(row + byte)) : 0;
    }
  }
}

/// Code i of 32 in LSB-first words; i is known at compile time.
template <int Bits>
NIBBLE_DEVICE std::uint32_t code_of_words(const std::uint32_t (&words)[Bits], int i) {
  const int word = i * Bits / 32, shift = i * Bits % 32;
  std::uint32_t code = words[word] >> shift;
  if (shift + Bits > 32) code |= words[(word + 1) % Bits] << ((32 - shift) % 32);
  return code & ((1u << Bits) - 1u);
}

/// An affine code becomes a number without a conversion: among the fraction bits of the power of two in which its
/// lowest bit counts 1, it makes power + code; taking power + zero_point from it is exact (both are integers of
/// magnitude below 2^24). So `places` neighbouring codes may stay where they are in a word, with a power for each
/// place: one shift serves them all. Codes of 8 bits have one power, 2^23; 8 tokens leave the registers for two.
template <int Bits>
constexpr int gemv_places(int tokens) {
  return Bits == 8 ? 1 : tokens == 8 ? 2 : 4;
}
template <int Bits>
constexpr float gemv_power(int place) {
  return static_cast<float>(1 << (23 - Bits * place));
}
/// power + code i of 32, whose place is i % Places.
template <int Places, int Bits>
NIBBLE_DEVICE float power_and_code(const std::uint32_t (&words)[Bits], int i) {
  if constexpr (Bits == 8) {
    const auto power = std::bit_cast<std::uint32_t>(gemv_power<Bits>(0));
    return std::bit_cast<float>(__byte_perm(words[i / 4], power, 0x7440u + static_cast<unsigned>(i % 4)));
  } else {
    const int place = i % Places, first = (i - place) * Bits, word = first / 32, shift = first % 32;
    std::uint32_t codes = words[word] >> shift;
    if (shift + Places * Bits > 32) codes |= words[(word + 1) % Bits] << ((32 - shift) % 32);
    const std::uint32_t mask = ((1u << Bits) - 1u) << (Bits * place);
    return std::bit_cast<float>(lop3<0xea>(codes, mask, std::bit_cast<std::uint32_t>(gemv_power<Bits>(place))));
  }
}

/// One of a warp's rows: what does not change from step to step.
struct GemvRow {
  const std::uint8_t* codes;
  RowGroups groups;

  GemvRow() = default;
  NIBBLE_DEVICE GemvRow(const CanonicalMatrix& w, const GroupMap& map, std::size_t row)
      : codes(w.codes + row * w.pitch), groups(row_groups(map, row)) {}
};

/// What a row's codes mean in one place: the scale, and for affine codes power + zero_point of each place.
template <int Bits, bool IsCodebook, int Places>
struct GemvParams {
  float scale = 1;
  float bias[Places] = {};

  GemvParams() = default;
  NIBBLE_DEVICE GemvParams(const CanonicalMatrix& w, std::size_t group) : scale(multiplier_of(w, group)) {
    if constexpr (IsCodebook) return;
    const bool is_symmetric = w.spec.scheme != SchemeKind::asymmetric;
    const float zero_point = is_symmetric ? 1 << (Bits - 1) : static_cast<float>(zero_point_of(w, group));
#pragma unroll
    for (int place = 0; place < Places; ++place) bias[place] = gemv_power<Bits>(place) + zero_point;
  }

  /// Code i of 32, less the zero point, or the codebook's value.
  NIBBLE_DEVICE float decode(const std::uint32_t (&words)[Bits], int i, const float* codebook) const {
    if constexpr (IsCodebook) return codebook[code_of_words<Bits>(words, i)];
    else return power_and_code<Places>(words, i) - bias[i % Places];
  }
};

/// The sums of one lane: its columns of a step for both rows, all tokens. `Uniform`: every piece of every row lies in
/// one group, whose scale multiplies the piece's sum; else each value is multiplied by its own.
template <int Bits, bool IsCodebook, bool Uniform, int Tokens>
struct GemvLane {
  static constexpr unsigned piece = kGemvPiece<Bits>;
  static constexpr int runs = piece / kRun;
  using Params = GemvParams<Bits, IsCodebook, gemv_places<Bits>(Tokens)>;
  float sum[kGemvRows][Tokens] = {};

  /// Decodes a run of eight columns of one row.
  static NIBBLE_DEVICE void decode(const CanonicalMatrix& w, const GroupMap& groups, const RowGroups& row,
                                   std::size_t col, const std::uint32_t (&words)[Bits], int first_code,
                                   const Params& params, const float* codebook, float (&q)[kRun]) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if constexpr (Uniform) {
        q[i] = params.decode(words, first_code + i, codebook);
      } else {
        const std::size_t last = w.cols - 1, at = col + static_cast<std::size_t>(i);
        const Params own(w, group_of(groups, row, at < last ? at : last));
        q[i] = own.decode(words, first_code + i, codebook) * own.scale;
      }
    }
  }

  /// Adds one step, whose first column is `step_col`. `staged` begins at the step's activations, tokens `token_stride`
  /// apart.
  NIBBLE_DEVICE void add(const CanonicalMatrix& w, const GroupMap& groups, const GemvRow (&rows)[kGemvRows],
                         std::size_t step_col, unsigned lane, const std::uint32_t (&words)[kGemvRows][Bits],
                         const float* codebook, const float4* staged, unsigned token_stride) {
#pragma unroll
    for (unsigned p = 0; p < 32 / piece; ++p) {
      const std::size_t col = step_col + p * (kWarp * piece) + lane * piece;
      if (col >= w.cols) continue;
      Params params[kGemvRows];
      float part[kGemvRows][Tokens] = {};
#pragma unroll
      for (unsigned r = 0; r < kGemvRows; ++r) {
        if constexpr (!Uniform) continue;
        params[r] = Params(w, group_of(groups, rows[r].groups, col));
      }
#pragma unroll
      for (int run = 0; run < runs; ++run) {
        const int first_code = static_cast<int>(p * piece) + run * kRun;
        float q[kGemvRows][kRun];
#pragma unroll
        for (unsigned r = 0; r < kGemvRows; ++r)
          decode(w, groups, rows[r].groups, col + static_cast<std::size_t>(run * kRun), words[r], first_code, params[r],
                 codebook, q[r]);
#pragma unroll
        for (int t = 0; t < Tokens; ++t) {
          const unsigned fours = static_cast<unsigned>(first_code) / 4;
          const float4 a = staged[static_cast<unsigned>(t) * token_stride + staged_at<Bits>(0, lane, fours)];
          const float4 b = staged[static_cast<unsigned>(t) * token_stride + staged_at<Bits>(0, lane, fours + 1)];
          const float x[kRun] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
          for (unsigned r = 0; r < kGemvRows; ++r)
#pragma unroll
            for (int i = 0; i < kRun; ++i) part[r][t] = fmaf(x[i], q[r][i], part[r][t]);
        }
      }
#pragma unroll
      for (unsigned r = 0; r < kGemvRows; ++r)
#pragma unroll
        for (int t = 0; t < Tokens; ++t) sum[r][t] = fmaf(part[r][t], params[r].scale, sum[r][t]);
    }
  }
};

NIBBLE_DEVICE void store_result(void* y, DType type, std::size_t at, float value) {
  if (type == DType::f32) static_cast<float*>(y)[at] = value;
  else if (type == DType::f16) static_cast<f16*>(y)[at] = narrow<f16>(value);
  else static_cast<bf16*>(y)[at] = narrow<bf16>(value);
}

/// Blocks on one multiprocessor that registers must allow: as many as need no spills. One token waits for memory more
/// than others, which many warps hide.
constexpr unsigned gemv_blocks(int bits, int tokens) {
  return tokens == 1 ? (bits == 8 ? 6 : 8) : bits == 8 && tokens == 8 ? 3 : 4;
}

/// Dynamic shared memory: Tokens × `columns` floats, `columns` a multiple of a step.
template <int Bits, bool IsCodebook, bool Uniform, int Tokens>
NIBBLE_KERNEL(kGemvThreads, gemv_blocks(Bits, Tokens))
void gemv_kernel(CanonicalMatrix w, GroupMap groups, GemvVectors x, std::size_t tokens, unsigned columns, void* y,
                 DType y_type, std::size_t y_stride) {
  NIBBLE_DYNAMIC_SHARED(shared);
  auto* staged = reinterpret_cast<float4*>(shared);
  NIBBLE_SHARED(float, codebook, 16);
  if (IsCodebook && threadIdx.x < 16) codebook[threadIdx.x] = __ldg(w.codebook + threadIdx.x);
  const unsigned lane = threadIdx.x % kWarp;
  const std::size_t row = (std::size_t{blockIdx.x} * kGemvWarps + threadIdx.x / kWarp) * kGemvRows;
  const auto all_steps = static_cast<unsigned>((w.cols + kGemvStep - 1) / kGemvStep);
  const unsigned steps = row < w.rows ? all_steps : 0;
  GemvRow rows[kGemvRows];
  if (steps > 0)
    for (unsigned r = 0; r < kGemvRows; ++r) rows[r] = GemvRow(w, groups, row + r < w.rows ? row + r : row);

  GemvLane<Bits, IsCodebook, Uniform, Tokens> sums;
  std::uint32_t words[kGemvRows][Bits] = {};
  if (steps > 0)
    for (unsigned r = 0; r < kGemvRows; ++r) load_lane_codes<Bits>(rows[r].codes, w.pitch, 0, lane, words[r]);
  for (unsigned first = 0; first < all_steps; first += columns / kGemvStep) {
    __syncthreads();  // the last columns have been read
    stage_activations<Bits, Tokens>(x, tokens, w.cols, std::size_t{first} * kGemvStep, columns, staged);
    __syncthreads();
    const unsigned staged_end = first + columns / kGemvStep, end = staged_end < steps ? staged_end : steps;
    for (unsigned step = first; step < end; ++step) {
      std::uint32_t now[kGemvRows][Bits];
      for (unsigned r = 0; r < kGemvRows; ++r) {
        for (int i = 0; i < Bits; ++i) now[r][i] = words[r][i];
        if (step + 1 < steps) load_lane_codes<Bits>(rows[r].codes, w.pitch, step + 1, lane, words[r]);
      }
      sums.add(w, groups, rows, std::size_t{step} * kGemvStep, lane, now, codebook,
               staged + (step - first) * (kGemvStep / 4), columns / 4);
    }
  }
#pragma unroll
  for (unsigned r = 0; r < kGemvRows; ++r)
#pragma unroll
    for (unsigned t = 0; t < Tokens; ++t) {
      const float total = reduce_team(sums.sum[r][t], kWarp, [](float a, float b) { return a + b; });
      if (lane == r * Tokens + t && t < tokens && row + r < w.rows)
        store_result(y, y_type, t * y_stride + row + r, total);
    }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
