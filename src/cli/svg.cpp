#include "svg.h"

#include <array>
#include <cmath>

namespace nibble::cli {

std::string svg_text(const std::string& text) {
  std::string out;
  for (char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '\'' ? "&#39;" : std::string(1, c);
  return out;
}

std::vector<double> round_numbers(double low, double high, std::size_t most) {
  std::vector<double> out;
  if (!(high > low) || most == 0 || !std::isfinite(high - low)) return out;
  const double least = (high - low) / static_cast<double>(most), power = std::pow(10, std::floor(std::log10(least)));
  double step = 10 * power;
  for (const double factor : std::array{5.0, 2.0, 1.0})
    if (factor * power >= least) step = factor * power;
  for (double i = std::ceil(low / step); i * step <= high; ++i) out.push_back(i * step);
  return out;
}

}  // namespace nibble::cli
