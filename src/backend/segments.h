// Which columns of a row share a scale: the one place that knows what the granularities mean for a scan.
#pragma once

#include <algorithm>
#include <cstddef>

#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI {

/// Calls body(begin, end, group) for the runs of columns of `row` inside [first, last) that share a group, in order.
/// `g_idx` null: groups are consecutive columns.
template <class Body>
void for_each_segment(const QuantSpec& spec, std::size_t cols, const std::int32_t* g_idx, std::size_t row,
                      std::size_t first, std::size_t last, Body body) {
  switch (spec.granularity) {
    case Granularity::tensor: return body(first, last, std::size_t{0});
    case Granularity::channel: return body(first, last, row);
    case Granularity::group: {
      const std::size_t base = row * spec.groups_per_row(cols);
      for (std::size_t begin = first; begin < last;) {
        std::size_t end = std::min(last, (begin / spec.group_size + 1) * spec.group_size);
        std::size_t group = begin / spec.group_size;
        if (g_idx != nullptr) {
          group = static_cast<std::size_t>(g_idx[begin]);
          for (end = begin + 1; end < last && g_idx[end] == g_idx[begin];) ++end;
        }
        body(begin, end, base + group);
        begin = end;
      }
      return;
    }
    case Granularity::block: {
      const std::size_t start = row * cols;
      for (std::size_t begin = first; begin < last;) {
        const std::size_t block = (start + begin) / spec.group_size;
        const std::size_t end = std::min(last, (block + 1) * spec.group_size - start);
        body(begin, end, block);
        begin = end;
      }
      return;
    }
  }
}

}  // namespace nibble::inline NIBBLE_ABI
