// quantize/<spec> and dequantize/<spec>, fp32, one thread, 4096 × 4096, against the streaming copy of this process:
// of_limit compares the bytes read and written.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>

#include "bench/support/limits.h"
#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/core/cpu_features.h"
#include "nibble/quantize/quantize.h"

namespace nibble {
namespace {

constexpr std::size_t kRows = 4096, kCols = 4096;

const std::vector<float>& weights() {
  static const std::vector<float> w = [] {
    std::vector<float> out(kRows * kCols);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : out) x = normal(random);
    return out;
  }();
  return w;
}

void count(benchmark::State& state, const QuantizedMatrix& q, double float_bytes) {
  const auto elements = static_cast<double>(kRows * kCols);
  const double bytes = float_bytes + static_cast<double>(q.storage_bytes());
  const double limit = 2 * bench::streaming_copy();                 // bytes read and bytes written
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;  // one thread: its CPU time is the time
  state.counters["elements"] = benchmark::Counter(elements, rate);
  state.counters["gbps"] = benchmark::Counter(bytes / 1e9, rate);
  state.counters["of_limit"] = benchmark::Counter(bytes / limit, rate);
  state.SetLabel("limit: streaming copy");
}

void run_quantize(benchmark::State& state, const char* spec_text) {
  const QuantSpec spec = QuantSpec::parse(spec_text);
  const FloatMatrix w = MatrixView<const float>(weights().data(), kRows, kCols);
  QuantizedMatrix q;
  for (auto _ : state) q = default_backend().quantize(w, spec, "w", serial_executor());
  count(state, q, 4.0 * static_cast<double>(kRows * kCols));
}

template <class T>
void run_dequantize(benchmark::State& state, const char* spec_text) {
  const auto q = quantize(MatrixView<const float>(weights().data(), kRows, kCols), spec_text);
  std::vector<T> out(kRows * kCols);
  for (auto _ : state)
    default_backend().dequantize_to(q, 0, MatrixView<T>(out.data(), kRows, kCols), serial_executor());
  const auto elements = static_cast<double>(kRows * kCols);
  count(state, q, sizeof(T) * elements);
}

/// What matmul_int8 does to its input, for one token of `cols` values that lie in a near cache: the absmax, then codes.
void run_activations(benchmark::State& state) {
  const auto cols = static_cast<std::size_t>(state.range(0));
  const kernels::KernelTable& isa = cpu_features().avx512 ? kernels::avx512_kernels
                                    : cpu_features().avx2 ? kernels::avx2_kernels
                                                          : kernels::scalar_kernels;
  std::vector<std::int8_t> codes(cols);
  std::int32_t sum = 0;
  for (auto _ : state) {
    const float most = isa.absmax(weights().data(), cols);
    benchmark::DoNotOptimize(sum += isa.encode_signed(weights().data(), cols, 127 / most, codes.data()));
  }
  state.counters["elements"] =
      benchmark::Counter(static_cast<double>(cols), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(run_activations)->Name("quantize/activations-int8")->Arg(4096)->Arg(65536);

const int registered = [] {
  for (const char* spec : {"int8", "int4-g128-sym", "int4-g32-sym", "int4-g32-asym", "int2-g32-asym", "nf4", "nf4-dq",
                           "fp4", "llm-int8", "dynamic8"}) {
    benchmark::RegisterBenchmark((std::string("quantize/") + spec).c_str(), run_quantize, spec)
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((std::string("dequantize/") + spec).c_str(), run_dequantize<float>, spec)
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((std::string("dequantize/") + spec + "/bf16").c_str(), run_dequantize<bf16>, spec)
        ->Unit(benchmark::kMillisecond);
  }
  return 0;
}();

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();
