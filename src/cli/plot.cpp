#include "plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::cli {

namespace {

constexpr double kWidth = 860, kHeight = 520, kLeft = 80, kRight = 30, kTop = 60, kBottom = 64;

/// A step of 1, 2 or 5 times a power of ten that gives about six ticks.
double tick_step(double span) {
  const double raw = span / 6, power = std::pow(10, std::floor(std::log10(raw)));
  for (double m : {1.0, 2.0, 5.0})
    if (raw <= m * power) return m * power;
  return 10 * power;
}

struct Axis {
  double low, high, from, to;  ///< Values low … high lie at coordinates from … to.
  [[nodiscard]] double at(double v) const { return from + (v - low) / (high - low) * (to - from); }
};

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

const char* colour(const std::string& label) {
  if (label.starts_with("fp32") || label.starts_with("fp16") || label.starts_with("bf16")) return "#555555";
  if (label.find("int8") != std::string::npos) return "#1b7837";
  if (label.starts_with("nf4") || label.starts_with("fp4")) return "#b2182b";
  return label.ends_with("asym") ? "#5e3c99" : "#2166ac";
}

std::string axes(const Axis& x, const Axis& y, const std::string& title) {
  std::string out;
  for (double v = std::ceil(x.low / tick_step(x.high - x.low)) * tick_step(x.high - x.low); v <= x.high;
       v += tick_step(x.high - x.low))
    out += fmt::format(
        "<line x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}' stroke='#e4e4e4'/><text x='{0:.1f}' y='{3}' "
        "text-anchor='middle'>{4:g}</text>\n",
        x.at(v), kTop, kHeight - kBottom, kHeight - kBottom + 20, v);
  const double step = tick_step(y.high - y.low);
  for (double v = std::ceil(y.low / step) * step; v <= y.high; v += step)
    out += fmt::format(
        "<line x1='{1}' x2='{2}' y1='{0:.1f}' y2='{0:.1f}' stroke='#e4e4e4'/><text x='{3}' y='{4:.1f}' "
        "text-anchor='end'>{5:.4g}</text>\n",
        y.at(v), kLeft, kWidth - kRight, kLeft - 8, y.at(v) + 4, v);
  out += fmt::format("<text x='{}' y='30' font-size='17' font-weight='bold'>{}</text>\n", kLeft, escape(title));
  out += fmt::format("<text x='{}' y='{}' text-anchor='middle'>file size, MB (10⁶ bytes)</text>\n",
                     (kLeft + kWidth - kRight) / 2, kHeight - 18);
  out += fmt::format(
      "<text x='22' y='{0}' text-anchor='middle' transform='rotate(-90 22 {0})'>perplexity (lower is better)</text>\n",
      (kTop + kHeight - kBottom) / 2);
  return out;
}

struct Box {
  double x, y, width;
  [[nodiscard]] bool overlaps(const Box& o) const {
    return std::abs(y - o.y) < 14 && x < o.x + o.width && o.x < x + width;
  }
};

/// The first free place for a label around its point: right, left, then ever further up and down.
Box place_label(double px, double py, double width, const std::vector<Box>& taken) {
  for (int ring = 0; ring < 12; ++ring)
    for (double dy : {-14.0 * ring, 14.0 * ring})
      for (double dx : {9.0, -9.0 - width}) {
        const Box box{px + dx, py + 4 + dy, width};
        const bool inside =
            box.x > kLeft && box.x + width < kWidth - 4 && box.y > kTop - 10 && box.y < kHeight - kBottom;
        if (inside && std::none_of(taken.begin(), taken.end(), [&](const Box& t) { return box.overlaps(t); }))
          return box;
      }
  return {px + 9, py + 4, width};
}

}  // namespace

std::string plot_svg(const std::vector<PlotPoint>& points, const std::string& title) {
  double least = INFINITY, most = 0, largest = 0;
  for (const PlotPoint& p : points) {
    least = std::min(least, p.perplexity);
    largest = std::max(largest, p.size_mb);
  }
  constexpr double cut = 2;  // methods beyond twice the best share the upper edge, so that the rest can be told apart
  for (const PlotPoint& p : points) most = std::max(most, std::min(p.perplexity, least * cut));
  const double margin = std::max((most - least) * 0.1, least * 0.002);
  const Axis x{0, largest * 1.12, kLeft, kWidth - kRight};
  const Axis y{least - margin, most + margin, kHeight - kBottom, kTop};

  std::string out = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0} {1}' width='{0}' height='{1}' font-family='sans-serif' "
      "font-size='12'>\n"
      "<rect width='100%' height='100%' fill='white'/>\n",
      kWidth, kHeight);
  out += axes(x, y, title);
  std::vector<Box> taken;
  for (const PlotPoint& p : points) taken.push_back({x.at(p.size_mb) - 5, y.at(std::min(p.perplexity, most)) + 4, 10});
  for (const PlotPoint& p : points) {
    const bool off = p.perplexity > most;
    const std::string label = off ? fmt::format("{} ↑ {:.3g}", p.label, p.perplexity) : p.label;
    const double px = x.at(p.size_mb), py = y.at(std::min(p.perplexity, most));
    const Box box = place_label(px, py, 6.6 * static_cast<double>(label.size()), taken);
    taken.push_back(box);
    if (std::abs(box.y - py) > 10)
      out += fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='#bbbbbb'/>\n", px, py,
                         box.x > px ? box.x : box.x + box.width, box.y - 4);
    out += fmt::format(
        "<circle cx='{:.1f}' cy='{:.1f}' r='5' fill='{}'/><text x='{:.1f}' y='{:.1f}' fill='{}'>{}</text>\n", px, py,
        colour(p.label), box.x, box.y, colour(p.label), escape(label));
  }
  return out + "</svg>\n";
}

}  // namespace nibble::cli
