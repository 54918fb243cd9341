// What solver/impl/gptq_blocks.h declares. A block's scales are fitted when its first column's turn comes, to weights
// that make up for all before, by the search that encoding alone uses (scheme/impl/gguf_fit_blocks.h). What a column's
// squared error counts there is 1/U_ii²: that is its share of the loss.
#pragma once

#include "nibble/solver/impl/gptq_blocks.h"

#include <cstring>

#include "nibble/core/error.h"
#include "nibble/scheme/impl/gguf_fit_blocks.h"
#include "nibble/solver/impl/gptq_rows_inl.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

/// A group's scale and minimum of a block that has been fitted.
template <class Block>
fit::Line line_of(const Block& b, std::size_t group) {
  if constexpr (requires { b.dmin; })
    return {static_cast<float>(b.d) * static_cast<float>(b.scales.scale(group)),
            static_cast<float>(b.dmin) * static_cast<float>(b.scales.min(group))};
  else if constexpr (requires { b.group_scale(group); })
    return {static_cast<float>(b.d) * static_cast<float>(b.group_scale(group)), 0};
  else if constexpr (requires { b.m; }) return {static_cast<float>(b.d), -static_cast<float>(b.m)};
  else if constexpr (requires { b.scale(); }) return {b.scale(), 0};
  else return {static_cast<float>(b.d), 0};
}

/// The blocks of a panel's rows as a BlockMatrix holds them: each group of the plan is one.
template <class Block>
class BlockGroups {
 public:
  struct Grid {
    Block blocks[kLanes];
    float step[Block::size / Block::group][kLanes], min[Block::size / Block::group][kLanes];
  };
  BlockGroups(const RowsInput<float>& in, BlockMatrix& out) : in_(in), out_(out) {}

  void fit(const GroupWindow<float>& w, Grid& grid) const {
    float values[Block::size], counts[Block::size];
    for (std::size_t i = 0; i < w.n; ++i) {
      const float ratio = w.pivots[0] / w.pivots[i * w.pivot_stride];
      counts[element(w.first + i)] = ratio * ratio;
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      for (std::size_t i = 0; i < w.n; ++i) values[element(w.first + i)] = w.weights[i * kLanes + lane];
      if (!nibble::fit::encode(values, static_cast<const float*>(counts), grid.blocks[lane]) && lane < w.rows)
        throw Error(ErrorCode::non_finite,
                    "tensor '" + in_.options.name + "', row " + std::to_string(w.first_row + lane) + ", column " +
                        std::to_string(w.group * Block::size) +
                        ": f16 cannot hold the scale that these values need as " + std::string(Block::name));
      for (std::size_t g = 0; g < Block::size / Block::group; ++g) {
        const nibble::fit::Line line = line_of(grid.blocks[lane], g);
        grid.step[g][lane] = line.step;
        grid.min[g][lane] = line.min;
      }
    }
  }

  void quantize(const Grid& grid, std::size_t position, const float* w, float pivot, std::uint8_t* codes,
                float* decoded, float* error) const {
    using Levels = nibble::fit::LevelsOf<Block>;
    const RoundedProduct<float> times;
    const std::size_t g = element(position) / Block::group;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float step = grid.step[g][lane], min = grid.min[g][lane], inverse = step != 0 ? 1 / step : 0;
      const float level = Levels::nearest(times(w[lane] + min, inverse));
      codes[lane] = Levels::code(level);
      decoded[lane] = times(step, level) - min;
      error[lane] = (w[lane] - decoded[lane]) / pivot;
    }
  }

  void store(std::size_t row, std::size_t lane, const std::uint8_t* codes, const std::vector<Grid>& grids) const {
    std::byte* to = out_.blocks.template writable<std::byte>() + row * out_.row_bytes();
    for (std::size_t k = 0; k < grids.size(); ++k) {
      Block block = grids[k].blocks[lane];
      block.set_codes(codes + k * Block::size);
      std::memcpy(to + k * sizeof block, static_cast<const void*>(&block), sizeof block);
    }
  }

 private:
  /// Within its block.
  [[nodiscard]] std::size_t element(std::size_t position) const { return in_.plan.order[position] % Block::size; }

  const RowsInput<float>& in_;
  BlockMatrix& out_;
};

}  // namespace detail

NIBBLE_INLINE double solve_block_rows(const RowsInput<float>& in, BlockMatrix& out, Executor& executor) {
  return visit_block(out.type, [&](auto block) -> double {
    using Block = decltype(block);
    if constexpr (nibble::fit::Fitted<Block>)
      return detail::solve_chunks(in, detail::BlockGroups<Block>(in, out), executor);
    else return 0;  // solve() has refused such a type
  });
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
