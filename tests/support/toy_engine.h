// An engine that is none of the library's: blocks of two gated halves, each x += down(relu(gate(n))·up(n)), n a layer
// norm with a bias, multiplied by plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nibble/core/error.h"
#include "nibble/matrix/quantized_matrix.h"
#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"
#include "tests/support/random_data.h"

namespace nibble::testing_support {

/// How a test wants it.
struct Toy {
  std::size_t blocks = 3, width = 32, inner = 48, vocabulary = 64;
  bool resumes = false;  ///< Passes can begin within a block.
  bool modules = false;  ///< AWQ's loss is measured behind a whole half.
  bool stops = true;     ///< A pass ends where the listener says so.
  /// What is done to each block's groups, which then are wrong.
  void (*spoil)(std::vector<model::LayerGroup>&) = nullptr;
  std::size_t silent_group = 99;  ///< Whose input is not shown.
  std::size_t failing_block = 99;
};

class ToyModel final : public model::CalibratedModel {
 public:
  explicit ToyModel(const Toy& toy = {}) : toy_(toy), embedding_(normal(toy.vocabulary * toy.width, 1)) {
    unsigned seed = 2;
    for (std::size_t b = 0; b < toy.blocks; ++b)
      for (std::size_t half = 0; half < 2; ++half) {
        Half h{normal(toy.width, seed, 0.2f), normal(toy.width, seed + 1, 0.1f), {}};
        for (float& w : h.norm) w += 1;
        for (std::size_t c = 0; c < toy.width; c += 5) h.norm[c] *= 6;  // a few channels that matter more
        for (std::size_t m = 0; m < 3; ++m)
          h.matrices[m] = normal(toy.width * toy.inner, seed + 2 + static_cast<unsigned>(m), 0.15f);
        halves_.push_back(std::move(h));
        seed += 5;
      }
    head_ = normal(toy.vocabulary * toy.width, seed);
  }

  std::size_t blocks() const override { return toy_.blocks; }
  std::size_t width() const override { return toy_.width; }
  std::size_t vocabulary() const override { return toy_.vocabulary; }
  std::string fingerprint() const override { return "toy"; }
  void embed(std::span<const std::int32_t> ids, MatrixView<float> states) override {
    for (std::size_t t = 0; t < ids.size(); ++t)
      std::copy_n(embedding_.data() + static_cast<std::size_t>(ids[t]) * toy_.width, toy_.width, &states(t, 0));
  }
  std::unique_ptr<model::CalibratedBlock> block(std::size_t index) override {
    return std::make_unique<ToyBlock>(*this, index);
  }
  std::unique_ptr<model::CalibratedBlock> head() override { return std::make_unique<ToyHead>(*this); }

  /// Sequences that each layer was multiplied with so far.
  std::map<std::string, std::size_t> multiplied;

 private:
  enum Matrix : std::size_t { gate, up, down };
  struct Half {
    std::vector<float> norm, bias;
    std::vector<float> matrices[3];
  };

  /// y [n, out] = x · Wᵀ
  static std::vector<float> multiply(MatrixView<const float> x, const std::vector<float>& w) {
    const std::size_t out = w.size() / x.cols;
    std::vector<float> y(x.rows * out);
    for (std::size_t t = 0; t < x.rows; ++t)
      for (std::size_t o = 0; o < out; ++o)
        for (std::size_t i = 0; i < x.cols; ++i) y[t * out + o] += x(t, i) * w[o * x.cols + i];
    return y;
  }

  class ToyBlock final : public model::CalibratedBlock {
   public:
    ToyBlock(ToyModel& model, std::size_t index) : model_(model), index_(index) {
      const Toy& toy = model.toy_;
      for (std::size_t half = 0; half < 2; ++half) {
        used_.push_back(model.halves_[2 * index + half]);
        const std::string name = "blocks." + std::to_string(index) + (half == 0 ? ".first." : ".second.");
        groups_.resize(groups_.size() + 2);
        model::LayerGroup &in = groups_[2 * half], &out = groups_[2 * half + 1];
        in.layers = {{.name = name + "gate", .rows = toy.inner, .cols = toy.width},
                     {.name = name + "up", .rows = toy.inner, .cols = toy.width}};
        in.source.norm = {name + "norm.weight", used_.back().norm};
        in.source.norm_bias = {name + "norm.bias", used_.back().bias};
        in.has_module = toy.modules;
        out.layers = {{.name = name + "down", .rows = toy.width, .cols = toy.inner}};
        out.source.is_linear = true;
        out.source.linear = {2 * half, up};
      }
      if (toy.spoil != nullptr) toy.spoil(groups_);
    }

    std::span<const model::LayerGroup> groups() const override { return groups_; }
    FloatMatrix weights(model::LayerId id) override {
      const bool inner = id.group % 2 == 1;
      const auto& values = model_.halves_[2 * index_ + id.group / 2].matrices[inner ? down : id.layer];
      const std::size_t cols = inner ? model_.toy_.inner : model_.toy_.width;
      return MatrixView<const float>(values.data(), values.size() / cols, cols);
    }
    void replace(model::LayerId id, QuantizedMatrix q) override {
      std::vector<float>& to = used_[id.group / 2].matrices[id.group % 2 == 1 ? down : id.layer];
      for (std::size_t i = 0; i < to.size(); ++i) to[i] = q.value(i / q.cols, i % q.cols);
    }

