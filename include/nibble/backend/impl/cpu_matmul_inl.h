// What backend/impl/cpu_matmul.h declares.
#pragma once

#include "nibble/backend/impl/cpu_matmul.h"

#include <algorithm>
#include <string>
#include <vector>

#include "nibble/backend/impl/cpu_input.h"
#include "nibble/backend/impl/cpu_matrix.h"
#include "nibble/backend/impl/gated.h"
#include "nibble/backend/impl/thread_scratch.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/of_thread.h"
#include "nibble/core/impl/shape.h"
#include "nibble/core/rounded_product.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

using kernels::KernelTable;
using kernels::kInterleavedRows;
using kernels::kPanelDepth;
using kernels::kPanelWidth;

inline constexpr std::size_t kFloatBlock =
    256;                                       // tokens that share a decoded panel; their products fit the second level
inline constexpr std::size_t kInt8Block = 64;  // tokens whose products fit the first level
inline constexpr std::size_t kFixedBlock = 32;  // tokens whose digits fit the second level beside the codes

/// Error{shape_mismatch} unless y = x·Wᵀ has these shapes.
inline void check_shapes(MatrixView<const float> x, std::size_t in, std::size_t out, MatrixView<float> y,
                         const char* what) {
  x.validate("x");
  y.validate("y");
  if (x.cols == in && y.cols == out && x.rows == y.rows) return;
  throw Error(ErrorCode::shape_mismatch, std::string(what) + ": x is " + shape(x.rows, x.cols) + ", the weights map " +
                                             std::to_string(in) + " to " + std::to_string(out) + ", y is " +
                                             shape(y.rows, y.cols));
}

/// What one thread keeps from call to call.
struct Scratch {
  std::vector<float> panel;       ///< Two decoded panels.
  std::vector<float> product;     ///< [token][32] of one block of columns.
  std::vector<float> out, other;  ///< [token][64], whole sums; a second matrix's for SwiGLU.
  std::vector<float> columns;     ///< Those of a transposed product, [column][kPanelDepth].
  std::vector<float> sums;        ///< Its sums, [panel of tokens][column][32].
};
inline Scratch& thread_scratch(std::size_t tokens) {
  Scratch& s = of_thread<Scratch>();
  s.panel.resize(2 * kPanelDepth * kPanelWidth);
  const auto grow = [](std::vector<float>& v, std::size_t n) {
    if (v.size() < n) v.resize(n);
  };
  grow(s.product, tokens * kPanelWidth);
  grow(s.out, tokens * kInterleavedRows);
  grow(s.other, tokens * kInterleavedRows);
  return s;
}

inline std::size_t panel_count(const CpuMatrix& w) { return (w.rows() + kInterleavedRows - 1) / kInterleavedRows; }

/// One matrix and the activations as it takes them.
class Product {
 public:
  Product(const KernelTable& isa, const CpuMatrix& w, const CpuInput& in)
      : isa_(isa), w_(w), interleaved_(dynamic_cast<const InterleavedMatrix*>(&w)), in_(in) {}

  std::size_t block() const {
    return in_.kind == InputKind::fp32 ? kFloatBlock : in_.kind == InputKind::fixed ? kFixedBlock : kInt8Block;
  }

  /// out[t][64]: tokens [first, first + count) by rows 64p …; past the matrix's last row they mean nothing.
  void multiply(std::size_t p, std::size_t first, std::size_t count, Scratch& s, float* out) const {
    if (in_.kind == InputKind::fixed)
      return isa_.gemm_fixed(interleaved_->panel(p), in_.fixed_tokens(interleaved_->chunks(), first), count, out);
    if (in_.kind != InputKind::fp32) return gemm_int8(p, first, count, out);
    const float* x = in_.x.data + first * in_.x.stride;
    if (interleaved_ != nullptr && interleaved_->is_looked_up() && in_.x.rows <= isa_.few_tokens)
      return isa_.gemv_codes(interleaved_->panel(p), x, in_.x.stride, count, out);
    gemm_panels(p, x, count, s, out);
  }

