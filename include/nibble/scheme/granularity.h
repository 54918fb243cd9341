// Which elements of a matrix share the parameters of a scheme, and how those groups are numbered: the one place that
// knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// What shares one scale.
enum class Granularity : std::uint8_t {
  tensor,   ///< The whole matrix.
  channel,  ///< A row (an output channel).
  group,    ///< `size` consecutive columns of one row; the last group of a row may be shorter.
  block,  ///< `size` consecutive elements of the flattened matrix, across rows (bitsandbytes); the last may be shorter.
  tile,   ///< `size` rows by `size` columns (DeepSeek's fp8); the last ones may be lower and narrower.
};

/// The groups of a row-major matrix, in the order of their numbers: tensor {0}; channel {row};
/// group {row·groups per row + column/size}; block {(row·cols + column)/size};
/// tile {row/size·groups per row + column/size}.
/// Every function needs a size above 0 for `group`, `block` and `tile`.
struct Grouping {
  Granularity granularity = Granularity::channel;
  std::size_t size = 0;  ///< Elements of a group or block, side of a tile; 0 for tensor and channel.

  friend bool operator==(const Grouping&, const Grouping&) = default;

  [[nodiscard]] constexpr bool has_size() const {
    return granularity == Granularity::group || granularity == Granularity::block || granularity == Granularity::tile;
  }
  /// Groups that a row meets (granularity group and tile), else 1.
  [[nodiscard]] constexpr std::size_t per_row(std::size_t cols) const {
    return granularity == Granularity::group || granularity == Granularity::tile ? cols / size + (cols % size != 0) : 1;
  }
  /// Groups of a rows × cols matrix.
  [[nodiscard]] constexpr std::size_t count(std::size_t rows, std::size_t cols) const {
    switch (granularity) {
      case Granularity::tensor: return 1;
      case Granularity::channel: return rows;
      case Granularity::group: return rows * per_row(cols);
      case Granularity::block: return rows * cols / size + (rows * cols % size != 0);
      case Granularity::tile: return (rows / size + (rows % size != 0)) * per_row(cols);
    }
    return 0;
  }
  /// The group of an element.
  [[nodiscard]] constexpr std::size_t of(std::size_t row, std::size_t col, std::size_t cols) const {
    switch (granularity) {
      case Granularity::tensor: return 0;
      case Granularity::channel: return row;
      case Granularity::group: return row * per_row(cols) + col / size;
      case Granularity::block: return (row * cols + col) / size;
      case Granularity::tile: return row / size * per_row(cols) + col / size;
    }
    return 0;
  }
  /// Whether no group of a matrix with rows of `cols` has elements of two rows.
  [[nodiscard]] constexpr bool within_rows(std::size_t cols) const {
    if (granularity == Granularity::block) return cols % size == 0;
    return granularity == Granularity::channel || granularity == Granularity::group;
  }

  /// Row and column of the first element of a group.
  [[nodiscard]] constexpr std::pair<std::size_t, std::size_t> begin_of(std::size_t group, std::size_t cols) const {
    switch (granularity) {
      case Granularity::tensor: return {0, 0};
      case Granularity::channel: return {group, 0};
      case Granularity::group: return {group / per_row(cols), group % per_row(cols) * size};
      case Granularity::block: return {group * size / cols, group * size % cols};
      case Granularity::tile: return {group / per_row(cols) * size, group % per_row(cols) * size};
    }
    return {0, 0};
  }

  /// Calls body(begin, end, group) for the runs of columns of `row` inside [first, last) that share a group, in order.
  template <class Body>
  constexpr void for_each_run(std::size_t cols, std::size_t row, std::size_t first, std::size_t last,
                              Body&& body) const {
    if (!has_size()) {
      if (first < last) body(first, last, of(row, first, cols));
      return;
    }
    const std::size_t start = granularity == Granularity::block ? row * cols : 0;
    for (std::size_t begin = first; begin < last;) {
      const std::size_t next = ((start + begin) / size + 1) * size - start, end = next < last ? next : last;
      body(begin, end, of(row, begin, cols));
      begin = end;
    }
  }
  /// The other way round: calls body(row, begin, end) for the runs of columns that make up `group`, in row-major order.
  template <class Body>
  constexpr void for_each_piece(std::size_t group, std::size_t rows, std::size_t cols, Body&& body) const {
    const bool is_block = granularity == Granularity::block;
    if (granularity == Granularity::channel) return body(group, std::size_t{0}, cols);
    if (granularity == Granularity::group) {
      const std::size_t begin = group % per_row(cols) * size, left = cols - begin;
      return body(group / per_row(cols), begin, begin + (left < size ? left : size));
    }
    if (granularity == Granularity::tile) {
      const std::size_t begin = group % per_row(cols) * size, left = cols - begin, top = group / per_row(cols) * size;
      for (std::size_t row = top; row < rows && row < top + size; ++row)
        body(row, begin, begin + (left < size ? left : size));
      return;
    }
    const std::size_t total = rows * cols, begin = is_block ? group * size : 0;
    const std::size_t end = is_block && total - begin > size ? begin + size : total;
    for (std::size_t at = begin; at < end;) {
      const std::size_t row = at / cols, stop = (row + 1) * cols < end ? (row + 1) * cols : end;
      body(row, at - row * cols, stop - row * cols);
      at = stop;
    }
  }
};

}  // namespace nibble::inline NIBBLE_ABI
