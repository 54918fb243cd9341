// Rows are solved kLanes at a time, a panel, with their weights as [position][lane]: every loop runs over lanes, the
// micro-kernel's right operand is the panel itself, and a step's matrices, its left operand, serve several panels while
// they lie in cache.
#pragma once

#include "nibble/solver/impl/gptq_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <type_traits>

#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/core/bit_pack.h"
#include "nibble/core/rounded_product.h"
#include "nibble/solver/impl/gptq_grid.h"
#include "nibble/solver/impl/gptq_refit_rows_inl.h"
#include "nibble/solver/impl/gptq_setup.h"

namespace nibble::inline NIBBLE_ABI::gptq {

namespace detail {

/// Panels of one task.
inline constexpr std::size_t kPanels = 8;
/// Columns solved one by one before the rest of the step hears of them through the micro-kernel.
inline constexpr std::size_t kNarrow = 16;

/// Adding and subtracting it rounds to the nearest integer, half to even. What it is added to comes out of a division
/// and two selections, so that no compiler can fuse the addition with a multiplication.
template <class T>
inline constexpr T kRounder = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);

/// A group of a panel as it is fitted: the weights [n][kLanes] of positions from `first` on, up to date.
template <class T>
struct GroupWindow {
  const T* weights;
  std::size_t n, first;
  std::size_t group;
  std::size_t first_row, rows;  ///< Of the matrix.
  /// U_ii of these positions, `pivot_stride` apart; null where the grids are those of the original weights.
  const T* pivots;
  std::size_t pivot_stride;
};

/// What a row's codes and scales are: the groups of a QuantizedMatrix. (Those of GGUF's blocks: gptq_blocks_inl.h.)
template <class T>
class AffineGroups {
 public:
  using Grid = LaneGrid<T>;
  AffineGroups(const RowsInput<T>& in, QuantizedMatrix& out) : in_(in), out_(out) {}

  void fit(const GroupWindow<T>& w, Grid& grid) const {
    grid = fit_grid(w.weights, w.n, in_.options);
    for (std::size_t r = 0; r < w.rows; ++r)
      check_scale(in_.options, w.first_row + r, w.group, static_cast<float>(grid.scale[r]));
  }

  /// One column of a panel, at `position`: codes, decoded values, and what is left over in units of the pivot.
  void quantize(const Grid& grid, std::size_t, const T* w, T pivot, std::uint8_t* codes, T* decoded, T* error) const {
    const RoundedProduct<float> times;
    const T top = static_cast<T>((1 << in_.options.bits) - 1);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const T low = -grid.zero[lane], high = top - grid.zero[lane];
      T t = w[lane] / grid.scale[lane];
      t = t > low ? t : low;
      t = t < high ? t : high;
      t = (t + kRounder<T>)-kRounder<T>;
      codes[lane] = static_cast<std::uint8_t>(static_cast<std::int32_t>(t + grid.zero[lane]));
      decoded[lane] = static_cast<T>(times(static_cast<float>(t), static_cast<float>(grid.scale[lane])));
      error[lane] = (w[lane] - decoded[lane]) / pivot;
    }
  }

  /// Row `row`, which is the panel's `lane`: its codes, a byte each in the columns' own order, and all groups' grids.
  void store(std::size_t row, std::size_t lane, const std::uint8_t* codes, const std::vector<Grid>& grids) const {
    const int bits = in_.options.bits;
    const std::size_t n = in_.plan.cols();
    std::uint8_t* to = out_.codes.template writable<std::uint8_t>() + row * out_.row_bytes();
    if (bits == 4) kernels_of(in_.options.backend).pack_nibbles(codes, n, to);
    else pack_codes(codes, n, bits, to);
    for (std::size_t g = 0; g < grids.size(); ++g)
      store_group(out_, in_.options, row, g, grids.size(),
                  {static_cast<float>(grids[g].scale[lane]), static_cast<std::int32_t>(grids[g].zero[lane])});
  }

 private:
  const RowsInput<T>& in_;
  QuantizedMatrix& out_;
};

