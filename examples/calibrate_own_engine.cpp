// GPTQ and AWQ for an engine of your own: a few residual blocks, x += down(relu(up(norm(x)))), with weights in memory
// and a plain loop to multiply. What the library needs of it are the two classes below; memory, cancelling, reports and
// the rest of nibble/model/calibrate.h come with it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "nibble/model/calibrate.h"
#include "nibble/model/calibrated_block.h"
#include "nibble/quantize/quantize.h"

namespace {

using nibble::FloatMatrix, nibble::MatrixView, nibble::QuantizedMatrix;
using namespace nibble::model;

constexpr std::size_t kWidth = 64, kInner = 128, kBlocks = 3, kVocabulary = 100;

std::vector<float> random_values(std::size_t n, float spread) {
  static std::mt19937 random(1);
  std::vector<float> out(n);
  std::generate(out.begin(), out.end(), [&] { return std::normal_distribution<float>(0, spread)(random); });
  return out;
}

struct Weights {  // of one block
  std::vector<float> norm, up, down;
};

MatrixView<const float> view(const std::vector<float>& x, std::size_t cols) {
  return {x.data(), x.size() / cols, cols};
}

/// y [n, out] = x [n, in] · Wᵀ
std::vector<float> multiply(MatrixView<const float> x, const std::vector<float>& w) {
  const std::size_t out = w.size() / x.cols;
  std::vector<float> y(x.rows * out);
  for (std::size_t t = 0; t < x.rows; ++t)
    for (std::size_t o = 0; o < out; ++o)
      for (std::size_t i = 0; i < x.cols; ++i) y[t * out + o] += x(t, i) * w[o * x.cols + i];
  return y;
}

struct Block : CalibratedBlock {
  Block(Weights& own, std::size_t index) : own_(own), used_(own) {
    const std::string name = "block" + std::to_string(index);
    groups_.resize(2);  // the layers, together where they share an input; and what AWQ's scales may fold into
    groups_[0].layers = {{.name = name + ".up", .rows = kInner, .cols = kWidth}};
    groups_[0].source.norm = {name + ".norm", own.norm};
    groups_[1].layers = {{.name = name + ".down", .rows = kWidth, .cols = kInner}};
    groups_[1].source.is_linear = true;  // up: ReLU lets positive scales through
    groups_[1].source.linear = {.group = 0, .layer = 0};
  }
  std::span<const LayerGroup> groups() const override { return groups_; }
  FloatMatrix weights(LayerId id) override { return id.group == 0 ? view(own_.up, kWidth) : view(own_.down, kInner); }
  void run(MatrixView<float> states, Listener listen) override {
    std::vector<float> normed(states.rows * kWidth);
    for (std::size_t t = 0; t < states.rows; ++t) {
      float sum = 1e-6f;
      for (const float v : states.row(t)) sum += v * v / kWidth;
      for (std::size_t c = 0; c < kWidth; ++c) normed[t * kWidth + c] = states(t, c) / std::sqrt(sum) * used_.norm[c];
    }
    if (!listen(0, view(normed, kWidth))) return;  // what up multiplies; nobody wants more
    std::vector<float> inner = multiply(view(normed, kWidth), used_.up);
    for (float& v : inner) v = std::max(v, 0.0f);
    if (!listen(1, view(inner, kInner))) return;  // what down multiplies
    const std::vector<float> y = multiply(view(inner, kInner), used_.down);
    std::transform(y.begin(), y.end(), states.data, states.data, std::plus<>());
  }
  void replace(LayerId id, QuantizedMatrix q) override {
    nibble::dequantize(q, {id.group == 0 ? used_.up.data() : used_.down.data(), q.rows, q.cols});
  }
  const Weights& own_;  // as they were
  Weights used_;        // as they are multiplied by
  std::vector<LayerGroup> groups_;
};

struct Model : CalibratedModel {
  Model() : tokens_(random_values(kVocabulary * kWidth, 1)) {
    for (Weights& w : blocks_)
      w = {random_values(kWidth, 1), random_values(kInner * kWidth, 0.1f), random_values(kWidth * kInner, 0.1f)};
  }
  std::size_t blocks() const override { return kBlocks; }
  std::size_t width() const override { return kWidth; }
  void embed(std::span<const std::int32_t> ids, MatrixView<float> states) override {
    for (std::size_t t = 0; t < ids.size(); ++t)
      std::copy_n(tokens_.data() + static_cast<std::size_t>(ids[t]) * kWidth, kWidth, &states(t, 0));
  }
  std::unique_ptr<CalibratedBlock> block(std::size_t i) override { return std::make_unique<Block>(blocks_[i], i); }
  std::vector<float> tokens_;
  std::vector<Weights> blocks_{kBlocks};
};

/// Takes the finished blocks: an engine would pack the matrices, and use the norms that AWQ changed.
struct Keep : CalibrationSink {
  void write(std::size_t, FinishedBlock block) override { blocks.push_back(std::move(block)); }
  std::vector<FinishedBlock> blocks;
};

}  // namespace

int main() {
  std::vector<std::int32_t> ids(4096);
  for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<std::int32_t>(t * t % kVocabulary);
  for (const char* method : {"gptq-4-g32", "awq-4-g32"}) {
    Model model;
    Keep kept;
    CalibrateOptions options;
    options.method = CalibratedMethod::parse(method);
    options.sample_tokens = 256;
    for (const LayerReport& r : calibrate(model, ids, options, kept).layers)
      std::printf("%-10s %-12s loss %7.4f, by rounding %7.4f\n", method, r.layer.c_str(), r.loss, r.rounding_loss);
    if (kept.blocks.size() != kBlocks) return 1;
  }
}
