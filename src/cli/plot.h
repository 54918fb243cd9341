// The chart of `compare --plot`: perplexity against file size, a mark a method, those of a family alike, and a line
// through the methods that none is both smaller and better than. A standalone SVG.
#pragma once

#include <string>
#include <vector>

namespace nibble::cli {

struct PlotPoint {
  std::string label;
  double size_mb = 0;  ///< 10^6 bytes.
  double perplexity = 0;
};

/// The SVG text. Points whose perplexity is more than twice the best are drawn at the upper edge with their value;
/// those that are no positive numbers are left out. A label that finds no room is left out too; every mark says its
/// name and numbers when pointed at.
std::string plot_svg(const std::vector<PlotPoint>& points, const std::string& title);

}  // namespace nibble::cli
