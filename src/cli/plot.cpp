#include "plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "svg.h"

namespace nibble::cli {

namespace {

constexpr double kWidth = 960, kHeight = 600, kLeft = 104, kRight = 34, kTop = 98, kBottom = 62;
/// Times the best perplexity; worse points share the upper edge, so that the rest stay apart.
constexpr double kMaxShown = 2;

// ── Families: what shares a colour and a mark

enum class Mark { square, circle, triangle, down, diamond, cross, pentagon };

struct Family {
  const char* name;
  const char* colour;  ///< Of Okabe and Ito's palette, which colour-blind readers can tell apart.
  Mark mark;
  std::array<const char*, 4> begins;  ///< Of the methods' names.
};
constexpr std::array kFamilies{
    Family{"floating point", "#4d4d4d", Mark::square, {"fp32", "fp16", "bf16", "f32"}},
    Family{"GPTQ", "#d55e00", Mark::diamond, {"gptq", "gptq", "gptq", "gptq"}},
    Family{"AWQ", "#009e73", Mark::triangle, {"awq", "awq", "awq", "awq"}},
    Family{"codebook (NF4, FP4)", "#aa3377", Mark::pentagon, {"nf4", "fp4", "dynamic", "nf4"}},
    Family{"small floats", "#e69f00", Mark::down, {"fp8", "mxfp", "nvfp", "e"}},
    Family{"LLM.int8", "#0b0b0b", Mark::cross, {"llm-int8", "llm-int8", "llm-int8", "llm-int8"}},
    Family{"integers, rounded", "#0072b2", Mark::circle, {"", "", "", ""}},  // all others
};

const Family& family_of(const std::string& method) {
  for (const Family& f : kFamilies)
    for (const char* begin : f.begins)
      if (method.starts_with(begin)) return f;
  return kFamilies.back();
}

std::string polygon(double x, double y, double radius, int corners, double turn) {
  std::string out;
  for (int i = 0; i < corners; ++i) {
    const double angle = turn + 2 * M_PI * i / corners;
    out +=
        fmt::format("{}{:.1f},{:.1f}", i == 0 ? "" : " ", x + radius * std::sin(angle), y - radius * std::cos(angle));
  }
  return "<polygon points='" + out + "'";
}

/// The mark without the end of its element, so that a tooltip can go in. A white rim keeps those that touch apart.
std::string mark(const Family& f, double x, double y) {
  std::string shape;
  switch (f.mark) {
    case Mark::square: shape = polygon(x, y, 7.4, 4, M_PI / 4); break;
    case Mark::diamond: shape = polygon(x, y, 7.4, 4, 0); break;
    case Mark::triangle: shape = polygon(x, y + 1, 7.4, 3, 0); break;
    case Mark::down: shape = polygon(x, y - 1, 7.4, 3, M_PI); break;
    case Mark::pentagon: shape = polygon(x, y, 6.6, 5, 0); break;
    case Mark::circle: shape = fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='5.4'", x, y); break;
    case Mark::cross:
      return fmt::format(
          "<path d='M{0:.1f} {2:.1f}L{1:.1f} {3:.1f}M{0:.1f} {3:.1f}L{1:.1f} {2:.1f}' fill='none' "
          "stroke='{4}' stroke-width='2.6'>",
          x - 4.6, x + 4.6, y - 4.6, y + 4.6, f.colour);
  }
  return shape + fmt::format(" fill='{}' stroke='white' stroke-width='1.2'>", f.colour);
}

std::string closing(Mark m) { return m == Mark::circle ? "</circle>" : m == Mark::cross ? "</path>" : "</polygon>"; }

/// About what a sans-serif font of 12 pixels takes.
double text_width(const std::string& text) {
  double width = 0;
  for (const char c : text)
    if ((c & 0xC0) != 0x80)  // the first byte of a character
      width += std::string_view("il.,-'|tfr1 ").find(c) != std::string_view::npos ? 5.2
               : c == 'm' || c == 'w'                                             ? 10.5
                                                                                  : 7.4;
  return width;
}

// ── Scales

/// Sizes: logarithmic. Perplexity: the square root of what it is above the best, so that +0.1 % and +10 % both show.
struct Scales {
  double smallest, largest, best, worst;
  [[nodiscard]] double x(double size) const {
    return kLeft + std::log(size / smallest) / std::log(largest / smallest) * (kWidth - kRight - kLeft);
  }
  [[nodiscard]] double y(double perplexity) const {
    const double above = std::max(0.0, std::min(perplexity, worst) / best - 1), most = worst / best - 1;
    return kHeight - kBottom - 22 - std::sqrt(above / most) * (kHeight - kBottom - kTop - 44);
  }
};

Scales scales_of(const std::vector<PlotPoint>& points) {
  Scales s{INFINITY, 0, INFINITY, 0};
  for (const PlotPoint& p : points) {
    s.smallest = std::min(s.smallest, p.size_mb);
    s.largest = std::max(s.largest, p.size_mb);
    s.best = std::min(s.best, p.perplexity);
  }
  for (const PlotPoint& p : points) s.worst = std::max(s.worst, std::min(p.perplexity, s.best * kMaxShown));
  s.worst = std::max(s.worst, s.best * 1.001);
  const double margin = std::max(1.08, std::pow(s.largest / s.smallest, 0.06));
  s.smallest /= margin;
  s.largest *= margin;
  return s;
}

/// Round sizes for the axis: few enough that their labels stay apart.
std::vector<double> size_ticks(const Scales& s) {
  static const std::vector<std::vector<double>> sets{
      {1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9},
      {1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9},
      {1, 1.5, 2, 3, 4, 5, 7},
      {1, 2, 5},
      {1}};
  std::vector<double> out;
  for (const auto& set : sets) {
    out.clear();
    for (double power = std::pow(10, std::floor(std::log10(s.smallest))); power <= s.largest; power *= 10)
      for (const double m : set)
        if (m * power >= s.smallest && m * power <= s.largest) out.push_back(m * power);
    if (out.size() <= 10) break;
  }
  return out;
}

std::string axes(const Scales& s, const std::string& title) {
  const double low = kHeight - kBottom, right = kWidth - kRight;
  std::string out =
      fmt::format("<text x='{}' y='34' font-size='19' font-weight='bold'>{}</text>\n", 24, svg_text(title));
  for (const double v : size_ticks(s))
    out += fmt::format(
        "<line x1='{0:.1f}' x2='{0:.1f}' y1='{1}' y2='{2}' stroke='#ececec'/><text x='{0:.1f}' y='{3}' fill='#444' "
        "text-anchor='middle'>{4:g}</text>\n",
        s.x(v), kTop, low, low + 20, v);
  double last = INFINITY;
  for (const double percent : {0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0}) {
    const double perplexity = s.best * (1 + percent / 100), y = s.y(perplexity);
    if (perplexity > s.worst * 1.0001 || last - y < 24) continue;
    last = y;
    out += fmt::format(
        "<line x1='{0}' x2='{1}' y1='{2:.1f}' y2='{2:.1f}' stroke='#ececec'/><text x='{3}' y='{4:.1f}' fill='#444' "
        "text-anchor='end'>{5:.5g}</text><text x='{3}' y='{6:.1f}' font-size='10' fill='#888' "
        "text-anchor='end'>{7}</text>\n",
        kLeft, right, y, kLeft - 8, y + 1, perplexity, y + 12, percent == 0 ? "best" : fmt::format("+{:g} %", percent));
  }
  out += fmt::format("<rect x='{}' y='{}' width='{}' height='{}' fill='none' stroke='#bbb'/>\n", kLeft, kTop,
                     right - kLeft, low - kTop);
  out += fmt::format("<text x='{}' y='{}' text-anchor='middle'>file size, MB (10⁶ bytes, logarithmic)</text>\n",
                     (kLeft + right) / 2, kHeight - 18);
  return out + fmt::format(
                   "<text x='26' y='{0}' text-anchor='middle' transform='rotate(-90 26 {0})'>perplexity (lower "
                   "is better; root scale above the best)</text>\n",
                   (kTop + low) / 2);
}

/// In two lines where one is too short.
std::string legend(const std::vector<PlotPoint>& points) {
  std::string out;
  double x = 30, y = 62;
  const auto place = [&](double width) {
    if (x + width <= kWidth - 10) return;
    x = 30;
    y += 20;
  };
  for (const Family& f : kFamilies) {
    if (std::none_of(points.begin(), points.end(), [&](const PlotPoint& p) { return &family_of(p.label) == &f; }))
      continue;
    place(12 + text_width(f.name));
    out +=
        mark(f, x, y) + closing(f.mark) + fmt::format("<text x='{:.1f}' y='{:.0f}'>{}</text>\n", x + 12, y + 4, f.name);
    x += 12 + text_width(f.name) + 26;
  }
  const std::string best = "nothing is both smaller and better";
  place(24 + 1.1 * text_width(best));
  return out + fmt::format(
                   "<line x1='{0:.1f}' x2='{1:.1f}' y1='{3:.0f}' y2='{3:.0f}' stroke='#c9a227' stroke-width='3' "
                   "stroke-opacity='0.55'/><text x='{2:.1f}' y='{4:.0f}'>{5}</text>\n",
                   x - 6, x + 18, x + 24, y, y + 4, best);
}

// ── Points and labels

struct Placed {
  const PlotPoint* point;
  double x, y;
  bool best = false;  ///< On the Pareto line.
};

/// The points that no other is both smaller than and better than, from the smallest.
std::vector<Placed*> pareto(std::vector<Placed>& points) {
  std::vector<Placed*> sorted, out;
  for (Placed& p : points) sorted.push_back(&p);
  std::stable_sort(sorted.begin(), sorted.end(), [](const Placed* a, const Placed* b) {
    return std::pair(a->point->size_mb, a->point->perplexity) < std::pair(b->point->size_mb, b->point->perplexity);
  });
  double best = INFINITY;
  for (Placed* p : sorted)
    if (p->point->perplexity < best) {
      best = p->point->perplexity;
      p->best = true;
      out.push_back(p);
    }
  return out;
}

struct Box {
  double x, y, width, height;
  [[nodiscard]] bool overlaps(const Box& o) const {
    return x < o.x + o.width && o.x < x + width && y < o.y + o.height && o.y < y + height;
  }
  /// Whether a straight line runs through it: looked at every few pixels.
  [[nodiscard]] bool crossed(double x1, double y1, double x2, double y2) const {
    const int steps = 2 + static_cast<int>(std::max(std::abs(x2 - x1), std::abs(y2 - y1)) / 5);
    for (int i = 0; i <= steps; ++i) {
      const double t = static_cast<double>(i) / steps, px = x1 + t * (x2 - x1), py = y1 + t * (y2 - y1);
      if (px > x && px < x + width && py > y && py < y + height) return true;
    }
    return false;
  }
};

struct Line {
  double x1, y1, x2, y2;
  [[nodiscard]] bool crosses(const Line& o) const {
    const auto side = [](double ax, double ay, double bx, double by, double px, double py) {
      return (bx - ax) * (py - ay) - (by - ay) * (px - ax);
    };
    return side(x1, y1, x2, y2, o.x1, o.y1) * side(x1, y1, x2, y2, o.x2, o.y2) < 0 &&
           side(o.x1, o.y1, o.x2, o.y2, x1, y1) * side(o.x1, o.y1, o.x2, o.y2, x2, y2) < 0;
  }
};

/// Finds room for labels, one after another, away from marks, labels and the lines that lead to them.
class Labels {
 public:
  Labels(const std::vector<Placed>& points, const std::vector<Placed*>& best) {
    for (std::size_t i = 1; i < best.size(); ++i)
      pareto_.push_back({best[i - 1]->x, best[i - 1]->y, best[i]->x, best[i]->y});
    for (const Placed& p : points) marks_.push_back({p.x - 6, p.y - 6, 12, 12});
  }

