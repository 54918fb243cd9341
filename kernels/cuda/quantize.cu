#include "kernels/cuda/quantize.h"

#include <algorithm>

#include "kernels/cuda/quantize.cuh"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

constexpr std::size_t kPartSize = 4096;  // elements that one warp reads: long enough to hide the atomics of its end
constexpr int kNestedThreads = static_cast<int>(NestedScales::block_size);

template <class Table>
auto tables_of() {
  using Scheme = Codebook<Table>;
  CodebookTables<static_cast<int>(Scheme::size)> out{};
  std::copy_n(Scheme::order().threshold.begin(), Scheme::size, out.threshold);
  std::copy_n(Scheme::order().code.begin(), Scheme::size, out.code);
  std::copy_n(Scheme::values().begin(), Scheme::size, out.value);
  return out;
}

unsigned blocks_for(std::size_t threads, std::size_t each) {
  return static_cast<unsigned>((threads + each - 1) / each);
}

GroupRuns runs_of(const QuantSpec& spec, std::size_t rows, std::size_t cols) {
  GroupRuns runs{spec.group_count(rows, cols), 1, 0, spec.group_size, 0, 1};
  std::size_t longest = spec.group_size;
  if (spec.granularity == Granularity::tensor) runs.size = longest = rows * cols;
  if (spec.granularity == Granularity::channel) runs.size = longest = cols;
  if (spec.granularity == Granularity::group) {
    runs.per_row = spec.groups_per_row(cols);
    longest = std::min(longest, cols);
  }
  if (spec.granularity == Granularity::block) longest = std::min(longest, rows * cols);
  runs.part_size = std::min(longest, kPartSize);
  runs.parts = (longest + runs.part_size - 1) / runs.part_size;
  while (runs.team < 32 && static_cast<std::size_t>(runs.team * kRun) < longest) runs.team *= 2;
  return runs;
}

/// How the workspace is divided: {largest, −least} of each group, then the absmax of each.
struct Workspace {
  std::uint32_t* keys;
  float* absmax;
};
Workspace divide(void* workspace, std::size_t groups) {
  auto* keys = static_cast<std::uint32_t*>(workspace);
  return {keys, reinterpret_cast<float*>(keys + 2 * groups)};
}

/// One quantization: the weights' type is known.
template <class T>
struct Job {
  Weights<T> w;
  QuantSpec spec;
  CanonicalBuffers to;
  Workspace work;
  QuantizeStatus* status;
  cudaStream_t stream;

  cudaError_t fit() const {
    const GroupRuns runs = runs_of(spec, w.rows, w.cols);
    const std::size_t words = runs.parts > 1 ? 2 * runs.count : 1;
    cudaError_t error = launch(clear_quantize_kernel, dim3(blocks_for(words, kQuantizeThreads)), dim3(kQuantizeThreads),
                               0, stream, work.keys, words, status);
    if (error != cudaSuccess) return error;
    const std::size_t lanes = runs.count * runs.parts * static_cast<std::size_t>(runs.team);
    error = launch(fit_kernel<T>, dim3(blocks_for(lanes, kQuantizeThreads)), dim3(kQuantizeThreads), 0, stream, w, runs,
                   spec, to, work.absmax, work.keys, status);
    if (error != cudaSuccess || runs.parts == 1) return error;
    return launch(finish_fit_kernel, dim3(blocks_for(runs.count, kQuantizeThreads)), dim3(kQuantizeThreads), 0, stream,
                  runs.count, spec, to, work.absmax, static_cast<const std::uint32_t*>(work.keys), status);
  }

  template <class Encoder>
  cudaError_t encode(const CodebookTables<Encoder::table_size>& tables) const {
    CanonicalMatrix q;
    q.spec = spec;
    q.rows = w.rows;
    q.cols = w.cols;
    q.pitch = to.pitch;
    q.scales = to.scales;
    q.zero_points = to.zero_points;
    constexpr unsigned rows = kQuantizeThreads / kWarp;
    constexpr std::size_t most_y = 65535;
    const dim3 grid(blocks_for(w.rows, rows),
                    static_cast<unsigned>(std::min<std::size_t>(blocks_for(w.cols, kWarp * kRun), most_y)));
    return launch(encode_kernel<Encoder, T>, grid, dim3(kWarp, rows), 0, stream, w, q, group_map(spec, w.cols, nullptr),
                  static_cast<const float*>(work.absmax), to.codes, tables);
  }
  cudaError_t encode() const {
    switch (spec.scheme) {
      case SchemeKind::symmetric:
      case SchemeKind::asymmetric: return encode<AffineEncoder>({});
      case SchemeKind::llm_int8: return encode<Int8Encoder>({});
      case SchemeKind::nf4: return encode<CodebookEncoder<16>>(tables_of<nf4>());
      case SchemeKind::fp4: return encode<CodebookEncoder<16>>(tables_of<fp4>());
      case SchemeKind::dynamic8: return encode<CodebookEncoder<256>>(tables_of<dynamic_map<true>>());
      default: break;  // floats, and what a program registered
    }
    return cudaErrorInvalidValue;
  }

  cudaError_t quantize_absmax() const {
    const std::size_t groups = spec.group_count(w.rows, w.cols);
    const auto* absmax = static_cast<const float*>(work.absmax);
    const cudaError_t error = launch(nested_offset_kernel<kNestedThreads>, dim3(1), dim3(kNestedThreads), 0, stream,
                                     absmax, groups, to.nested_offset);
    if (error != cudaSuccess) return error;
    return launch(nested_kernel<kNestedThreads>, dim3(blocks_for(groups, kNestedThreads)), dim3(kNestedThreads), 0,
                  stream, absmax, groups, to, tables_of<dynamic_map<true>>());
  }

  cudaError_t run() const {
    cudaError_t error = fit();
    if (error == cudaSuccess) error = encode();
    if (error == cudaSuccess && spec.double_quant) error = quantize_absmax();
    return error;
  }
};

template <class T>
cudaError_t run(const void* x, std::size_t rows, std::size_t cols, std::size_t stride, const QuantSpec& spec,
                const CanonicalBuffers& to, void* workspace, QuantizeStatus* status, cudaStream_t stream) {
  return Job<T>{{static_cast<const T*>(x), rows, cols, stride},  spec,   to,
                divide(workspace, spec.group_count(rows, cols)), status, stream}
      .run();
}

}  // namespace

std::size_t quantize_workspace(const QuantSpec& spec, std::size_t rows, std::size_t cols) {
  return spec.group_count(rows, cols) * (2 * sizeof(std::uint32_t) + sizeof(float));
}

int quantize(const void* x, DType type, std::size_t rows, std::size_t cols, std::size_t stride, const QuantSpec& spec,
             const CanonicalBuffers& to, void* workspace, QuantizeStatus* status, cudaStream_t stream) {
  switch (type) {
    case DType::f32: return run<float>(x, rows, cols, stride, spec, to, workspace, status, stream);
    case DType::f16: return run<f16>(x, rows, cols, stride, spec, to, workspace, status, stream);
    case DType::bf16: return run<bf16>(x, rows, cols, stride, spec, to, workspace, status, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
