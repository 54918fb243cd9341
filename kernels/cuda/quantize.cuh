// The kernels of quantize.h. For quantize.cu alone.
#pragma once

#include "kernels/cuda/canonical.cuh"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/reduce.cuh"
#include "nibble/matrix/group_params.h"

namespace nibble::inline NIBBLE_ABI::cuda {

inline constexpr unsigned kQuantizeThreads = 256;

/// The weights, and how their elements lie: element i in row-major order is at i where rows touch.
template <class T>
struct Weights {
  const T* data;
  std::size_t rows, cols, stride;
};

/// A codebook's thresholds and the codes of its ranks (CodebookOrder), and its values: a kernel's parameter.
template <int N>
struct CodebookTables {
  float threshold[N];
  float value[N];
  std::uint8_t code[N];
};

/// Reports `place` if it is the first so far.
NIBBLE_DEVICE void report(unsigned long long* word, unsigned long long place) { atomicMax(word, ~place); }

NIBBLE_KERNEL(kQuantizeThreads, 1)
void clear_quantize_kernel(std::uint32_t* words, std::size_t count, QuantizeStatus* status) {
  const std::size_t i = std::size_t{blockIdx.x} * kQuantizeThreads + threadIdx.x;
  if (i < count) words[i] = 0;
  if (i == 0) *status = {0, 0};
}

// ---- fit ------------------------------------------------------------------------------------------------------------

/// The groups of a matrix as runs of its elements in row-major order, cut into parts that one team of lanes reads.
struct GroupRuns {
  std::size_t count;      ///< Groups.
  std::size_t parts;      ///< Parts of each group.
  std::size_t part_size;  ///< Elements of a part; the last ones of a group may have fewer, or none.
  std::size_t size;       ///< Elements of a group where all but the last are alike: a matrix, a row, a block.
  std::size_t per_row;    ///< Groups of a row, for granularity group, else 0.
  int team;               ///< Lanes that share a part.
};

struct ElementRun {
  std::size_t begin, end;
};

NIBBLE_DEVICE ElementRun run_of(const GroupRuns& groups, std::size_t group, std::size_t rows, std::size_t cols) {
  if (groups.per_row == 0) {
    const std::size_t begin = group * groups.size, total = rows * cols;
    return {begin, begin + groups.size < total ? begin + groups.size : total};
  }
  const std::size_t row = group / groups.per_row, first = group % groups.per_row * groups.size;
  return {row * cols + first, row * cols + (first + groups.size < cols ? first + groups.size : cols)};
}

/// Elements begin … begin+n−1 in row-major order, n ≤ 8.
template <class T>
NIBBLE_DEVICE void load_elements(const Weights<T>& w, std::size_t begin, int n, float (&out)[kRun]) {
  if (w.stride == w.cols) return load_run(w.data + begin, n, out);
  const std::size_t row = begin / w.cols, col = begin % w.cols;
  if (w.cols - col >= static_cast<std::size_t>(n)) return load_run(w.data + row * w.stride + col, n, out);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const std::size_t at = begin + static_cast<std::size_t>(i);
    out[i] = i < n ? upcast(w.data[at / w.cols * w.stride + at % w.cols]) : 0.0f;
  }
}

/// One lane's share of a run: eights of elements, `team` of them apart. Reports what is not finite.
template <class T>
NIBBLE_DEVICE Range range_of_share(const Weights<T>& w, ElementRun run, int lane, int team, QuantizeStatus* status) {
  Range range{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  for (std::size_t at = run.begin + static_cast<std::size_t>(lane * kRun); at < run.end;
       at += static_cast<std::size_t>(team * kRun)) {
    const int n = run.end - at < kRun ? static_cast<int>(run.end - at) : kRun;
    float v[kRun];
    load_elements(w, at, n, v);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i >= n) continue;
      if (!is_finite(v[i])) report(&status->non_finite, at + static_cast<std::size_t>(i));
      range.min = smaller(v[i], range.min);
      range.max = larger(v[i], range.max);
    }
  }
  return range;
}

/// Stores what a group's codes share, as it will be read back.
NIBBLE_DEVICE void store_params(const QuantSpec& spec, const CanonicalBuffers& to, float* absmax, std::size_t group,
                                Range range, QuantizeStatus* status) {
  range = {range.min == 0 ? 0.0f : range.min, range.max == 0 ? 0.0f : range.max};
  const AffineParams p = fit_params(spec, range);
  if (!is_finite(p.scale)) report(&status->unfit_scale, group);
  if (spec.double_quant) absmax[group] = p.scale;
  else nibble::store_params(spec, to.scales, to.zero_points, group, p);
}

