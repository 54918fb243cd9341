#include "compare_losses.h"

#include <algorithm>
#include <cmath>

#include "commands.h"
#include "model/gguf_checkpoint.h"
#include "model/linear_layers.h"
#include "nibble/backend/backend.h"
#include "nibble/engine/model.h"
#include "nibble/quantize/quantize.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;

/// A layer's weight as fp32, quantized or not; empty where the checkpoint has none of that shape.
std::vector<float> weight_of(const Checkpoint& checkpoint, const std::string& layer, std::size_t rows,
                             std::size_t cols) {
  if (const auto q = decode_quantized(checkpoint, layer)) {
    if (q->rows != rows || q->cols != cols) return {};
    std::vector<float> out(rows * cols);
    dequantize(*q, {out.data(), rows, cols}, {.name = layer, .backend = chosen_backend()});
    return out;
  }
  const std::string name = layer + ".weight";
  if (!checkpoint.contains(name) || checkpoint.info(name).shape != std::vector<std::size_t>{rows, cols}) return {};
  return checkpoint.read_f32(name);
}

}  // namespace

OriginalLayers::OriginalLayers(const fs::path& model, const fs::path& text, std::size_t memory)
    : model_(model::open_checkpoint(model, model::GgufView::decoded)) {
  const auto found = model::find_linear_layers(model_, model::Outline::load(model), model.string());
  for (const model::LinearTensor& l : found.linears)
    if (l.matrices == 0) layers_.push_back(l.layer);
  keep_inputs(model, text, memory);
}

void OriginalLayers::keep_inputs(const fs::path& model, const fs::path& text, std::size_t memory) {
  constexpr std::size_t tokens = 512, most = 128;
  std::size_t of_a_token = 0;
  for (const std::string& layer : layers_) of_a_token += model_.info(layer + ".weight").shape[1] * sizeof(float);
  const std::size_t rows = std::clamp(memory / std::max<std::size_t>(of_a_token, 1), std::size_t{8}, most);
  auto ids = read_tokens(model, text, tokens);
  ids.resize(std::min(ids.size(), tokens));
  engine::LoadOptions options;
  options.backend = chosen_backend();
  auto engine = engine::Model::load(model, options);
  engine.set_linear_hook([&](std::string_view layer, MatrixView<const float> x) {
    Inputs& kept = inputs_.try_emplace(std::string(layer)).first->second;
    kept.cols = x.cols;
    const std::size_t step = std::max<std::size_t>(1, x.rows / rows);  // spread over the text
    for (std::size_t t = step / 2; t < x.rows && kept.rows < rows; t += step, ++kept.rows)
      kept.values.insert(kept.values.end(), x.row(t).data(), x.row(t).data() + x.cols);
  });
  engine::KvCache cache(engine.config(), ids.size());
  (void)engine.forward(ids, cache, true);
}

double OriginalLayers::loss_of(const Inputs& x, std::vector<float> exact, std::vector<float> decoded) const {
  const std::size_t rows = exact.size() / x.cols;
  for (std::size_t i = 0; i < exact.size(); ++i) decoded[i] = exact[i] - decoded[i];
  const Backend& backend = chosen_backend() != nullptr ? *chosen_backend() : default_backend();
  const auto squares = [&](const std::vector<float>& weight) {
    const auto packed = backend.pack(FloatMatrix(MatrixView<const float>(weight.data(), rows, x.cols)));
    std::vector<float> y(x.rows * rows);
    backend.matmul({x.values.data(), x.rows, x.cols}, *packed, {y.data(), x.rows, rows}, default_executor());
    double sum = 0;
    for (const float v : y) sum += static_cast<double>(v) * static_cast<double>(v);
    return sum;
  };
  const double all = squares(exact);
  return all > 0 ? std::sqrt(squares(decoded) / all) : kUnknown;
}

std::vector<LayerLoss> OriginalLayers::losses(const fs::path& copy) const {
  const Checkpoint quantized = model::open_checkpoint(copy, model::GgufView::decoded);
  std::vector<LayerLoss> out;
  for (const std::string& layer : layers_) {
    const auto x = inputs_.find(layer);
    const std::string name = layer + ".weight";
    const auto& shape = model_.info(name).shape;
    if (x == inputs_.end() || x->second.rows == 0 || x->second.cols != shape[1]) continue;
    std::vector<float> decoded = weight_of(quantized, layer, shape[0], shape[1]);
    if (decoded.empty()) continue;
    const double loss = loss_of(x->second, model_.read_f32(name), std::move(decoded));
    model_.release(name);
    if (std::isfinite(loss)) out.push_back({layer, loss});
  }
  return out;
}

}  // namespace nibble::cli
