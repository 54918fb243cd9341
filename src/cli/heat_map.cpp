#include "heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <utility>

#include "svg.h"

namespace nibble::cli {

namespace {

constexpr double kLeft = 150, kTop = 46, kRow = 19, kGap = 7, kRoom = 790, kBottom = 58;

/// Where a layer stands: its kind, and the block that it is in. All experts of a block are of one kind.
struct Place {
  std::string kind;
  std::size_t block = 0;
};

bool is_number(const std::string& part) {
  return !part.empty() && part.size() < 9 &&
         std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

Place place_of(const std::string& layer) {
  Place out;
  std::string before;  // the part before the last
  bool numbered = false;
  for (std::size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = layer.find('.', begin);
    const std::string part = layer.substr(begin, end - begin);
    if (is_number(part)) {
      if (!numbered) out.block = std::stoul(part);
      numbered = true;
      continue;
    }
    before = std::exchange(out.kind, part);
    if (end == std::string::npos) break;
  }
  if (before.find("expert") != std::string::npos) out.kind = before + "." + out.kind;
  return out;
}

/// From pale to dark, the same steps to the eye: ColorBrewer's OrRd, which colour-blind readers can tell apart.
std::string colour(double share) {
  constexpr std::array<std::array<int, 3>, 6> steps{
      {{254, 240, 217}, {253, 212, 158}, {253, 187, 132}, {252, 141, 89}, {215, 48, 31}, {127, 0, 0}}};
  const double at = std::clamp(share, 0.0, 1.0) * static_cast<double>(steps.size() - 1);
  const auto low = std::min(static_cast<std::size_t>(at), steps.size() - 2);
  std::string out = "#";
  for (std::size_t c = 0; c < 3; ++c)
    out +=
        fmt::format("{:02x}", static_cast<int>(std::lround(steps[low][c] + (at - static_cast<double>(low)) *
                                                                               (steps[low + 1][c] - steps[low][c]))));
  return out;
}

std::string percent(double loss) {
  return loss >= 0.1 ? fmt::format("{:.0f} %", 100 * loss) : fmt::format("{:.2g} %", 100 * loss);
}

class Map {
 public:
  explicit Map(const std::vector<HeatRow>& rows) : rows_(rows) {
    for (const HeatRow& row : rows)
      for (const LayerLoss& cell : row.cells) {
        const Place place = place_of(cell.layer);
        if (std::find(kinds_.begin(), kinds_.end(), place.kind) == kinds_.end()) kinds_.push_back(place.kind);
        blocks_ = std::max(blocks_, place.block + 1);
        if (!(cell.loss > 0)) continue;
        least_ = std::min(least_, cell.loss);
        most_ = std::max(most_, cell.loss);
      }
    const double columns = static_cast<double>(kinds_.size() * blocks_);
    cell_ = std::clamp((kRoom - kGap * static_cast<double>(kinds_.size())) / std::max(columns, 1.0), 3.0, 24.0);
  }

  [[nodiscard]] std::string svg() const {
    if (kinds_.empty()) return {};
    const double width = kLeft + kind_width() * static_cast<double>(kinds_.size()) + 20;
    const double height = kTop + kRow * static_cast<double>(rows_.size()) + kBottom;
    std::string out = fmt::format(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{0:.0f}' height='{1:.0f}' viewBox='0 0 {0:.0f} {1:.0f}' "
        "font-family='system-ui, sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='#ffffff'/>\n",
        width, height);
    for (std::size_t k = 0; k < kinds_.size(); ++k) out += heading(k);
    for (std::size_t r = 0; r < rows_.size(); ++r) out += row(r);
    return out + legend(height) + "</svg>\n";
  }

 private:
  [[nodiscard]] double kind_width() const { return cell_ * static_cast<double>(blocks_) + kGap; }
  [[nodiscard]] double x_of(std::size_t kind, std::size_t block) const {
    return kLeft + kind_width() * static_cast<double>(kind) + cell_ * static_cast<double>(block);
  }
  [[nodiscard]] double share(double loss) const {
    return most_ > least_ ? std::log(loss / least_) / std::log(most_ / least_) : 1;
  }

  /// A kind's name over its columns, turned where it is wider than they are, and the first and last block.
  [[nodiscard]] std::string heading(std::size_t k) const {
    const double x = x_of(k, 0), width = kind_width() - kGap;
    const std::string name = svg_text(kinds_[k]);
    const bool fits = 6.6 * static_cast<double>(kinds_[k].size()) <= width + kGap;
    std::string out =
        fmt::format("<text x='{:.1f}' y='{:.0f}' fill='#222222' text-anchor='middle'{}>{}</text>\n", x + width / 2,
                    kTop - 24, fits ? "" : " textLength='" + fmt::format("{:.0f}", width) + "'", name);
    out += fmt::format("<text x='{:.1f}' y='{:.0f}' fill='#666666' font-size='10'>0</text>\n", x, kTop - 7);
    if (width > 26)
      out += fmt::format("<text x='{:.1f}' y='{:.0f}' fill='#666666' font-size='10' text-anchor='end'>{}</text>\n",
                         x + width, kTop - 7, blocks_ - 1);
    return out;
  }

  [[nodiscard]] std::string row(std::size_t r) const {
    const double y = kTop + kRow * static_cast<double>(r);
    std::string out = fmt::format("<text x='{:.0f}' y='{:.1f}' fill='#222222' text-anchor='end'>{}</text>\n",
                                  kLeft - 10, y + kRow - 6, svg_text(rows_[r].label));
    std::map<std::pair<std::size_t, std::size_t>, const LayerLoss*> cells;
    for (const LayerLoss& cell : rows_[r].cells) {
      const Place place = place_of(cell.layer);
      const auto kind = std::find(kinds_.begin(), kinds_.end(), place.kind) - kinds_.begin();
      const LayerLoss*& shown = cells[{static_cast<std::size_t>(kind), place.block}];
      if (shown == nullptr || cell.loss > shown->loss) shown = &cell;  // of several experts the one that loses most
    }
    for (std::size_t k = 0; k < kinds_.size(); ++k)
      for (std::size_t b = 0; b < blocks_; ++b) {
        const auto it = cells.find({k, b});
        const LayerLoss* cell = it == cells.end() ? nullptr : it->second;
        const std::string fill = cell == nullptr ? "#e8e8e8" : cell->loss > 0 ? colour(share(cell->loss)) : "#ffffff";
        out += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='{:.2f}' height='{:.1f}' fill='{}'>", x_of(k, b), y,
                           std::max(cell_ - 0.6, 2.0), kRow - 2, fill);
        if (cell != nullptr)
          out += fmt::format("<title>{}, {}: {}</title>", svg_text(rows_[r].label), svg_text(cell->layer),
                             percent(cell->loss));
        out += "</rect>\n";
      }
    return out;
  }

  [[nodiscard]] std::string legend(double height) const {
    constexpr int steps = 60;
    constexpr double width = 240;
    if (most_ == 0) return {};  // nothing is lost
    const double y = height - 34;
    std::string out;
    for (int i = 0; i < steps; ++i)
      out += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='{:.2f}' height='10' fill='{}'/>\n",
                         kLeft + width * i / steps, y, width / steps + 0.3, colour((i + 0.5) / steps));
    out += fmt::format("<text x='{:.0f}' y='{:.1f}' fill='#444444'>{}</text>\n", kLeft, y + 24, percent(least_));
    out += fmt::format("<text x='{:.0f}' y='{:.1f}' fill='#444444' text-anchor='end'>{}</text>\n", kLeft + width,
                       y + 24, percent(most_));
    return out + fmt::format(
                     "<text x='{:.0f}' y='{:.1f}' fill='#444444'>of a layer's output goes wrong; logarithmic. "
                     "Columns are blocks, from the first to the last.</text>\n",
                     kLeft + width + 14, y + 10);
  }

  const std::vector<HeatRow>& rows_;
  std::vector<std::string> kinds_;
  std::size_t blocks_ = 0;
  double least_ = HUGE_VAL, most_ = 0, cell_ = 0;
};

}  // namespace

std::string heat_map_svg(const std::vector<HeatRow>& rows) { return Map(rows).svg(); }

}  // namespace nibble::cli