  /// The SVG of a label, with a line to its point if it stands apart; nothing where there is no room.
  std::string place(const Placed& p, const std::string& text, const char* colour) {
    const double width = text_width(text) * (p.best ? 1.1 : 1);  // bold is wider
    double best = INFINITY, distance = 0;
    Box box{};
    Line leader{};
    for (double dx = 11; dx <= 251; dx += 12)
      for (int side : {1, -1})
        for (double dy = -150; dy <= 150; dy += 5) {
          const Box b{side > 0 ? p.x + dx : p.x - dx - width, p.y + dy - 7, width, 14};
          const Line l{p.x, p.y, side > 0 ? b.x - 2 : b.x + width + 2, b.y + 7};
          const double away = (dx - 11) + 1.3 * std::abs(dy), cost = away + (side > 0 ? 0 : 3) + over_line(b);
          if (cost < best && fits(b) && clear(l, away > 8)) best = cost, distance = away, box = b, leader = l;
        }
    if (!std::isfinite(best)) return {};
    labels_.push_back(box);
    std::string out;
    if (distance > 8) {
      leaders_.push_back(leader);
      out = fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='{}' stroke-opacity='0.6'/>",
                        leader.x1, leader.y1, leader.x2, leader.y2, colour);
    }
    return out + fmt::format("<text x='{:.1f}' y='{:.1f}' fill='{}'{}>{}</text>\n", box.x, box.y + 11.2, colour,
                             p.best ? " font-weight='bold'" : "", svg_text(text));
  }