 private:
  void gemm_panels(std::size_t p, const float* x, std::size_t count, Scratch& s, float* out) const {
    const kernels::ChunkLayout chunks = w_.chunks();
    float scales[kPanelWidth];
    for (std::size_t group = 0; group < chunks.depth; group += chunks.group_size) {
      const std::size_t group_end = std::min(group + chunks.group_size, chunks.depth);
      for (std::size_t k = group; k < group_end; k += chunks.chunk)
        for (std::size_t half = 0; half < kInterleavedRows; half += kPanelWidth) {
          const std::size_t row = p * kInterleavedRows + half, depth = std::min(chunks.chunk, group_end - k);
          if (row >= w_.rows()) break;
          const float* panel = w_.input_panel(isa_, row, k, k + depth, s.panel.data());
          if (w_.scales_after_sums()) w_.input_scales(isa_, row, k, scales);
          isa_.gemm_panel_add(x + k, in_.x.stride, count, panel, kPanelWidth, depth,
                              w_.scales_after_sums() ? scales : nullptr, k == 0, out + half, kInterleavedRows);
        }
    }
  }
  void gemm_int8(std::size_t p, std::size_t first, std::size_t count, float* out) const {
    const RoundedProduct<float> times;
    const InterleavedMatrix& w = *interleaved_;
    kernels::Int8Tokens tokens{in_.codes.data() + first * w.depth(), w.depth(), in_.sums.data() + first * w.groups(),
                               nullptr, w.groups()};
    if (in_.kind == InputKind::int8_group) tokens.scales = in_.group_scale.data() + first * w.groups();
    isa_.gemm_int8(w.int8_panel(p), tokens, count, out);
    const bool by_group = in_.kind == InputKind::int8_group, has_unit = w.int8_unit() != 1;
    for (std::size_t t = 0; t < count && (!by_group || has_unit); ++t)
      for (std::size_t j = 0; j < kInterleavedRows; ++j) {
        float& y = out[t * kInterleavedRows + j];
        if (!by_group) y = times(y, in_.token_scale[first + t]);
        if (has_unit) y = times(y, w.int8_unit());
      }
    for (std::size_t i = 0; i < in_.outlier_columns.size(); ++i) {
      float column[kInterleavedRows];
      w.decode_column(p, in_.outlier_columns[i], column);
      for (std::size_t t = 0; t < count; ++t) {
        const float x = in_.outliers[(first + t) * in_.outlier_columns.size() + i];
        for (std::size_t j = 0; j < kInterleavedRows; ++j) out[t * kInterleavedRows + j] += times(x, column[j]);
      }
    }
  }

  const KernelTable& isa_;
  const CpuMatrix& w_;
  const InterleavedMatrix* interleaved_;
  const CpuInput& in_;
};

inline const CpuMatrix& as_cpu_matrix(const PackedMatrix& w) {
  if (const auto* m = dynamic_cast<const CpuMatrix*>(&w)) return *m;
  throw Error(ErrorCode::invalid_argument,
              "the matrix was packed by the backend '" + std::string(w.backend().name()) + "'; multiply by it there");
}

/// Which column of W the packed column k holds; empty: its own.
inline std::span<const std::uint32_t> column_order(const CpuMatrix& w) {
  const auto* interleaved = dynamic_cast<const InterleavedMatrix*>(&w);
  return interleaved == nullptr ? std::span<const std::uint32_t>() : interleaved->order();
}

/// The inputs of a call. Those of equal needs share one.
using Inputs = ThreadScratch<std::vector<CpuInput>>;

/// Makes `x` ready for each matrix; fills `index` with whose input each uses.
template <class MatrixAt>
void prepare(const KernelTable& isa, MatrixView<const float> x, std::size_t count, MatrixAt at, Activations asked,
             std::vector<CpuInput>& inputs, std::size_t* index, Executor& executor) {
  if (inputs.size() < count) inputs.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const InputKind kind = input_kind(at(i), asked);
    index[i] = i;
    for (std::size_t j = 0; j < i && index[i] == i; ++j)
      if (index[j] == j && inputs[j].kind == kind && share_input(at(i), at(j))) index[i] = j;
    if (index[i] == i) inputs[i].prepare(isa, at(i), x, kind, executor);
  }
}