    void run(MatrixView<float> x, Listener listen) override {
      if (index_ == model_.toy_.failing_block) throw Error(ErrorCode::io, "the toy is broken");
      begin(0, x, listen);
    }
    Resume resumes_at(std::size_t group) const override {
      if (!model_.toy_.resumes) return Resume::never;
      return group % 2 == 1 ? Resume::with_input : Resume::with_states;
    }
    void resume(std::size_t group, MatrixView<const float> input, MatrixView<float> x, Listener listen) override {
      if (group % 2 == 1) finish(group / 2, input, x, listen);
      else begin(group / 2, x, listen);
    }
    void run_module(std::size_t group, std::span<const FloatMatrix> weights,
                    std::span<const MatrixView<const float>> inputs, Outputs outputs) override {
      Half half = used_[group / 2];
      for (std::size_t l = 0; l < weights.size(); ++l)
        for (std::size_t i = 0; i < half.matrices[l].size(); ++i)
          half.matrices[l][i] = weights[l](i / weights[l].cols, i % weights[l].cols);
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const std::vector<float> gated = gate_of(half, inputs[i]);
        const std::vector<float> y = multiply({gated.data(), inputs[i].rows, model_.toy_.inner}, half.matrices[down]);
        outputs(i, {y.data(), inputs[i].rows, model_.toy_.width});
      }
    }

   private:
    static std::vector<float> gate_of(const Half& half, MatrixView<const float> normed) {
      std::vector<float> out = multiply(normed, half.matrices[up]);
      const std::vector<float> gates = multiply(normed, half.matrices[gate]);
      for (std::size_t i = 0; i < out.size(); ++i) out[i] *= std::max(gates[i], 0.0f);
      return out;
    }

    std::vector<float> normed(const Half& half, MatrixView<const float> x) const {
      std::vector<float> out(x.rows * x.cols);
      for (std::size_t t = 0; t < x.rows; ++t) {
        float sum = 0, squares = 1e-5f;
        for (const float v : x.row(t)) sum += v / static_cast<float>(x.cols);
        for (const float v : x.row(t)) squares += (v - sum) * (v - sum) / static_cast<float>(x.cols);
        for (std::size_t c = 0; c < x.cols; ++c)
          out[t * x.cols + c] = (x(t, c) - sum) / std::sqrt(squares) * half.norm[c] + half.bias[c];
      }
      return out;
    }

    /// Whether the pass goes on.
    bool show(std::size_t group, const std::vector<float>& input, std::size_t rows, Listener listen) const {
      if (group == model_.toy_.silent_group) return true;
      return listen(group, {input.data(), rows, input.size() / rows}) || !model_.toy_.stops;
    }
    void count(std::size_t group) {
      for (const model::CalibratedLayer& l : groups_[group].layers) ++model_.multiplied[l.name];
    }

    void begin(std::size_t half, MatrixView<float> x, Listener listen) {
      const std::vector<float> n = normed(used_[half], x);
      if (!show(2 * half, n, x.rows, listen)) return;
      const std::vector<float> gated = gate_of(used_[half], {n.data(), x.rows, x.cols});
      count(2 * half);
      if (!show(2 * half + 1, gated, x.rows, listen)) return;
      finish(half, {gated.data(), x.rows, model_.toy_.inner}, x, listen);
    }
    void finish(std::size_t half, MatrixView<const float> gated, MatrixView<float> x, Listener listen) {
      const std::vector<float> y = multiply(gated, used_[half].matrices[down]);
      count(2 * half + 1);
      for (std::size_t i = 0; i < y.size(); ++i) x.data[i] += y[i];
      if (half == 0) begin(1, x, listen);
    }

    ToyModel& model_;
    std::size_t index_;
    std::vector<Half> used_;
    std::vector<model::LayerGroup> groups_;
  };

  class ToyHead final : public model::CalibratedBlock {
   public:
    explicit ToyHead(ToyModel& model) : model_(model) {
      groups_.front().layers = {{.name = "head", .rows = model.toy_.vocabulary, .cols = model.toy_.width}};
    }
    std::span<const model::LayerGroup> groups() const override { return groups_; }
    FloatMatrix weights(model::LayerId) override {
      return MatrixView<const float>(model_.head_.data(), model_.toy_.vocabulary, model_.toy_.width);
    }
    void run(MatrixView<float> x, Listener listen) override { listen(0, x); }
    void replace(model::LayerId, QuantizedMatrix) override {}

   private:
    ToyModel& model_;
    std::vector<model::LayerGroup> groups_{1};
  };

  Toy toy_;
  std::vector<float> embedding_, head_;
  std::vector<Half> halves_;  ///< Two a block.
};

/// Keeps the blocks, and gives back those that it has had before.
class MemorySink final : public model::CalibrationSink {
 public:
  std::size_t begin(const Manifest& manifest, std::size_t) override {
    seen = manifest;
    return blocks.size();
  }
  void write(std::size_t index, model::FinishedBlock block) override {
    if (index != blocks.size()) throw Error(ErrorCode::invalid_argument, "a block came out of turn");
    blocks.push_back(std::move(block));
  }
  [[nodiscard]] model::FinishedBlock read(std::size_t index) const override { return blocks.at(index); }

  std::vector<model::FinishedBlock> blocks;
  Manifest seen;
};

}  // namespace nibble::testing_support
