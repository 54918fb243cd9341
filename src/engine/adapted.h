// An adapter and the layers that it is on.
#pragma once

#include <span>
#include <vector>

#include "matrix.h"
#include "nibble/engine/block.h"
#include "nibble/model/adapter.h"

namespace nibble::inline NIBBLE_ABI::engine {

/// Rows first … of W, decoded. A backend that gathers none multiplies rows of the identity.
Matrix decoded_rows(const PackedMatrix& weight, std::size_t first, std::size_t count, Executor& executor);

/// Σ over its input of each row's squares, as the packed weights are decoded; fp64.
std::vector<double> squared_row_norms(const PackedMatrix& weight, Executor& executor);

/// 1/‖(W + scale·B·A)_o‖ for each row, where row_norms are ‖W_o‖²: what DoRA's magnitudes are multiplied by. With
/// G = W·Aᵀ it is ‖W_o‖² + 2·scale·G_o·B_o + scale²·B_o·(A·Aᵀ)·B_oᵀ, so W is read once and never written out.
/// Error{non_finite} for a row whose norm is 0 or no number.
void inverse_norms(const PackedMatrix& weight, std::span<const double> row_norms, const model::AdapterLayer& layer,
                   std::span<float> out, Executor& executor);

/// The adapter's layer for a linear layer, as a pass applies it; `gain` as LinearAdapter::gain.
inline LinearAdapter view_of(const model::AdapterLayer& layer, std::span<const float> gain) {
  return {.a = {layer.a.data(), layer.rank, layer.in},
          .b = {layer.b.data(), layer.out, layer.rank},
          .scale = layer.scale(),
          .gain = gain};
}

}  // namespace nibble::inline NIBBLE_ABI::engine