 private:
  [[nodiscard]] bool fits(const Box& b) const {
    const auto hits = [&](const Box& o) { return b.overlaps(o); };
    return b.x > kLeft + 4 && b.x + b.width < kWidth - kRight - 4 && b.y > kTop + 3 &&
           b.y + b.height < kHeight - kBottom - 3 && std::none_of(marks_.begin(), marks_.end(), hits) &&
           std::none_of(labels_.begin(), labels_.end(), hits) &&
           std::none_of(leaders_.begin(), leaders_.end(),
                        [&](const Line& l) { return b.crossed(l.x1, l.y1, l.x2, l.y2); });
  }
  [[nodiscard]] bool clear(const Line& l, bool drawn) const {
    if (!drawn) return true;
    for (const Box& b : labels_)
      if (b.crossed(l.x1, l.y1, l.x2, l.y2)) return false;
    return std::none_of(leaders_.begin(), leaders_.end(), [&](const Line& o) { return o.crosses(l); });
  }

  /// A label may lie over the Pareto line where all else is farther off.
  [[nodiscard]] double over_line(const Box& b) const {
    const auto crosses = [&](const Line& l) { return b.crossed(l.x1, l.y1, l.x2, l.y2); };
    return std::any_of(pareto_.begin(), pareto_.end(), crosses) ? 30 : 0;
  }

