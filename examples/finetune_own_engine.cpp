// QLoRA in an engine of your own: a model of one matrix in NF4 that predicts the next letter from the last two, and a
// LoRA adapter beside it. What the loop needs of an engine is the class below: its tensors, the loss of a row of tokens
// and the gradients. Order, schedule, optimizer, checkpoints and resuming come with train/finetune.h.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/core/philox.h"
#include "nibble/train/finetune.h"
#include "nibble/train/lora.h"

namespace {

using namespace nibble;

constexpr std::size_t kLetters = 32, kWidth = 2 * kLetters, kRank = 8;
constexpr float kScale = 4;

std::vector<float> random_values(std::size_t n, float spread) {
  std::vector<float> out(n);
  for (std::size_t i = 0; i < n; ++i)
    out[i] = (static_cast<float>(philox({static_cast<std::uint32_t>(i)}, {1, 2})[0]) / 0x1p31f - 1) * spread;
  return out;
}

struct Engine : train::Trainable {
  Engine() {
    const std::vector<float> weights = random_values(kLetters * kWidth, 0.05f);
    const MatrixView<const float> dense(weights.data(), kLetters, kWidth);
    packed = backend.pack(backend.quantize(dense, QuantSpec::parse("nf4"), "weights", default_executor()));
  }
  std::vector<train::Parameter> parameters() override { return {{"lora_A", a, grad_a}, {"lora_B", b, grad_b}}; }
  void clear_gradients() override {
    std::ranges::fill(grad_a, 0.0f);
    std::ranges::fill(grad_b, 0.0f);
  }
  train::Loss add_gradients(const train::Row& row, std::uint64_t) override { return go(row, true); }
  train::Loss loss(const train::Row& row) override { return go(row, false); }

  train::Loss go(const train::Row& row, bool gradients) {
    const std::size_t n = row.ids.size();
    std::vector<float> x(n * kWidth), y(n * kLetters);
    for (std::size_t t = 0; t < n; ++t) {  // the last letter, and the one before it, as units
      x[t * kWidth + static_cast<std::size_t>(row.ids[t])] = 1;
      if (t > 0) x[t * kWidth + kLetters + static_cast<std::size_t>(row.ids[t - 1])] = 1;
    }
    const MatrixView<const float> in(x.data(), n, kWidth), va(a.data(), kRank, kWidth), vb(b.data(), kLetters, kRank);
    const MatrixView<float> out(y.data(), n, kLetters);
    backend.matmul(in, *packed, out, default_executor());  // the frozen weights, in 4 bits
    const train::LoraProduct forward{in, va, vb, out, kScale, {}};
    train::add_lora({&forward, 1});
    train::Loss loss;
    const std::vector<std::size_t> targets = train::targets_of(row);
    for (std::size_t t = 0; t < n; ++t) {  // softmax, and y becomes the gradient of the loss
      float sum = 0;
      const float most = *std::ranges::max_element(out.row(t));
      for (float& v : out.row(t)) sum += v = std::exp(v - most);
      const bool counts = targets[t] != train::kNoTarget;
      if (counts) loss += {-std::log(static_cast<double>(out(t, targets[t]) / sum)), 1};
      for (float& v : out.row(t)) v = counts ? v / sum : 0;
      if (counts) out(t, targets[t]) -= 1;
    }
    if (!gradients) return loss;
    // A deeper model would go on with backend.matmul_transposed, through the frozen weights.
    const train::LoraGradient back{
        in, va, vb, out, {}, {grad_a.data(), kRank, kWidth}, {grad_b.data(), kLetters, kRank}, kScale, {}};
    train::add_lora_gradients({&back, 1});
    return loss;
  }

  const Backend& backend = default_backend();
  PackedMatrixPtr packed;
  std::vector<float> a = random_values(kRank * kWidth, 0.125f), b = std::vector<float>(kLetters * kRank);
  std::vector<float> grad_a = std::vector<float>(a.size()), grad_b = std::vector<float>(b.size());
};

}  // namespace

int main() {
  constexpr std::string_view text =
      "peter piper picked a peck of pickled peppers a peck of pickled peppers peter piper picked";
  train::Sample sample;
  for (const char c : text) sample.ids.push_back(c == ' ' ? 0 : c - 'a' + 1);
  sample.trained.assign(sample.ids.size(), 1);
  Engine engine;
  train::FinetuneOptions options;
  options.epochs = 60;
  options.learning_rate = 0.03;
  options.on_step = [](const train::StepRecord& s) {
    if (s.step % 10 == 0) std::printf("step %2zu of %zu: loss %.3f\n", s.step, s.steps, s.loss);
    return true;
  };
  const auto report = train::finetune(engine, train::pack_rows({sample}, 64, train::Packing::wrapped), {}, options);
  return report.last_loss < 1 ? 0 : 1;
}