inline void store(const float* from, std::size_t first, std::size_t count, std::size_t row0, const Projection& to) {
  const std::size_t width = std::min(kInterleavedRows, to.y.cols - row0);
  for (std::size_t t = 0; t < count; ++t, from += kInterleavedRows) {
    float* y = to.y.data + (first + t) * to.y.stride + row0;
    if (to.bias.empty()) std::copy_n(from, width, y);
    else
      for (std::size_t j = 0; j < width; ++j) y[j] = from[j] + to.bias[row0 + j];
  }
}

inline constexpr std::size_t kMaxProjections = 16;

}  // namespace detail

NIBBLE_INLINE bool cpu_has_int8_matmul(const PackedMatrix& w) {
  const auto* m = dynamic_cast<const InterleavedMatrix*>(&w);
  return m != nullptr && m->has_int8_matmul();
}

NIBBLE_INLINE void cpu_matmul(const kernels::KernelTable& isa, MatrixView<const float> x,
                              std::span<const Projection> projections, Activations activations, Executor& executor) {
  if (projections.size() > detail::kMaxProjections) {
    cpu_matmul(isa, x, projections.first(detail::kMaxProjections), activations, executor);
    return cpu_matmul(isa, x, projections.subspan(detail::kMaxProjections), activations, executor);
  }
  for (const Projection& p : projections)
    if (p.weights == nullptr) throw Error(ErrorCode::invalid_argument, "matmul: a projection has no weights");
  const auto at = [&](std::size_t i) -> const CpuMatrix& { return detail::as_cpu_matrix(*projections[i].weights); };
  std::size_t panels = 0, index[detail::kMaxProjections];
  for (std::size_t i = 0; i < projections.size(); ++i) {
    const Projection& p = projections[i];
    detail::check_shapes(x, at(i).cols(), at(i).rows(), p.y, "matmul");
    if (!p.bias.empty() && p.bias.size() != at(i).rows())
      throw Error(ErrorCode::shape_mismatch, "matmul: the bias has " + std::to_string(p.bias.size()) + " values for " +
                                                 std::to_string(at(i).rows()) + " outputs");
    panels += detail::panel_count(at(i));
  }
  const detail::Inputs kept;
  std::vector<CpuInput>& inputs = *kept;
  detail::prepare(isa, x, projections.size(), at, activations, inputs, index, executor);
  parallel_for(executor, panels, 1, [&](std::size_t begin, std::size_t end) {
    detail::Scratch& s = detail::thread_scratch(std::min(x.rows, detail::kFloatBlock));
    std::size_t before = 0;
    for (std::size_t i = 0; i < projections.size(); ++i) {
      const detail::Product product(isa, at(i), inputs[index[i]]);
      const std::size_t own = detail::panel_count(at(i));
      for (std::size_t p = std::max(begin, before); p < std::min(end, before + own); ++p)
        for (std::size_t t = 0; t < x.rows; t += product.block()) {
          const std::size_t count = std::min(product.block(), x.rows - t);
          product.multiply(p - before, t, count, s, s.out.data());
          detail::store(s.out.data(), t, count, (p - before) * kernels::kInterleavedRows, projections[i]);
        }
      before += own;
    }
  });
}

