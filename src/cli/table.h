// A text table: the first column to the left, the rest to the right, widths counted in code points.
#pragma once

#include <string>
#include <vector>

namespace nibble::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> headers) : rows_{std::move(headers)} {}
  /// Cells may come from files: they are shown printable().
  void row(std::vector<std::string> cells);
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace nibble::cli
