// memory/<what>: the peak memory of three training steps of the embedded model (examples/data/austen-5m), batch 4 of
// 512 tokens, gradient checkpointing, in a process of its own.
//
//   full-fp32      all weights of the linear layers in fp32, their gradients, AdamW with moments in fp32
//   lora-fp32      an adapter of rank 16 over them, 8-bit AdamW
//   lora-nf4-dq    the same over NF4 with double quantization: QLoRA
#include <benchmark/benchmark.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "nibble/engine/lora_model.h"
#include "src/engine/training_pass.h"

namespace nibble {
namespace {

/// Every linear layer of the blocks trained as it is: the weights of `stored`, in a model that holds others, small
/// ones, so that nothing is there twice.
class WholeModel final : public train::Trainable {
 public:
  WholeModel(const engine::Model& base, const engine::Model& stored)
      : base_(base), blocks_(stored.blocks()), gradients_(blocks_.size()) {
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      for (std::size_t role = 0; role < model::kLinearRoles; ++role) {
        engine::Linear& linear = blocks_[b].linears[role];
        if (!linear) continue;
        const std::size_t rows = linear.weight->rows(), cols = linear.weight->cols();
        Layer& layer = layers_.emplace_back(Layer{linear.name, b, role, std::vector<float>(rows * cols), {}});
        for (std::size_t r = 0; r < rows; ++r) {
          const auto index = static_cast<std::int32_t>(r);
          linear.weight->backend().gather_rows(*linear.weight, {&index, 1}, {&layer.weights[r * cols], 1, cols},
                                               base_.executor());
        }
        layer.gradient.resize(rows * cols);
        gradients_[b][role] = {.weight = {layer.gradient.data(), rows, cols}};
        linear.weight = nullptr;  // or the stored ones would stay
      }
  }
  std::vector<train::Parameter> parameters() override {
    std::vector<train::Parameter> out;
    for (Layer& layer : layers_)
      out.push_back({.name = layer.name, .values = layer.weights, .gradient = layer.gradient});
    return out;
  }
  void clear_gradients() override {
    for (Layer& layer : layers_) std::ranges::fill(layer.gradient, 0.0f);
  }
  train::Loss add_gradients(const train::Row& row, std::uint64_t) override {
    pack();
    return engine::TrainingPass{.base = base_, .blocks = blocks_, .gradients = gradients_}.add_gradients(row);
  }
  train::Loss loss(const train::Row& row) override {
    pack();
    return engine::TrainingPass{.base = base_, .blocks = blocks_, .gradients = gradients_}.loss(row);
  }

 private:
  struct Layer {
    std::string name;
    std::size_t block, role;
    std::vector<float> weights, gradient;
  };

  void pack() {
    for (Layer& layer : layers_) {
      const MatrixView<float> gradient = gradients_[layer.block][layer.role].weight;
      const MatrixView<float> weights(layer.weights.data(), gradient.rows, gradient.cols);
      blocks_[layer.block].linears[layer.role].weight = default_backend().pack(FloatMatrix(weights));
    }
  }

  const engine::Model& base_;
  std::vector<engine::Block> blocks_;
  std::vector<engine::BlockGradients> gradients_;
  std::vector<Layer> layers_;
};

std::vector<train::Row> rows() {
  std::vector<train::Row> out(12);
  for (std::size_t i = 0; i < out.size(); ++i) {
    train::Sample sample{std::vector<std::int32_t>(512, 1), std::vector<std::uint8_t>(512, 1)};
    for (std::size_t t = 0; t < 512; ++t) sample.ids[t] = static_cast<std::int32_t>(97 + (i + t * t) % 26);
    out[i].append(sample);
  }
  return out;
}

void train_steps(const std::string& what) {
  train::FinetuneOptions options;
  options.accumulation = 1;
  options.max_steps = 3;
  engine::LoadOptions load;
  if (what == "lora-nf4-dq") load.quantize = QuantSpec::parse("nf4-dq");
  if (what == "full-fp32") load.quantize = QuantSpec::parse("int2-g32-asym");
  const engine::Model model = engine::Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m", load);
  if (what == "full-fp32") {
    options.optimizer.state_bits = 32;
    WholeModel whole(model, engine::Model::load(NIBBLE_EXAMPLE_DATA "/austen-5m"));
    train::finetune(whole, rows(), {}, options);
  } else {
    engine::LoraModel lora(model, model::Adapter::make(model.config(), {}));
    train::finetune(lora, rows(), {}, options);
  }
}

void peak_memory(benchmark::State& state, const std::string& what) {
  double most = 0;
  for (auto _ : state) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        train_steps(what);
      } catch (...) {
        std::_Exit(1);
      }
      std::_Exit(0);
    }
    int status = 0;
    rusage usage = {};
    if (child < 0 || ::wait4(child, &status, 0, &usage) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
      return state.SkipWithError("the training failed");
    most = std::max(most, static_cast<double>(usage.ru_maxrss) / 1000);
  }
  state.counters["peak_mb"] = most;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  for (const char* what : {"full-fp32", "lora-fp32", "lora-nf4-dq"})
    benchmark::RegisterBenchmark((std::string("memory/") + what).c_str(),
                                 [what](benchmark::State& state) { nibble::peak_memory(state, what); })
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