NIBBLE_INLINE void cpu_matmul_gated(const kernels::KernelTable& isa, MatrixView<const float> x,
                                    const PackedMatrix& gate_weights, const PackedMatrix& up_weights,
                                    GatedActivation activation, MatrixView<float> y, Activations activations,
                                    Executor& executor) {
  const CpuMatrix* both[] = {&detail::as_cpu_matrix(gate_weights), &detail::as_cpu_matrix(up_weights)};
  for (const CpuMatrix* w : both) detail::check_shapes(x, w->cols(), w->rows(), y, "matmul_gated");
  const detail::Inputs kept;
  std::vector<CpuInput>& inputs = *kept;
  std::size_t index[2];
  detail::prepare(
      isa, x, 2, [&](std::size_t i) -> const CpuMatrix& { return *both[i]; }, activations, inputs, index, executor);
  parallel_for(executor, detail::panel_count(*both[0]), 1, [&](std::size_t begin, std::size_t end) {
    detail::Scratch& s = detail::thread_scratch(std::min(x.rows, detail::kFloatBlock));
    const detail::Product gate(isa, *both[0], inputs[index[0]]), up(isa, *both[1], inputs[index[1]]);
    const std::size_t block = std::min(gate.block(), up.block());
    for (std::size_t p = begin; p < end; ++p)
      for (std::size_t first = 0; first < x.rows; first += block) {
        const std::size_t count = std::min(block, x.rows - first), row0 = p * kernels::kInterleavedRows;
        gate.multiply(p, first, count, s, s.out.data());
        up.multiply(p, first, count, s, s.other.data());
        const std::size_t width = std::min(kernels::kInterleavedRows, y.cols - row0);
        for (std::size_t t = 0; t < count; ++t)
          detail::apply_gate(isa, activation, {&s.out[t * kernels::kInterleavedRows], width},
                             {&s.other[t * kernels::kInterleavedRows], width}, {&y(first + t, row0), width});
      }
  });
}

NIBBLE_INLINE bool cpu_has_gather_rows(const PackedMatrix& w) { return dynamic_cast<const CpuMatrix*>(&w) != nullptr; }

NIBBLE_INLINE void cpu_gather_rows(const kernels::KernelTable& isa, const PackedMatrix& packed,
                                   std::span<const std::int32_t> rows, MatrixView<float> out, Executor& executor) {
  const CpuMatrix& w = detail::as_cpu_matrix(packed);
  if (out.rows != rows.size() || out.cols != w.cols())
    throw Error(ErrorCode::shape_mismatch, "gather_rows: " + std::to_string(rows.size()) + " rows of " +
                                               std::to_string(w.cols()) + " columns do not fit an output of " +
                                               detail::shape(out.rows, out.cols));
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 0 || static_cast<std::size_t>(rows[i]) >= w.rows())
      throw Error(ErrorCode::invalid_argument, "gather_rows: row " + std::to_string(i) + " of those asked for is " +
                                                   std::to_string(rows[i]) + "; the matrix has rows 0 to " +
                                                   std::to_string(w.rows() - 1));
  const std::span<const std::uint32_t> order = detail::column_order(w);
  parallel_for(executor, rows.size(), 1, [&](std::size_t begin, std::size_t end) {
    float values[kernels::kPanelWidth];
    for (std::size_t i = begin; i < end; ++i)
      for (std::size_t col0 = 0; col0 < w.cols(); col0 += kernels::kPanelWidth) {
        const auto r = static_cast<std::size_t>(rows[i]);
        w.output_panel(isa, col0, r, r + 1, values);
        for (std::size_t j = 0; j < std::min(kernels::kPanelWidth, w.cols() - col0); ++j)
          out(i, order.empty() ? col0 + j : order[col0 + j]) = values[j];
      }
  });
}

