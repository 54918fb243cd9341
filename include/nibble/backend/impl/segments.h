// Which columns of a row share a scale, where g_idx may say so.
#pragma once

#include <cstddef>

#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI {

/// Grouping::for_each_run for the matrix's own groups: with `g_idx` (granularity group), runs of columns that it puts
/// into the same group.
template <class Body>
void for_each_segment(const QuantSpec& spec, std::size_t cols, const std::int32_t* g_idx, std::size_t row,
                      std::size_t first, std::size_t last, Body body) {
  if (g_idx == nullptr || spec.granularity != Granularity::group)
    return spec.grouping().for_each_run(cols, row, first, last, body);
  const std::size_t base = row * spec.groups_per_row(cols);
  for (std::size_t begin = first; begin < last;) {
    std::size_t end = begin + 1;
    while (end < last && g_idx[end] == g_idx[begin]) ++end;
    body(begin, end, base + static_cast<std::size_t>(g_idx[begin]));
    begin = end;
  }
}

}  // namespace nibble::inline NIBBLE_ABI
