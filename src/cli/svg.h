// What the charts share.
#pragma once

#include <string>
#include <vector>

namespace nibble::cli {

/// As text of an element or of an attribute in single quotes.
std::string svg_text(const std::string& text);

/// Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, at most `most` of them: the ticks of an axis.
std::vector<double> round_numbers(double low, double high, std::size_t most);

}  // namespace nibble::cli
