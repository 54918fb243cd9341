// What solver/impl/gptq_plan.h declares.
#pragma once

#include "nibble/solver/impl/gptq_plan.h"

#include <algorithm>
#include <numeric>

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

/// Columns of a block: the reference's, and as good a size as any for the kernels.
inline constexpr std::size_t kBlock = 128;

inline std::vector<std::size_t> falling(const std::vector<double>& diagonal) {
  std::vector<std::size_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return diagonal[a] > diagonal[b]; });
  return order;
}

/// Columns by falling diagonal inside their group of neighbours, groups by their largest.
inline std::vector<std::size_t> group_aware(const std::vector<double>& diagonal, std::size_t group_size) {
  const std::vector<std::size_t> order = falling(diagonal);
  std::vector<std::vector<std::size_t>> members((diagonal.size() + group_size - 1) / group_size);
  std::vector<std::size_t> by_largest;  // the first of a group to come up is its largest
  for (std::size_t c : order) {
    auto& group = members[c / group_size];
    if (group.empty()) by_largest.push_back(c / group_size);
    group.push_back(c);
  }
  std::vector<std::size_t> out;
  out.reserve(diagonal.size());
  for (std::size_t g : by_largest) out.insert(out.end(), members[g].begin(), members[g].end());
  return out;
}

/// Blocks that hold whole groups, so that a grid is always fitted to weights that are up to date: as many small groups
/// as a block takes, or one group, or, where that is long, its pieces, the first of which sees all of it.
inline std::vector<Step> aligned_steps(const Plan& plan) {
  std::vector<Step> steps;
  for (std::size_t begin = 0; begin < plan.cols();) {
    const std::size_t first_end = plan.group_end(begin);
    if (first_end - begin > 2 * kBlock) {
      for (std::size_t at = begin; at < first_end; at += kBlock) {
        const std::size_t end = std::min(at + kBlock, first_end);
        steps.push_back({at, end, at == begin ? first_end : end});
      }
      begin = first_end;
      continue;
    }
    std::size_t end = first_end;
    while (end < plan.cols() && plan.group_end(end) - begin <= kBlock) end = plan.group_end(end);
    steps.push_back({begin, end, end});
    begin = end;
  }
  return steps;
}

/// Blocks of 128. Where `grids_inside`, a block first looks as far as the groups that begin in it reach.
inline std::vector<Step> plain_steps(const Plan& plan, bool grids_inside) {
  std::vector<Step> steps;
  for (std::size_t begin = 0; begin < plan.cols(); begin += kBlock) {
    Step step{begin, std::min(begin + kBlock, plan.cols()), 0};
    step.window = step.end;
    for (std::size_t i = begin; grids_inside && i < step.end; ++i)
      if (plan.group_begins(i)) step.window = std::max(step.window, plan.group_end(i));
    steps.push_back(step);
  }
  return steps;
}

}  // namespace detail

NIBBLE_INLINE Plan make_plan(const std::vector<double>& diagonal, const Options& options) {
  const std::size_t cols = diagonal.size();
  const std::size_t group_size = options.group_size < 0 ? cols : static_cast<std::size_t>(options.group_size);
  Plan plan;
  plan.groups = (cols + group_size - 1) / group_size;
  plan.grids_first = options.static_groups || options.group_size < 0;
  if (options.act_group_aware) plan.order = detail::group_aware(diagonal, group_size);
  else if (options.act_order) plan.order = detail::falling(diagonal);
  else {
    plan.order.resize(cols);
    std::iota(plan.order.begin(), plan.order.end(), std::size_t{0});
  }
  const bool by_rank = options.act_order && !plan.grids_first;
  plan.group.resize(cols);
  for (std::size_t i = 0; i < cols; ++i) plan.group[i] = (by_rank ? i : plan.order[i]) / group_size;
  if (plan.grids_first) plan.steps = detail::plain_steps(plan, false);
  else plan.steps = options.compat ? detail::plain_steps(plan, true) : detail::aligned_steps(plan);
  return plan;
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
