// A table as aligned text, Markdown or comma-separated values.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace nibble::roofline {

enum class Style { text, markdown, csv };

/// Rows as long as the header. The first `labels` columns stand left, the others right.
class Table {
 public:
  Table(std::size_t labels, std::vector<std::string> header) : labels_(labels), rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  [[nodiscard]] std::string written(Style style) const {
    std::string out;
    for (std::size_t n = 0; n < rows_.size(); ++n) {
      out += line(rows_[n], style);
      if (n == 0 && style == Style::markdown) out += rule();
    }
    return out;
  }

 private:
  [[nodiscard]] std::string line(const std::vector<std::string>& row, Style style) const {
    std::string out = style == Style::markdown ? "|" : "";
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (style == Style::markdown) out += " " + row[c] + " |";
      else if (style == Style::csv) out += (c == 0 ? "" : ",") + row[c];
      else out += padded(row[c], width(c), c < labels_) + "  ";
    }
    while (out.ends_with(' ')) out.pop_back();
    return out + "\n";
  }
  static std::string padded(const std::string& text, std::size_t width, bool is_left) {
    const std::string space(width - text.size(), ' ');
    return is_left ? text + space : space + text;
  }
  [[nodiscard]] std::string rule() const {
    std::string out = "|";
    for (std::size_t c = 0; c < rows_[0].size(); ++c) out += c < labels_ ? "---|" : "---:|";
    return out + "\n";
  }
  [[nodiscard]] std::size_t width(std::size_t column) const {
    std::size_t most = 0;
    for (const auto& row : rows_) most = std::max(most, row[column].size());
    return most;
  }

  std::size_t labels_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace nibble::roofline
