// What solver/impl/rank_update.h declares.
#pragma once

#include "nibble/solver/impl/rank_update.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/error.h"
#include "nibble/solver/impl/panel.h"

namespace nibble::inline NIBBLE_ABI::solver {

namespace detail {

/// Tokens packed at a time: enough that a tile of sums, once in cache, is worth its trip to memory.
inline constexpr std::size_t kTokens = 4 * kDepth;
/// Apart, rows of packed channels must not be a power of two, or they share a cache set.
inline constexpr std::size_t kStride = kTokens + 16;
/// A task's tile: this many rows of the result by so many panels of columns.
inline constexpr std::size_t kTileRows = 192, kTilePanels = 16;

/// Row t in fp32: in place, or upcast into `scratch`.
inline const float* load(const kernels::KernelTable& isa, FloatMatrix x, std::size_t t, float* scratch) {
  return cpu_upcast(isa, x.type, x.row(t), x.cols, scratch);
}

/// Some tokens of a batch as the micro-kernel wants them.
struct Packed {
  std::size_t channels, panels, tokens = 0;
  RawArray<float> by_channel;  ///< [channel][kStride]: left operand.
  RawArray<float> by_panel;    ///< [panel][token][32 channels]: right operand, zero past the last channel.

  Packed(std::size_t cols, bool left, bool right)
      : channels(cols),
        panels((cols + kLanes - 1) / kLanes),
        by_channel(left ? cols * kStride : 0),
        by_panel(right ? panels * kTokens * kLanes : 0) {}
  [[nodiscard]] const float* left(std::size_t channel, std::size_t token) const {
    return by_channel.get() + channel * kStride + token;
  }
  [[nodiscard]] const float* right(std::size_t panel, std::size_t token) const {
    return by_panel.get() + (panel * kTokens + token) * kLanes;
  }
};

/// Packs tokens [first, first + count) of x, or of full − x where `full` has rows; 16 tokens to a task, whose channels
/// are then written a cache line at a time.
inline void pack(const kernels::KernelTable& isa, FloatMatrix x, FloatMatrix full, std::size_t first, std::size_t count,
                 Packed& out, Executor& executor) {
  constexpr std::size_t together = 16;
  out.tokens = count;
  parallel_for(executor, (count + together - 1) / together, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> rows(together * (x.cols + 16)), other(x.cols);
    for (std::size_t group = begin; group < end; ++group) {
      const std::size_t token = group * together, n = std::min(together, count - token);
      for (std::size_t t = 0; t < n; ++t) {
        float* row = rows.data() + t * (x.cols + 16);
        const float* from = load(isa, x, first + token + t, row);
        if (from != row) std::copy_n(from, x.cols, row);
        if (full.rows != 0) {
          const float* precise = load(isa, full, first + token + t, other.data());
          for (std::size_t c = 0; c < x.cols; ++c) row[c] = precise[c] - row[c];
        }
        if (out.by_panel.size == 0) continue;
        for (std::size_t p = 0; p < out.panels; ++p) {
          float* to = out.by_panel.get() + (p * kTokens + token + t) * kLanes;
          const std::size_t width = std::min(kLanes, x.cols - p * kLanes);
          std::copy_n(row + p * kLanes, width, to);
          std::fill(to + width, to + kLanes, 0.0f);
        }
      }
      if (out.by_channel.size == 0) continue;
      for (std::size_t c = 0; c < x.cols; ++c)
        for (std::size_t t = 0; t < n; ++t) out.by_channel.get()[c * kStride + token + t] = rows[t * (x.cols + 16) + c];
    }
  });
}

/// sum[r][lane] of rows [row, row + rows) of the left operand and one panel of the right, over all packed tokens.
inline void tile(GemmPanel<float> multiply, const Packed& left, const Packed& right, std::size_t row, std::size_t rows,
                 std::size_t panel, double* sum) {
  alignas(64) float part[kTileRows * kLanes];
  std::fill_n(sum, rows * kLanes, 0.0);
  for (std::size_t token = 0; token < left.tokens; token += kDepth) {
    const std::size_t depth = std::min(kDepth, left.tokens - token);
    multiply(left.left(row, token), kStride, rows, right.right(panel, token), depth, part);
    for (std::size_t i = 0; i < rows * kLanes; ++i) sum[i] += static_cast<double>(part[i]);
  }
}

/// Adds left·rightᵀ to rows that start at row_start(i) and are row_length(i) long.
template <class Start, class Length>
void add_product(GemmPanel<float> multiply, const Packed& left, const Packed& right, const Start& row_start,
                 const Length& row_length, Executor& executor) {
  struct Tile {
    std::size_t row, panel;
  };
  std::vector<Tile> tiles;
  for (std::size_t row = 0; row < left.channels; row += kTileRows)
    for (std::size_t panel = 0; panel < right.panels; panel += kTilePanels)
      if (panel * kLanes < row_length(std::min(row + kTileRows, left.channels) - 1)) tiles.push_back({row, panel});
  parallel_for(executor, tiles.size(), 1, [&](std::size_t begin, std::size_t end) {
    alignas(64) double sum[kTileRows * kLanes];
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t last_row = std::min(tiles[i].row + kTileRows, left.channels);
      const std::size_t last_panel = std::min(tiles[i].panel + kTilePanels, right.panels);
      for (std::size_t panel = tiles[i].panel; panel < last_panel; ++panel) {
        std::size_t row = tiles[i].row;
        while (row < last_row && row_length(row) <= panel * kLanes) ++row;  // those end before this panel
        if (row == last_row) break;
        tile(multiply, left, right, row, last_row - row, panel, sum);
        for (std::size_t r = row; r < last_row; ++r) {
          const std::size_t width = std::min(kLanes, row_length(r) - panel * kLanes);
          double* to = row_start(r) + panel * kLanes;
          for (std::size_t c = 0; c < width; ++c) to[c] += sum[(r - row) * kLanes + c];
        }
      }
    }
  });
}

}  // namespace detail

