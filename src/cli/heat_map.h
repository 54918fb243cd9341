// The map of `compare --report`: a row a method, a column a layer, the darker the more the layer loses. A standalone
// SVG.
#pragma once

#include <string>
#include <vector>

#include "compare_rows.h"

namespace nibble::cli {

struct HeatRow {
  std::string label;
  std::vector<LayerLoss> cells;  ///< Layers as the model names them: "model.layers.3.mlp.down_proj".
};

/// The SVG text. Of a block's experts the one that loses most is shown. Layers of a kind (down_proj, …) stand side by
/// side, in the order of their blocks; colours go by the logarithm from the least loss to the largest. A layer that a
/// row says nothing of is left grey; every cell says its name and number when pointed at. Empty where no row has a
/// cell.
std::string heat_map_svg(const std::vector<HeatRow>& rows);

}  // namespace nibble::cli