/// One task: up to kPanels · kLanes rows.
template <class T, class Groups>
class RowChunk {
 public:
  RowChunk(const RowsInput<T>& in, const Groups& groups) : in_(in), groups_(groups), n_(in.plan.cols()) {
    std::size_t widest = 0, longest = 0;
    for (const auto& s : in.factor) {
      widest = std::max(widest, s.width());
      longest = std::max(longest, s.step.end - s.step.begin);
    }
    drifts_ = !in.factor.empty() && !in.factor.front().drift_inside.empty();
    if (!in.refit.empty()) refit_.emplace(in.refit, in.options, multiply_);
    corrects_ = !in.correction.empty();
    product_.resize(widest * kLanes);
    errors_.resize(longest * kLanes);
    for (Panel& p : panels_) {
      p.target.resize(n_ * kLanes);
      p.window.resize(widest * kLanes);
      p.codes.resize(n_ * kLanes);
      p.grids.resize(in.plan.groups);
      if (drifts_) p.current.resize(n_ * kLanes);
    }
  }

  /// ½Σe² of each row from `first_row` on, into losses.
  void run(std::size_t first_row, std::size_t rows, double* losses) {
    const std::size_t panels = (rows + kLanes - 1) / kLanes;
    for (std::size_t p = 0; p < panels; ++p) {
      panels_[p].first_row = first_row + p * kLanes;
      panels_[p].rows = std::min(kLanes, rows - p * kLanes);
      load(panels_[p]);
      if (in_.plan.grids_first) fit_all(panels_[p]);
    }
    for (const auto& s : in_.factor) {
      bring_up_to_date(s, panels);
      for (std::size_t p = 0; p < panels; ++p) solve_step(s, panels_[p]);
    }
    for (std::size_t p = 0; p < panels; ++p) {
      if constexpr (std::is_same_v<typename Groups::Grid, LaneGrid<T>>)
        if (refit_)
          refit_->run(panels_[p].target.data(), panels_[p].codes.data(), panels_[p].grids, panels_[p].squares);
      store(panels_[p]);
      for (std::size_t r = 0; r < panels_[p].rows; ++r) losses[p * kLanes + r] = panels_[p].squares[r] / 2;
    }
  }

 private:
  struct Panel {
    std::size_t first_row = 0, rows = 0;
    std::vector<T> target;  ///< [position][lane]: the weight to be met; once solved, what its value falls short by, Δ.
    std::vector<T> current;  ///< GPTAQ: the weight as it was quantized.
    std::vector<T> window;   ///< Of the current step, up to date.
    std::vector<std::uint8_t> codes;
    std::vector<typename Groups::Grid> grids;
    T first[kLanes];  ///< Qronos: what the first column is rounded from.
    double squares[kLanes];
  };

  void load(Panel& p) {
    const std::size_t stride = n_ + 16;
    rows_.resize(kLanes * stride);
    for (std::size_t r = 0; r < p.rows; ++r) {
      const std::size_t row = p.first_row + r;
      float* to = rows_.data() + r * stride;
      const float* from = cpu_upcast(isa_, in_.weights.type, in_.weights.row(row), n_, to);
      if (from != to) std::copy_n(from, n_, to);
      if (!isa_.range(to, n_).finite) refuse(row, to);
    }
    for (std::size_t r = p.rows; r < kLanes; ++r) std::fill_n(rows_.data() + r * stride, n_, 0.0f);
    for (std::size_t i = 0; i < n_; ++i) {
      const std::size_t column = in_.plan.order[i];
      T* to = p.target.data() + i * kLanes;
      if (in_.dead[column]) std::fill_n(to, kLanes, T(0));
      else
        for (std::size_t r = 0; r < kLanes; ++r) to[r] = static_cast<T>(rows_[r * stride + column]);
    }
    if (corrects_) correct(p);
    std::fill_n(p.squares, kLanes, 0.0);
  }

  /// From the weights to what Qronos aims at instead. What the first column is rounded from is kept apart.
  void correct(Panel& p) const {
    const Correction<T>& c = in_.correction;
    for (std::size_t r = 0; r < p.rows; ++r) {
      p.first[r] = p.target[r] + c.first[p.first_row + r];
      for (std::size_t i = 0; i < n_; ++i) p.target[i * kLanes + r] += c.change[(p.first_row + r) * n_ + i];
    }
    std::fill(p.first + p.rows, p.first + kLanes, T(0));
  }

  [[noreturn]] void refuse(std::size_t row, const float* values) const {
    std::size_t c = 0;
    while (is_finite(values[c])) ++c;
    refuse_weight(in_.options, row, c, values[c]);
  }

  void fit_first(Panel& p, std::size_t group, const T* w, std::size_t n) {
    groups_.fit({w, n, 0, group, p.first_row, p.rows, nullptr, 0}, p.grids[group]);
  }