namespace detail {

/// Tokens and panels of columns that a thread works on at once: their sums, as many tokens of kPanelDepth rows and that
/// part of the weights fit the second level of most caches.
inline constexpr std::size_t kTransposedTokens = 512, kTransposedPanels = 8;

/// x [n, rows] as panels [panel of tokens][row][32]: the weights' columns are multiplied by it from the left, so that
/// it is turned once, and not the weights again and again.
inline void turn(const KernelTable& isa, MatrixView<const float> x, std::vector<float>& out, Executor& executor) {
  const std::size_t panels = (x.rows + kPanelWidth - 1) / kPanelWidth, parts = (x.cols + kPanelDepth - 1) / kPanelDepth;
  out.resize(std::max(out.size(), panels * kPanelWidth * x.cols));
  parallel_for(executor, panels * parts, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t task = begin; task < end; ++task) {
      const std::size_t q = task / parts, first = task % parts * kPanelDepth;
      const std::size_t tokens = std::min(kPanelWidth, x.rows - q * kPanelWidth);
      const std::size_t count = std::min(kPanelDepth, x.cols - first);
      float* to = out.data() + (q * x.cols + first) * kPanelWidth;
      if (tokens < kPanelWidth) std::fill_n(to, count * kPanelWidth, 0.0f);
      isa.transpose(&x(q * kPanelWidth, first), x.stride, tokens, count, to, kPanelWidth);
    }
  });
}

/// y [n, cols] = x [n, rows] · W in the columns of the panels [first, last), from the turned x.
inline void multiply_columns(const KernelTable& isa, const float* turned, const CpuMatrix& w, std::size_t first,
                             std::size_t last, MatrixView<float> y) {
  Scratch& s = thread_scratch(1);
  const std::size_t columns = (last - first) * kPanelWidth, panels = (y.rows + kPanelWidth - 1) / kPanelWidth;
  s.columns.resize(std::max(s.columns.size(), columns * kPanelDepth));
  s.sums.resize(std::max(s.sums.size(), panels * columns * kPanelWidth));
  for (std::size_t r = 0; r < w.rows(); r += kPanelDepth) {
    const std::size_t depth = std::min(kPanelDepth, w.rows() - r);
    for (std::size_t p = first; p < last; ++p)
      w.output_columns(isa, p * kPanelWidth, r, r + depth, s.columns.data() + (p - first) * kPanelWidth * kPanelDepth);
    for (std::size_t q = 0; q < panels; ++q)
      isa.gemm_panel_add(s.columns.data(), kPanelDepth, columns, turned + (q * w.rows() + r) * kPanelWidth, kPanelWidth,
                         depth, nullptr, r == 0, s.sums.data() + q * columns * kPanelWidth, kPanelWidth);
  }
  const std::span<const std::uint32_t> order = column_order(w);
  for (std::size_t t = 0; t < y.rows; ++t) {
    const float* sums = s.sums.data() + t / kPanelWidth * columns * kPanelWidth + t % kPanelWidth;
    for (std::size_t c = first * kPanelWidth; c < std::min(w.cols(), last * kPanelWidth); ++c)
      y(t, order.empty() ? c : order[c]) = sums[(c - first * kPanelWidth) * kPanelWidth];
  }
}

}  // namespace detail

NIBBLE_INLINE void cpu_matmul_transposed(const kernels::KernelTable& isa, MatrixView<const float> x,
                                         const PackedMatrix& packed, MatrixView<float> y, Executor& executor) {
  const CpuMatrix& w = detail::as_cpu_matrix(packed);
  detail::check_shapes(x, w.rows(), w.cols(), y, "matmul_transposed");
  const std::size_t panels = (w.cols() + kernels::kPanelWidth - 1) / kernels::kPanelWidth;
  // As many as leave each thread several tasks: which panels are taken together shows in no bit.
  const std::size_t few = panels / (4 * static_cast<std::size_t>(std::max(1, executor.concurrency())));
  const std::size_t together = std::clamp<std::size_t>(few, 1, detail::kTransposedPanels);
  const ThreadScratch<std::vector<float>> turned;
  for (std::size_t t = 0; t < x.rows; t += detail::kTransposedTokens) {
    const std::size_t count = std::min(detail::kTransposedTokens, x.rows - t);
    detail::turn(isa, x.row_range(t, count), *turned, executor);
    parallel_for(executor, (panels + together - 1) / together, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t g = begin; g < end; ++g)
        detail::multiply_columns(isa, turned->data(), w, g * together, std::min(panels, (g + 1) * together),
                                 y.row_range(t, count));
    });
  }
}

}  // namespace nibble::inline NIBBLE_ABI
