// forward/<spec>/n<tokens> and backward/<spec>/n<tokens>: y = x·Wᵀ with fp32 activations, and grad_x = grad_y·W through
// the same packed weight, 4096 × 4096, one thread, against the peak of fused multiply-adds of this process.
#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "bench/support/limits.h"
#include "nibble/backend/backend.h"
#include "nibble/quantize/quantize.h"

namespace nibble {
namespace {

constexpr std::size_t kSize = 4096;

std::vector<float> normal(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0, 0.02f);
  std::vector<float> out(n);
  for (float& x : out) x = distribution(random);
  return out;
}

void run(benchmark::State& state, const std::string& spec, std::size_t tokens, bool backward) {
  static const std::vector<float> weights = normal(kSize * kSize, 1);
  const auto packed = default_backend().pack(quantize(MatrixView<const float>(weights.data(), kSize, kSize), spec));
  const std::vector<float> x = normal(tokens * kSize, 2);
  std::vector<float> y(x.size());
  const MatrixView<const float> in(x.data(), tokens, kSize);
  const MatrixView<float> out(y.data(), tokens, kSize);
  for (auto _ : state) {
    if (backward) default_backend().matmul_transposed(in, *packed, out, serial_executor());
    else default_backend().matmul(in, *packed, out, serial_executor());
    benchmark::ClobberMemory();
  }
  const double operations = 2.0 * static_cast<double>(tokens * kSize * kSize);
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;  // one thread: its CPU time is the time
  state.counters["gflops"] = benchmark::Counter(operations / 1e9, rate);
  state.counters["of_limit"] = benchmark::Counter(operations / bench::fma_peak(1), rate);
  state.SetLabel("limit: fused multiply-adds");
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  using namespace nibble;
  for (const char* spec : {"nf4-dq", "int4-g128-sym", "int8"})
    for (const std::size_t tokens : {64u, 512u})
      for (const bool backward : {false, true})
        benchmark::RegisterBenchmark(
            (std::string(backward ? "backward/" : "forward/") + spec + "/n" + std::to_string(tokens)).c_str(),
            [=](benchmark::State& state) { run(state, spec, tokens, backward); })
            ->Unit(benchmark::kMillisecond);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
