// The chart of `compare --plot`: perplexity against file size, one labelled point per method, as a standalone SVG.
#pragma once

#include <string>
#include <vector>

namespace nibble::cli {

struct PlotPoint {
  std::string label;
  double size_mb = 0;  ///< 10^6 bytes.
  double perplexity = 0;
};

/// The SVG text. Points whose perplexity is more than `cut` times the best are drawn at the upper edge with their
/// value.
std::string plot_svg(const std::vector<PlotPoint>& points, const std::string& title);

}  // namespace nibble::cli
