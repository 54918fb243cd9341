// The order in which GPTQ solves columns, the groups they belong to, and the steps it takes.
#pragma once

#include <cstddef>
#include <vector>

#include "nibble/solver/gptq.h"

namespace nibble::inline NIBBLE_ABI::gptq {

/// One block of columns, as positions in the order of solving.
struct Step {
  std::size_t begin, end;  ///< Solved here.
  std::size_t window;  ///< ≥ end: as far as columns are brought up to date first, because a grid is fitted to them.
};

struct Plan {
  std::vector<std::size_t> order;  ///< The column at each position.
  std::vector<std::size_t> group;  ///< The group, within a row, of each position.
  std::size_t groups = 1;
  bool grids_first = false;  ///< Grids are fitted to the original weights, before anything is solved.
  std::vector<Step> steps;

  [[nodiscard]] std::size_t cols() const { return order.size(); }
  [[nodiscard]] bool group_begins(std::size_t position) const {
    return position == 0 || group[position] != group[position - 1];
  }
  /// Only where a group's positions are neighbours: not with grids_first.
  [[nodiscard]] std::size_t group_end(std::size_t position) const {
    std::size_t end = position + 1;
    while (end < cols() && group[end] == group[position]) ++end;
    return end;
  }
};

/// `diagonal` is that of H, one value a column.
Plan make_plan(const std::vector<double>& diagonal, const Options& options);

}  // namespace nibble::inline NIBBLE_ABI::gptq

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/solver/impl/gptq_plan_inl.h"
#endif
