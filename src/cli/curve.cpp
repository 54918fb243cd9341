#include "curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "svg.h"

namespace nibble::cli {

namespace {

constexpr double kWidth = 960, kHeight = 540, kLeft = 84, kRight = 34, kTop = 84, kBottom = 62;
// Of Okabe and Ito's palette, which colour-blind readers can tell apart.
constexpr const char *kEach = "#9ecae1", *kMean = "#0072b2", *kEvaluation = "#d55e00", *kRate = "#b0b0b0";

struct Scales {
  double first, last, lowest, highest, fastest;
  [[nodiscard]] double x(std::size_t step) const {
    return kLeft + (static_cast<double>(step) - first) / (last - first) * (kWidth - kLeft - kRight);
  }
  [[nodiscard]] double y(double loss) const {
    return kHeight - kBottom - (loss - lowest) / (highest - lowest) * (kHeight - kBottom - kTop);
  }
  /// The learning rate fills the lowest fifth.
  [[nodiscard]] double rate(double r) const {
    return kHeight - kBottom - (fastest > 0 ? r / fastest : 0) * (kHeight - kBottom - kTop) / 5;
  }
};

Scales scales_of(const std::vector<CurvePoint>& points) {
  Scales s{INFINITY, 0, INFINITY, 0, 0};
  for (const CurvePoint& p : points) {
    s.first = std::min(s.first, static_cast<double>(p.step));
    s.last = std::max(s.last, static_cast<double>(p.step));
    s.fastest = std::max(s.fastest, p.learning_rate);
    for (const double loss : {p.loss, p.evaluation.value_or(p.loss)}) {
      s.lowest = std::min(s.lowest, loss);
      s.highest = std::max(s.highest, loss);
    }
  }
  const double margin = std::max(0.04 * (s.highest - s.lowest), 0.01);
  s.lowest -= margin;
  s.highest += margin;
  s.last = std::max(s.last, s.first + 1);
  return s;
}

template <class Y>
std::string line(const std::vector<CurvePoint>& points, const Scales& s, const char* colour, double width, const Y& y) {
  std::string path;
  for (const CurvePoint& p : points)
    if (const auto at = y(p)) path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", s.x(p.step), *at);
  return path.empty()
             ? path
             : fmt::format("<path d='{}' fill='none' stroke='{}' stroke-width='{}' stroke-linejoin='round'/>\n", path,
                           colour, width);
}

/// Of the last tenth of the steps so far, at least five: the losses of single batches jump.
std::vector<double> running_means(const std::vector<CurvePoint>& points) {
  const std::size_t window = std::max<std::size_t>(5, points.size() / 10);
  std::vector<double> out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t begin = i + 1 > window ? i + 1 - window : 0;
    double sum = 0;
    for (std::size_t j = begin; j <= i; ++j) sum += points[j].loss;
    out.push_back(sum / static_cast<double>(i + 1 - begin));
  }
  return out;
}

std::string axes(const Scales& s) {
  std::string out;
  for (const double loss : round_numbers(s.lowest, s.highest, 7))
    out += fmt::format(
        "<path d='M{0} {1:.1f}H{2}' stroke='#e4e4e4'/><text x='{3}' y='{4:.1f}' text-anchor='end'>{5:g}</text>\n",
        kLeft, s.y(loss), kWidth - kRight, kLeft - 8, s.y(loss) + 4, loss);
  for (const double step : round_numbers(s.first, s.last, 9))
    if (step == std::floor(step))
      out += fmt::format("<text x='{:.1f}' y='{}' text-anchor='middle'>{:g}</text>\n",
                         s.x(static_cast<std::size_t>(step)), kHeight - kBottom + 20, step);
  return out + fmt::format(
                   "<text x='{:.0f}' y='{}' text-anchor='middle'>step</text>\n<text x='20' y='{:.0f}' "
                   "transform='rotate(-90 20 {:.0f})' text-anchor='middle'>loss, nats a token</text>\n",
                   (kLeft + kWidth - kRight) / 2, kHeight - 18, (kTop + kHeight - kBottom) / 2,
                   (kTop + kHeight - kBottom) / 2);
}

std::string legend(bool evaluated) {
  std::string out;
  double x = kLeft;
  const auto entry = [&](const char* colour, const char* text, double width) {
    out += fmt::format("<path d='M{:.0f} 60h22' stroke='{}' stroke-width='3'/><text x='{:.0f}' y='64'>{}</text>\n", x,
                       colour, x + 28, text);
    x += width;
  };
  entry(kMean, "running mean", 140);
  entry(kEach, "each step", 120);
  if (evaluated) entry(kEvaluation, "held out", 110);
  entry(kRate, "learning rate", 120);
  return out;
}

}  // namespace

std::string curve_svg(const std::vector<CurvePoint>& all, const std::string& title) {
  std::vector<CurvePoint> points;
  for (const CurvePoint& p : all)
    if (std::isfinite(p.loss) && std::isfinite(p.evaluation.value_or(0))) points.push_back(p);
  std::string out = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0} {1}' font-family='sans-serif' font-size='12' "
      "fill='#333'>\n<rect width='{0}' height='{1}' fill='white'/>\n<text x='{2}' y='36' font-size='18'>{3}</text>\n",
      kWidth, kHeight, kLeft, svg_text(title));
  if (points.empty()) return out + "<text x='84' y='120'>no step yet</text>\n</svg>\n";
  const Scales s = scales_of(points);
  const std::vector<double> means = running_means(points);
  const bool evaluated = std::ranges::any_of(points, [](const CurvePoint& p) { return p.evaluation.has_value(); });
  out += axes(s) + legend(evaluated);
  using At = std::optional<double>;
  out += line(points, s, kRate, 1.2, [&](const CurvePoint& p) -> At { return s.rate(p.learning_rate); });
  out += line(points, s, kEach, 1, [&](const CurvePoint& p) -> At { return s.y(p.loss); });
  out += line(points, s, kMean, 2.4,
              [&](const CurvePoint& p) -> At { return s.y(means[static_cast<std::size_t>(&p - points.data())]); });
  out += line(points, s, kEvaluation, 1.6,
              [&](const CurvePoint& p) -> At { return p.evaluation ? At(s.y(*p.evaluation)) : std::nullopt; });
  for (const CurvePoint& p : points)
    if (p.evaluation)
      out += fmt::format(
          "<circle cx='{:.1f}' cy='{:.1f}' r='4' fill='{}' stroke='white'><title>step {}: {:.4f} held out</title>"
          "</circle>\n",
          s.x(p.step), s.y(*p.evaluation), kEvaluation, p.step, *p.evaluation);
  return out + "</svg>\n";
}

}  // namespace nibble::cli