  std::vector<Box> marks_, labels_;
  std::vector<Line> leaders_, pareto_;
};

}  // namespace

std::string plot_svg(const std::vector<PlotPoint>& points, const std::string& title) {
  std::string out = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0} {1}' width='{0}' height='{1}' "
      "font-family='\"DejaVu Sans\", Verdana, sans-serif' font-size='12'>\n<rect width='100%' height='100%' "
      "fill='white'/>\n",
      kWidth, kHeight);
  std::vector<PlotPoint> drawn;
  for (const PlotPoint& p : points)
    if (std::isfinite(p.size_mb) && p.size_mb > 0 && std::isfinite(p.perplexity) && p.perplexity > 0)
      drawn.push_back(p);
  if (drawn.empty()) return out + "<text x='24' y='34'>no method gave a perplexity</text>\n</svg>\n";
  const Scales s = scales_of(drawn);
  std::vector<Placed> placed;
  for (const PlotPoint& p : drawn) placed.push_back({&p, s.x(p.size_mb), s.y(p.perplexity)});
  out += axes(s, title) + legend(drawn);

  std::string line;
  const auto best = pareto(placed);
  for (const Placed* p : best) line += fmt::format("{:.1f},{:.1f} ", p->x, p->y);
  out += "<polyline points='" + line +
         "' fill='none' stroke='#c9a227' stroke-width='3' stroke-opacity='0.55' stroke-linejoin='round'/>\n";

  Labels labels(placed, best);
  std::string marks, texts;
  // Those on the line choose their places first, then the outermost: they have the most room to give.
  std::vector<const Placed*> order;
  for (const Placed& p : placed) order.push_back(&p);
  std::stable_sort(order.begin(), order.end(),
                   [](const Placed* a, const Placed* b) { return a->best != b->best ? a->best : a->y < b->y; });
  for (const Placed* p : order) {
    const Family& f = family_of(p->point->label);
    const bool off = p->point->perplexity > s.worst;
    texts += labels.place(*p, off ? fmt::format("{} ↑ {:.3g}", p->point->label, p->point->perplexity) : p->point->label,
                          f.colour);
    marks += mark(f, p->x, p->y) +
             fmt::format("<title>{}: {:.2f} MB, perplexity {:.4f}</title>", svg_text(p->point->label),
                         p->point->size_mb, p->point->perplexity) +
             closing(f.mark) + "\n";
  }
  return out + texts + marks + "</svg>\n";
}

}  // namespace nibble::cli
