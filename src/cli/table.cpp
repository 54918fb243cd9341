#include "table.h"

#include <algorithm>

#include "nibble/core/printable.h"

namespace nibble::cli {

namespace {

std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

void Table::row(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = printable(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths(rows_[0].size(), 0);
  for (const auto& cells : rows_)
    for (std::size_t c = 0; c < cells.size(); ++c) widths[c] = std::max(widths[c], width_of(cells[c]));
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string space(widths[c] - width_of(rows_[r][c]), ' ');
      line += (c == 0 ? "" : "  ") + (c == 0 ? rows_[r][c] + space : space + rows_[r][c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      std::size_t total = 2 * (widths.size() - 1);
      for (std::size_t w : widths) total += w;
      for (std::size_t i = 0; i < total; ++i) out += "─";
      out += "\n";
    }
  }
  return out;
}

}  // namespace nibble::cli
