#include "adapted.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "nibble/core/error.h"
#include "nibble/engine/model.h"

namespace nibble::inline NIBBLE_ABI::engine {

Matrix decoded_rows(const PackedMatrix& weight, std::size_t first, std::size_t count, Executor& executor) {
  Matrix rows(count, weight.cols());
  if (weight.backend().has_gather_rows(weight)) {
    std::vector<std::int32_t> ids(count);
    for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int32_t>(first + i);
    weight.backend().gather_rows(weight, ids, rows.view(), executor);
    return rows;
  }
  Matrix units = Matrix::zeros(count, weight.rows());
  for (std::size_t i = 0; i < count; ++i) units(i, first + i) = 1;
  weight.backend().matmul_transposed(units.view(), weight, rows.view(), executor);
  return rows;
}

std::vector<double> squared_row_norms(const PackedMatrix& weight, Executor& executor) {
  constexpr std::size_t kRows = 256;
  std::vector<double> out(weight.rows());
  for (std::size_t first = 0; first < out.size(); first += kRows) {
    const Matrix rows = decoded_rows(weight, first, std::min(kRows, out.size() - first), executor);
    each_row(executor, rows.view().rows, [&](std::size_t r) {
      double sum = 0;
      for (const float w : rows.view().row(r)) sum += static_cast<double>(w) * static_cast<double>(w);
      out[first + r] = sum;
    });
  }
  return out;
}

void inverse_norms(const PackedMatrix& weight, std::span<const double> row_norms, const model::AdapterLayer& layer,
                   std::span<float> out, Executor& executor) {
  const std::size_t rank = layer.rank;
  Matrix through(rank, layer.out);
  weight.backend().matmul({layer.a.data(), rank, layer.in}, weight, through.view(), executor);
  std::vector<double> squares(rank * rank);  // A·Aᵀ
  for (std::size_t k = 0; k < rank; ++k)
    for (std::size_t l = 0; l < rank; ++l) {
      double sum = 0;
      for (std::size_t i = 0; i < layer.in; ++i)
        sum += static_cast<double>(layer.a[k * layer.in + i]) * static_cast<double>(layer.a[l * layer.in + i]);
      squares[k * rank + l] = sum;
    }
  const auto scale = static_cast<double>(layer.scale());
  for (std::size_t o = 0; o < layer.out; ++o) {
    double norm = row_norms[o];
    for (std::size_t k = 0; k < rank; ++k) {
      const auto b = static_cast<double>(layer.b[o * rank + k]);
      norm += 2 * scale * b * static_cast<double>(through(k, o));
      for (std::size_t l = 0; l < rank; ++l)
        norm += scale * scale * b * static_cast<double>(layer.b[o * rank + l]) * squares[k * rank + l];
    }
    if (!(norm > 0) || !std::isfinite(norm))
      throw Error(ErrorCode::non_finite, "layer '" + layer.name + "', row " + std::to_string(o) +
                                             ": the square of its norm with the adapter is " + std::to_string(norm) +
                                             ", and DoRA divides by the norm");
    out[o] = static_cast<float>(1 / std::sqrt(norm));
  }
}

struct Model::Adapted {
  model::Adapter adapter;
  std::vector<std::vector<float>> gains;  ///< Of each layer; empty without a magnitude.
};

Model Model::with_adapter(model::Adapter adapter) const {
  adapter.check(config_);
  auto adapted = std::make_shared<Adapted>();
  adapted->adapter = std::move(adapter);
  adapted->gains.resize(adapted->adapter.layers.size());
  Model out = *this;
  for (Block& block : out.blocks_)
    for (Linear& linear : block.linears) {
      linear.adapter.reset();
      const model::AdapterLayer* layer = adapted->adapter.find(linear.name);
      if (layer == nullptr) continue;
      auto& gain = adapted->gains[static_cast<std::size_t>(layer - adapted->adapter.layers.data())];
      if (!layer->magnitude.empty()) {
        gain.resize(layer->out);
        inverse_norms(*linear.weight, squared_row_norms(*linear.weight, *executor_), *layer, gain, *executor_);
        for (std::size_t o = 0; o < gain.size(); ++o) gain[o] *= layer->magnitude[o];
      }
      linear.adapter = view_of(*layer, gain);
    }
  out.adapted_ = std::move(adapted);
  return out;
}

const model::Adapter* Model::adapter() const { return adapted_ ? &adapted_->adapter : nullptr; }

}  // namespace nibble::inline NIBBLE_ABI::engine
