// <path>/<spec>/f16/<rows>x<columns>/n<tokens>: the device's products (bench/cuda/device_products.h says how they are
// timed), and beside each, in the same process, cuBLAS's product of the same shape with fp16 weights, measured just
// before it; blas/f16/… are those alone.
//
// gbps counts the quantized weights alone. of_limit is that against what a read of the device's memory reads,
// measured at the start (a copy's rate, which is lower, is noted beside it). over_fp16 is cuBLAS's time over ours.
// gflops: two operations a weight and token.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <map>
#include <memory>

#include "bench/cuda/device_products.h"
#include "kernels/cuda/gemv.h"
#include "nibble/core/error.h"

namespace nibble::bench {
namespace {

struct Case {
  Path path;
  std::string spec;  ///< Empty: fp16 weights.
  LayerShape shape;
  std::size_t tokens;
};

std::string name_of(LayerShape s) { return std::to_string(s.rows) + "x" + std::to_string(s.cols); }
std::string name_of(const Case& c) {
  return std::string(name_of(c.path)) + "/" + (c.spec.empty() ? "f16" : c.spec) + "/f16/" + name_of(c.shape) + "/n" +
         std::to_string(c.tokens);
}

/// The device, what it can do at most, and the layers of the last shape: making them takes longer than multiplying.
class Run {
 public:
  explicit Run(const BenchDevice& device) : device_(&device), read_rate_(device.read_rate()) {}
  [[nodiscard]] double read_rate() const { return read_rate_; }

  const Layer& layer(const std::string& spec, LayerShape shape) {
    if (shape_ != name_of(shape)) layers_.clear();
    shape_ = name_of(shape);
    std::unique_ptr<Layer>& layer = layers_[spec];
    if (!layer) layer = std::make_unique<Layer>(*device_, spec, shape);
    return *layer;
  }
  /// The best of a few runs.
  double fp16_seconds(LayerShape shape, std::size_t tokens) {
    const Products products(*device_, layer("", shape), Path::blas, tokens);
    double best = 1e30;
    for (int i = 0; i < 5; ++i) best = std::min(best, products.seconds());
    return best;
  }
  void measure(benchmark::State& state, const Case& c) {
    const double fp16 = fp16_seconds(c.shape, c.tokens);
    const Layer& weights = layer(c.spec, c.shape);
    const Products products(*device_, weights, c.path, c.tokens);
    double total = 0;
    for (auto _ : state) {
      const double seconds = products.seconds();
      state.SetIterationTime(seconds);
      total += seconds;
    }
    const double each = total / static_cast<double>(state.iterations());
    state.counters["gflops"] = 2.0 * static_cast<double>(c.shape.rows * c.shape.cols * c.tokens) / each / 1e9;
    state.counters["gbps"] = static_cast<double>(weights.bytes()) / each / 1e9;
    state.counters["of_limit"] = static_cast<double>(weights.bytes()) / each / read_rate_;
    state.counters["over_fp16"] = fp16 / each;
    state.SetLabel("limit: read of memory");
  }

 private:
  const BenchDevice* device_;
  double read_rate_;
  std::string shape_;
  std::map<std::string, std::unique_ptr<Layer>> layers_;
};

void add(Run& run, const Case& c) {
  benchmark::RegisterBenchmark(name_of(c).c_str(),
                               [&run, c](benchmark::State& state) {
                                 try {
                                   run.measure(state, c);
                                 } catch (const Error& e) {
                                   state.SkipWithError(e.what());
                                 }
                               })
      ->Unit(benchmark::kMicrosecond)
      ->UseManualTime();
}

/// The paths that weights of a spec have, for so many tokens.
std::vector<Path> paths_of(const std::string& spec, std::size_t tokens) {
  std::vector<Path> paths;
  if (!spec.empty() && tokens <= cuda::kMaxGemvTokens) paths.push_back(Path::gemv);
  if (spec.find('4') < spec.find('-')) paths.push_back(Path::tensor_core);  // int4, nf4
  paths.push_back(Path::blas);
  if (spec == "int8" || spec == "llm-int8") paths.push_back(Path::int8);
  return paths;
}

void add_all(Run& run) {
  for (const LayerShape shape : {LayerShape{4096, 4096}, LayerShape{4096, 14336}})
    for (const std::string spec : {"", "int4-g128-sym", "int4-g128-asym", "nf4-b64", "int8", "llm-int8"})
      for (const std::size_t tokens : {1, 8, 16, 64, 512, 2048})
        for (const Path path : paths_of(spec, tokens)) add(run, {path, spec, shape, tokens});
}

}  // namespace
}  // namespace nibble::bench

int main(int argc, char** argv) {
  using namespace nibble;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  if (const std::string why = cuda::why_unavailable(); !why.empty()) {
    std::fprintf(stderr, "NOTHING WAS MEASURED: %s\n", why.c_str());
    return 0;
  }
  try {
    const bench::BenchDevice device;
    bench::Run run(device);
    const cuda::DeviceInfo& info = device.context().device();
    benchmark::AddCustomContext("device", info.name);
    benchmark::AddCustomContext("compute_capability", std::to_string(info.compute_capability));
    benchmark::AddCustomContext("read_gbps", std::to_string(run.read_rate() / 1e9));
    benchmark::AddCustomContext("copy_gbps", std::to_string(device.copy_rate() / 1e9));
    bench::add_all(run);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "cuda_matmul_bench: %s\n", e.what());
    return 1;
  }
}
