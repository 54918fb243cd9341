// The chart of `finetune --plot`: the loss of each step, its running mean, and the losses on held-out data. A
// standalone SVG.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace nibble::cli {

struct CurvePoint {
  std::size_t step = 0;
  double loss = 0, learning_rate = 0;
  std::optional<double> evaluation;
};

/// The SVG text. Losses that are no finite numbers are left out.
std::string curve_svg(const std::vector<CurvePoint>& points, const std::string& title);

}  // namespace nibble::cli
