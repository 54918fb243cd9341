// quantize/<spec> and dequantize/<spec>, fp32, one thread, 4096 × 4096, against the streaming copy of this process:
// of_limit compares the bytes read and written.
#include <benchmark/benchmark.h>

#include <random>

#include "bench/support/limits.h"
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

void count(benchmark::State& state, const QuantizedMatrix& q) {
  const auto elements = static_cast<double>(kRows * kCols);
  const double bytes = 4 * elements + static_cast<double>(q.storage_bytes());
  const double limit = 2 * bench::streaming_copy();  // bytes read and bytes written
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
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
  count(state, q);
}

void run_dequantize(benchmark::State& state, const char* spec_text) {
  const auto q = quantize(MatrixView<const float>(weights().data(), kRows, kCols), spec_text);
  std::vector<float> out(kRows * kCols);
  for (auto _ : state) default_backend().dequantize(q, 0, {out.data(), kRows, kCols}, serial_executor());
  count(state, q);
}

const int registered = [] {
  for (const char* spec : {"int8", "int4-g128-sym", "int4-g32-sym", "int4-g32-asym", "int2-g32-asym", "nf4", "nf4-dq",
                           "fp4", "llm-int8", "dynamic8"}) {
    benchmark::RegisterBenchmark((std::string("quantize/") + spec).c_str(), run_quantize, spec)
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((std::string("dequantize/") + spec).c_str(), run_dequantize, spec)
        ->Unit(benchmark::kMillisecond);
  }
  return 0;
}();

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();