  /// Grids of the original weights, in the order of their groups.
  void fit_all(Panel& p) {
    if (in_.plan.groups == 1) return fit_first(p, 0, p.target.data(), n_);
    std::vector<std::vector<T>> members(in_.plan.groups);
    for (std::size_t i = 0; i < n_; ++i) {
      auto& group = members[in_.plan.group[i]];
      group.insert(group.end(), p.target.data() + i * kLanes, p.target.data() + (i + 1) * kLanes);
    }
    for (std::size_t g = 0; g < members.size(); ++g) fit_first(p, g, members[g].data(), members[g].size() / kLanes);
  }

  /// window = target + Δ·coupling (+ current·drift, which is a change of the target).
  void bring_up_to_date(const StepFactor<T>& s, std::size_t panels) {
    const std::size_t w = s.width(), begin = s.step.begin, own = s.step.end - begin;
    for (std::size_t p = 0; p < panels; ++p)
      std::copy_n(panels_[p].target.data() + begin * kLanes, w * kLanes, panels_[p].window.data());
    for (std::size_t p = 0; corrects_ && begin == 0 && p < panels; ++p)
      std::copy_n(panels_[p].first, kLanes, panels_[p].window.data());
    for (std::size_t k = 0; k < begin; k += kDepth) {
      const std::size_t depth = std::min(kDepth, begin - k);
      for (std::size_t p = 0; p < panels; ++p) {
        Panel& panel = panels_[p];
        multiply_(s.coupling.data() + s.chunk(k), kRow, w, panel.target.data() + k * kLanes, depth, product_.data());
        for (std::size_t i = 0; i < w * kLanes; ++i) panel.window[i] += product_[i];
        if (!drifts_) continue;
        multiply_(s.drift.data() + s.chunk(k), kRow, w, panel.current.data() + k * kLanes, depth, product_.data());
        for (std::size_t i = 0; i < w * kLanes; ++i) panel.window[i] += product_[i];
        for (std::size_t i = 0; i < own * kLanes; ++i) panel.target[begin * kLanes + i] += product_[i];
      }
    }
  }

  void solve_step(const StepFactor<T>& s, Panel& p) {
    const Step& step = s.step;
    const Plan& plan = in_.plan;
    const bool stale = in_.options.compat;
    if (!plan.grids_first && stale)
      for (std::size_t i = step.begin; i < step.end; ++i)
        if (plan.group_begins(i)) fit_at(s, p, i);
    for (std::size_t i = step.begin; i < step.end;) {
      if (!plan.grids_first && !stale && plan.group_begins(i)) fit_at(s, p, i);
      std::size_t end = i + 1;
      while (end < std::min(i + kNarrow, step.end) && (plan.grids_first || stale || !plan.group_begins(end))) ++end;
      solve_narrow(s, p, i, end);
      if (end < step.end) spread(s, p, i, end);
      i = end;
    }
  }

  void fit_at(const StepFactor<T>& s, Panel& p, std::size_t i) {
    const std::size_t at = i - s.step.begin, group = in_.plan.group[i];
    groups_.fit({p.window.data() + at * kLanes, in_.plan.group_end(i) - i, i, group, p.first_row, p.rows,
                 s.inverse.data() + at * (s.width() + 1), s.width() + 1},
                p.grids[group]);
  }

  /// Positions [first, end), each from its quantization to its effect on the others of them.
  void solve_narrow(const StepFactor<T>& s, Panel& p, std::size_t first, std::size_t end) {
    const std::size_t w = s.width(), begin = s.step.begin;
    const RoundedProduct<T> times;
    alignas(64) T squares[kLanes] = {};
    alignas(64) T decoded[kLanes];
    for (std::size_t i = first; i < end; ++i) {
      const T* inverse = s.inverse.data() + (i - begin);
      T* now = p.window.data() + (i - begin) * kLanes;
      T* error = errors_.data() + (i - begin) * kLanes;
      groups_.quantize(p.grids[in_.plan.group[i]], i, now, inverse[(i - begin) * w], p.codes.data() + i * kLanes,
                       decoded, error);
      if (corrects_ && i == 0)  // the others make up for what it falls short by of its target
        for (std::size_t lane = 0; lane < kLanes; ++lane) error[lane] = (p.target[lane] - decoded[lane]) / inverse[0];
      for (std::size_t lane = 0; lane < kLanes; ++lane) squares[lane] += times(error[lane], error[lane]);
      for (std::size_t j = i + 1; j < end; ++j) {
        const T u = inverse[(j - begin) * w];
        T* to = p.window.data() + (j - begin) * kLanes;
        for (std::size_t lane = 0; lane < kLanes; ++lane) to[lane] -= times(error[lane], u);
      }
      if (drifts_) drift_narrow(s, p, i, end);
      T* target = p.target.data() + i * kLanes;
      for (std::size_t lane = 0; lane < kLanes; ++lane) target[lane] -= decoded[lane];
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) p.squares[lane] += static_cast<double>(squares[lane]);
  }

