// step/<rule><bits>: one step of an optimizer over 2^24 elements, one thread, against the streaming copy of this
// process: of_limit compares the bytes that must be read and written. The gradients are read twice, for their norm too,
// and count once.
#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "bench/support/limits.h"
#include "nibble/train/optimizer.h"

namespace nibble {
namespace {

constexpr std::size_t kElements = std::size_t{1} << 24;

std::vector<float> normal(unsigned seed, float sigma) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0, sigma);
  std::vector<float> out(kElements);
  for (float& x : out) x = distribution(random);
  return out;
}

void run_step(benchmark::State& state, train::OptimizerOptions options) {
  options.executor = &serial_executor();
  std::vector<float> values = normal(1, 0.02f);
  static const std::vector<float> gradients = normal(2, 1e-3f);
  train::Optimizer optimizer({{"w", values, gradients}}, options);
  for (auto _ : state) optimizer.step(1e-4);
  const auto elements = static_cast<double>(kElements);
  const double bytes = 12 * elements + 2 * static_cast<double>(optimizer.state_bytes());
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;  // one thread: its CPU time is the time
  state.counters["elements"] = benchmark::Counter(elements, rate);
  state.counters["gbps"] = benchmark::Counter(bytes / 1e9, rate);
  state.counters["of_limit"] = benchmark::Counter(bytes / (2 * bench::streaming_copy()), rate);
  state.SetLabel("limit: streaming copy");
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  using namespace nibble;
  for (const int bits : {8, 32}) {
    benchmark::RegisterBenchmark(("step/adamw" + std::to_string(bits)).c_str(), [=](benchmark::State& state) {
      run_step(state, {.rule = AdamOptions{}, .state_bits = bits});
    });
    benchmark::RegisterBenchmark(("step/lion" + std::to_string(bits)).c_str(), [=](benchmark::State& state) {
      run_step(state, {.rule = LionOptions{}, .state_bits = bits});
    });
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