/// Whole groups are fitted at once; of a group in parts, `keys` [group] collects the range as {largest, −least}.
template <class T>
NIBBLE_KERNEL(kQuantizeThreads, 4)
void fit_kernel(Weights<T> w, GroupRuns groups, QuantSpec spec, CanonicalBuffers to, float* absmax, std::uint32_t* keys,
                QuantizeStatus* status) {
  const auto team = static_cast<unsigned>(groups.team);
  const std::size_t index = (std::size_t{blockIdx.x} * kQuantizeThreads + threadIdx.x) / team;
  const std::size_t group = index / groups.parts, part = index % groups.parts;
  ElementRun run{0, 0};
  if (group < groups.count) {
    run = run_of(groups, group, w.rows, w.cols);
    run.begin += part * groups.part_size;
    run.end = run.begin + groups.part_size < run.end ? run.begin + groups.part_size : run.end;
  }
  const int lane = static_cast<int>(threadIdx.x % team);
  Range range = range_of_share(w, run, lane, groups.team, status);
  range.min = reduce_team(range.min, groups.team, smaller);
  range.max = reduce_team(range.max, groups.team, larger);
  if (group >= groups.count || lane != 0 || run.begin >= run.end) return;
  if (groups.parts == 1) return store_params(spec, to, absmax, group, range, status);
  atomicMax(keys + 2 * group, order_key(range.max == 0 ? 0.0f : range.max));
  atomicMax(keys + 2 * group + 1, order_key(range.min == 0 ? 0.0f : -range.min));
}

/// The groups that came in parts.
NIBBLE_KERNEL(kQuantizeThreads, 1)
void finish_fit_kernel(std::size_t count, QuantSpec spec, CanonicalBuffers to, float* absmax, const std::uint32_t* keys,
                       QuantizeStatus* status) {
  const std::size_t group = std::size_t{blockIdx.x} * kQuantizeThreads + threadIdx.x;
  if (group >= count) return;
  const Range range{-value_of_key(keys[2 * group + 1]), value_of_key(keys[2 * group])};
  store_params(spec, to, absmax, group, range, status);
}

// ---- encode ---------------------------------------------------------------------------------------------------------

/// What a code of each family is, given its group's parameters.
struct AffineEncoder {
  static constexpr int table_size = 1;
  const QuantSpec& spec;
  AffineParams p{};
  std::int32_t low = 0, high = 0;
  NIBBLE_DEVICE AffineEncoder(const QuantSpec& s, const float*, const std::uint8_t*)
      : spec(s), low(s.scheme == SchemeKind::symmetric ? symmetric_low(s.narrow_range) : 0), high((1 << s.bits) - 1) {}
  NIBBLE_DEVICE void set(float scale, std::int32_t zero_point) { p = {scale, zero_point}; }
  NIBBLE_DEVICE std::uint8_t encode(float x) const { return affine_encode(x, p, low, high); }
};

struct Int8Encoder {
  static constexpr int table_size = 1;
  float factor = 0;
  NIBBLE_DEVICE Int8Encoder(const QuantSpec&, const float*, const std::uint8_t*) {}
  NIBBLE_DEVICE void set(float absmax, std::int32_t) { factor = LlmInt8::multiplier(absmax); }
  NIBBLE_DEVICE std::uint8_t encode(float x) const { return LlmInt8::encode_scaled(x, factor); }
};

/// Codebook::encode_scaled over tables in shared memory.
template <int N>
struct CodebookEncoder {
  static constexpr int table_size = N;
  const float* threshold;
  const std::uint8_t* code;
  float factor = 0;
  NIBBLE_DEVICE CodebookEncoder(const QuantSpec&, const float* thresholds, const std::uint8_t* codes)
      : threshold(thresholds), code(codes) {}
  NIBBLE_DEVICE void set(float absmax, std::int32_t) { factor = inverse_absmax(absmax); }
  NIBBLE_DEVICE std::uint8_t encode(float x) const {
    const float scaled = x * factor;
    int below = 0;  // the number of thresholds known to lie below
#pragma unroll
    for (int width = N / 2; width > 0; width /= 2)
      if (scaled > threshold[below + width - 1]) below += width;
    return code[below];
  }
};

/// The scale or absmax that codes are computed with: with double quantization, the one before it was quantized.
NIBBLE_DEVICE float encoding_scale(const CanonicalMatrix& q, const float* absmax, std::size_t group) {
  return q.spec.double_quant ? absmax[group] : read_scale(q.scales, q.spec.scale_type, group);
}