NIBBLE_INLINE std::size_t first_beyond(FloatMatrix x, float limit, const kernels::KernelTable& isa,
                                       Executor& executor) {
  std::atomic<std::size_t> first{x.rows};
  parallel_for(executor, x.rows, 16, [&](std::size_t begin, std::size_t end) {
    std::vector<float> scratch(x.cols);
    for (std::size_t t = begin; t < end; ++t) {
      const kernels::ValueRange r = isa.range(detail::load(isa, x, t, scratch.data()), x.cols);
      if (r.finite && r.max < limit && -r.min < limit) continue;
      std::size_t other = first.load();
      while (t < other && !first.compare_exchange_weak(other, t)) {
      }
      return;
    }
  });
  return first.load();
}

NIBBLE_INLINE void add_products(FloatMatrix x, FloatMatrix full, double* lower, double* cross,
                                const kernels::KernelTable& isa, Executor& executor) {
  if (x.rows == 0) return;
  const auto multiply = gemm_panel<float>(isa);
  const std::size_t cols = x.cols;
  detail::Packed packed(cols, true, true), difference(cols, cross != nullptr, false);
  for (std::size_t first = 0; first < x.rows; first += detail::kTokens) {
    const std::size_t count = std::min(detail::kTokens, x.rows - first);
    detail::pack(isa, x, {}, first, count, packed, executor);
    detail::add_product(
        multiply, packed, packed, [&](std::size_t i) { return lower + i * (i + 1) / 2; },
        [](std::size_t i) { return i + 1; }, executor);
    if (cross == nullptr) continue;
    detail::pack(isa, x, full, first, count, difference, executor);
    detail::add_product(
        multiply, difference, packed, [&](std::size_t i) { return cross + i * cols; },
        [&](std::size_t) { return cols; }, executor);
  }
}

}  // namespace nibble::inline NIBBLE_ABI::solver