  void drift_narrow(const StepFactor<T>& s, Panel& p, std::size_t i, std::size_t end) {
    const RoundedProduct<T> times;
    const std::size_t w = s.width(), begin = s.step.begin;
    const T* now = p.window.data() + (i - begin) * kLanes;
    std::copy_n(now, kLanes, p.current.data() + i * kLanes);
    for (std::size_t j = i + 1; j < end; ++j) {
      const T drift = s.drift_inside[(j - begin) * w + i - begin];
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        p.window[(j - begin) * kLanes + lane] += times(now[lane], drift);
        p.target[j * kLanes + lane] += times(now[lane], drift);
      }
    }
  }

  /// The effect of positions [first, end) on the rest of the step.
  void spread(const StepFactor<T>& s, Panel& p, std::size_t first, std::size_t end) {
    const std::size_t w = s.width(), begin = s.step.begin, rest = s.step.end - end,
                      at = (end - begin) * w + first - begin;
    T* window = p.window.data() + (end - begin) * kLanes;
    multiply_(s.inverse.data() + at, w, rest, errors_.data() + (first - begin) * kLanes, end - first, product_.data());
    for (std::size_t i = 0; i < rest * kLanes; ++i) window[i] -= product_[i];
    if (!drifts_) return;
    multiply_(s.drift_inside.data() + at, w, rest, p.current.data() + first * kLanes, end - first, product_.data());
    for (std::size_t i = 0; i < rest * kLanes; ++i) window[i] += product_[i];
    for (std::size_t i = 0; i < rest * kLanes; ++i) p.target[end * kLanes + i] += product_[i];
  }

  /// Codes back in the columns' own order; scales.
  void store(const Panel& p) {
    row_codes_.resize(kLanes * (n_ + 16));
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t r = 0; r < kLanes; ++r) row_codes_[r * (n_ + 16) + in_.plan.order[i]] = p.codes[i * kLanes + r];
    for (std::size_t r = 0; r < p.rows; ++r)
      groups_.store(p.first_row + r, r, row_codes_.data() + r * (n_ + 16), p.grids);
  }

  const RowsInput<T>& in_;
  const Groups& groups_;
  std::size_t n_;
  bool drifts_ = false, corrects_ = false;
  const kernels::KernelTable& isa_ = kernels_of(in_.options.backend);
  solver::GemmPanel<T> multiply_ = solver::gemm_panel<T>(isa_);
  Panel panels_[kPanels];
  std::optional<ScaleRefit<T>> refit_;
  std::vector<T> product_, errors_;
  std::vector<float> rows_;
  std::vector<std::uint8_t> row_codes_;
};

/// Solves all rows; returns ½Σe².
template <class T, class Groups>
double solve_chunks(const RowsInput<T>& in, const Groups& groups, Executor& executor) {
  // Small matrices in smaller chunks, so that every thread has some; results do not depend on it.
  const std::size_t rows = in.weights.rows;
  const auto threads = static_cast<std::size_t>(std::max(1, executor.concurrency()));
  const std::size_t panels = (rows + kLanes - 1) / kLanes;
  const std::size_t chunk = kLanes * std::clamp<std::size_t>(panels / (2 * threads), 1, kPanels);
  std::vector<double> losses(rows);
  parallel_for(executor, (rows + chunk - 1) / chunk, 1, [&](std::size_t begin, std::size_t end) {
    RowChunk<T, Groups> solver(in, groups);
    for (std::size_t i = begin; i < end; ++i)
      solver.run(i * chunk, std::min(chunk, rows - i * chunk), losses.data() + i * chunk);
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace detail

template <class T>
double solve_rows(const RowsInput<T>& in, QuantizedMatrix& out, Executor& executor) {
  return detail::solve_chunks(in, detail::AffineGroups<T>(in, out), executor);
}

}  // namespace nibble::inline NIBBLE_ABI::gptq