/// A block is 32 runs of eight columns by 8 rows. `q` holds the scales and zero points that were fitted.
template <class Encoder, class T>
NIBBLE_KERNEL(kQuantizeThreads, 4)
void encode_kernel(Weights<T> w, CanonicalMatrix q, GroupMap groups, const float* absmax, std::uint8_t* codes,
                   const CodebookTables<Encoder::table_size> tables) {
  constexpr int entries = Encoder::table_size;
  NIBBLE_SHARED(float, threshold, entries);
  NIBBLE_SHARED(std::uint8_t, code_of_rank, entries);
  if constexpr (entries > 1) {
    const unsigned thread = threadIdx.y * kWarp + threadIdx.x;
    if (thread < entries) {
      threshold[thread] = tables.threshold[thread];
      code_of_rank[thread] = tables.code[thread];
    }
    __syncthreads();
  }
  const std::size_t row = std::size_t{blockIdx.x} * (kQuantizeThreads / kWarp) + threadIdx.y;
  if (row >= w.rows) return;
  Encoder encoder(q.spec, threshold, code_of_rank);
  const std::size_t step = std::size_t{gridDim.y} * kWarp * kRun;
  for (std::size_t col = (std::size_t{blockIdx.y} * kWarp + threadIdx.x) * kRun; col < w.cols; col += step) {
    const int n = w.cols - col < kRun ? static_cast<int>(w.cols - col) : kRun;
    float x[kRun];
    load_run(w.data + row * w.stride + col, n, x);
    const bool uniform = share_group(groups, row, col, n);
    std::uint64_t word = 0;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i >= n) continue;
      if (i == 0 || !uniform) {
        const std::size_t group = group_of(groups, row, col + static_cast<std::size_t>(i));
        encoder.set(encoding_scale(q, absmax, group), zero_point_of(q, group));
      }
      word |= static_cast<std::uint64_t>(encoder.encode(x[i])) << (i * q.spec.bits);
    }
    store_codes(codes + row * q.pitch + col / kRun * static_cast<std::size_t>(q.spec.bits), n, q.spec.bits, word);
  }
}

// ---- double quantization --------------------------------------------------------------------------------------------

/// The mean of the absmax values as quantize_nested has it: a double sum in their order. While no partial sum can round
/// (each value is a multiple of the smallest one's last bit, and the sum's bits fit a double), every order gives that
/// sum, and a block's threads share the work; else one thread adds them up. The former holds if the largest value is
/// below 2^(29 − log2(count)) times the smallest that is not 0.
template <int Threads>
NIBBLE_KERNEL(Threads, 1)
void nested_offset_kernel(const float* absmax, std::size_t count, float* offset) {
  NIBBLE_SHARED(double, sums, Threads);
  NIBBLE_SHARED(float, most, Threads);
  NIBBLE_SHARED(float, least, Threads);
  const unsigned thread = threadIdx.x;
  double sum = 0;
  float large = 0, small = std::numeric_limits<float>::max();
  for (std::size_t i = thread; i < count; i += Threads) {
    const float v = absmax[i];
    sum += static_cast<double>(v);
    large = larger(v, large);
    if (v > 0) small = smaller(v, small);
  }
  sums[thread] = sum;
  most[thread] = large;
  least[thread] = small;
  for (unsigned half = Threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread >= half) continue;
    sums[thread] += sums[thread + half];
    most[thread] = larger(most[thread], most[thread + half]);
    least[thread] = smaller(least[thread], least[thread + half]);
  }
  if (thread != 0) return;
  sum = sums[0];
  // Bits from the largest possible sum, count·2^(exponent + 1), down to the smallest value's last, 2^(exponent − 23).
  const auto exponent = [](float v) { return static_cast<int>(std::bit_cast<std::uint32_t>(v) >> 23); };
  int bits_of_count = 0;
  while ((count >> bits_of_count) != 0) ++bits_of_count;
  if (most[0] > 0 && exponent(most[0]) + 1 + bits_of_count - (exponent(least[0]) - 23) > 53) {
    sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(absmax[i]);
  }
  *offset = static_cast<float>(sum / static_cast<double>(count));
}

/// quantize_nested of one block of 256 absmax values; a thread has one of them.
template <int N>
NIBBLE_KERNEL(N, 1)
void nested_kernel(const float* absmax, std::size_t count, CanonicalBuffers to, const CodebookTables<N> tables) {
  static_assert(N == NestedScales::block_size);
  NIBBLE_SHARED(float, threshold, N);
  NIBBLE_SHARED(std::uint8_t, code_of_rank, N);
  NIBBLE_SHARED(float, most, N / kWarp);
  const unsigned thread = threadIdx.x;
  threshold[thread] = tables.threshold[thread];
  code_of_rank[thread] = tables.code[thread];
  if (blockIdx.x == 0) to.nested_map[thread] = tables.value[thread];
  const std::size_t i = std::size_t{blockIdx.x} * N + thread;
  const float centred = i < count ? absmax[i] - *to.nested_offset : 0.0f;
  const float of_warp = reduce_team(magnitude(centred), kWarp, larger);
  if (thread % kWarp == 0) most[thread / kWarp] = of_warp;
  __syncthreads();
  float largest = 0;
  for (unsigned w = 0; w < N / kWarp; ++w) largest = larger(most[w], largest);
  largest = stored_absmax(largest);
  if (thread == 0) to.nested_absmax[blockIdx.x] = largest;
  if (i >= count) return;
  CodebookEncoder<N> encoder({}, threshold, code_of_rank);
  encoder.set(largest, 0);
  static_cast<std::uint8_t*>(to.scales)[i] = encoder.encode(centred);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
