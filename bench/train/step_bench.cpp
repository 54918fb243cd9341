// step/<model>/<base>/n<tokens>: one training step of a LoRA adapter of rank 16 on every linear layer, forward,
// backward and AdamW in 8 bits, with gradient checkpointing, on all threads. The limit is what the products with the
// frozen weights alone take in this process: two forward, one transposed.
//
// Models: `embedded`, examples/data/austen-5m; `135m`, random weights in the shape of SmolLM2-135M (30 layers of 576,
// 1536 inside, 9 heads of which 3 have keys), without its large vocabulary.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "nibble/engine/lora_model.h"
#include "tests/support/tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path model_of(const std::string& name) {
  if (name == "embedded") return NIBBLE_EXAMPLE_DATA "/austen-5m";
  static const fs::path folder = [] {
    const fs::path path = fs::temp_directory_path() / ("nibble-step-bench-" + std::to_string(::getpid()));
    testing_support::write_model(path, {.layers = 30, .hidden = 576, .intermediate = 1536, .heads = 9, .kv_heads = 3});
    return path;
  }();
  return folder;
}

train::Row row_of(std::size_t tokens) {
  train::Row row;
  for (std::size_t first = 0; first < tokens; first += 256) {
    train::Sample sample{std::vector<std::int32_t>(256, 1), std::vector<std::uint8_t>(256, 1)};
    for (std::size_t t = 0; t < 256; ++t) sample.ids[t] = static_cast<std::int32_t>(97 + (first + t * t) % 26);
    row.append(sample);
  }
  return row;
}

/// Seconds of the products with all frozen weights of a step.
double products(const engine::Model& model, std::size_t tokens) {
  double seconds = 0;
  for (const engine::Block& block : model.blocks())
    for (const engine::Linear& linear : block.linears) {
      if (!linear) continue;
      std::vector<float> x(tokens * linear.weight->cols(), 0.5f), y(tokens * linear.weight->rows(), 0.5f);
      const MatrixView<float> in(x.data(), tokens, linear.weight->cols()), out(y.data(), tokens, linear.weight->rows());
      const auto start = std::chrono::steady_clock::now();
      for (int pass = 0; pass < 2; ++pass) linear.weight->backend().matmul(in, *linear.weight, out, model.executor());
      linear.weight->backend().matmul_transposed(out, *linear.weight, in, model.executor());
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  return seconds;
}

void run(benchmark::State& state, const std::string& name, const std::string& base, std::size_t tokens) {
  engine::LoadOptions load;
  if (base != "fp32") load.quantize = QuantSpec::parse(base);
  const engine::Model model = engine::Model::load(model_of(name), load);
  engine::LoraModel lora(model, model::Adapter::make(model.config(), {}));
  train::Optimizer optimizer(lora.parameters(), {.state_bits = 8, .max_grad_norm = 0.3});
  const train::Row row = row_of(tokens);
  double limit = products(model, tokens);
  std::uint64_t pass = 0;
  for (auto _ : state) {
    lora.clear_gradients();
    const train::Loss loss = lora.add_gradients(row, pass++);
    optimizer.step(1e-4, 1 / static_cast<double>(loss.targets));
  }
  limit = std::min(limit, products(model, tokens));  // the first one found cold caches
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["tokens_per_s"] = benchmark::Counter(static_cast<double>(tokens), rate);
  state.counters["of_limit"] = benchmark::Counter(limit, rate);
  state.SetLabel("limit: products with the frozen weights");
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  using namespace nibble;
  for (const char* name : {"embedded", "135m"})
    for (const char* base : {"nf4-dq", "fp32"})
      benchmark::RegisterBenchmark((std::string("step/") + name + "/" + base + "/n1024").c_str(),
                                   [=](benchmark::State& state) { run(state, name, base, 1024); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  const fs::path made = fs::temp_directory_path() / ("nibble-step-bench-" + std::to_string(::getpid()));
  std::error_code ignored;
  fs::remove_all(made, ignored);
}
