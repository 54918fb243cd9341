// What backend/impl/cpu_input.h declares.
#pragma once

#include "nibble/backend/impl/cpu_input.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "nibble/core/error.h"
#include "nibble/scheme/llm_int8.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

using kernels::KernelTable;

inline const InterleavedMatrix* interleaved(const CpuMatrix& w) { return dynamic_cast<const InterleavedMatrix*>(&w); }

[[noreturn]] inline void refuse(MatrixView<const float> x, std::size_t row) {
  const float* values = x.data + row * x.stride;
  const auto bad = std::find_if_not(values, values + x.cols, [](float v) { return is_finite(v); }) - values;
  throw Error(ErrorCode::non_finite,
              "activation row " + std::to_string(row) + ", column " + std::to_string(bad) + " is not finite");
}

}  // namespace detail

NIBBLE_INLINE InputKind input_kind(const CpuMatrix& w, Activations asked) {
  const InterleavedMatrix* m = detail::interleaved(w);
  if (m != nullptr && m->is_llm_int8()) return InputKind::llm_int8;
  if (m == nullptr) return InputKind::fp32;
  if (asked == Activations::fp32 || !m->has_int8_matmul()) return m->is_affine() ? InputKind::fixed : InputKind::fp32;
  return asked == Activations::int8 ? InputKind::int8 : InputKind::int8_group;
}

NIBBLE_INLINE bool share_input(const CpuMatrix& a, const CpuMatrix& b) {
  const InterleavedMatrix *m = detail::interleaved(a), *n = detail::interleaved(b);
  if (m == nullptr || n == nullptr) return m == n;
  const kernels::ChunkLayout a_chunks = m->chunks(), b_chunks = n->chunks();
  return m->depth() == n->depth() && kernels::are_bytes(a_chunks.code_bits) == kernels::are_bytes(b_chunks.code_bits) &&
         a_chunks.chunk == b_chunks.chunk && m->group_size() == n->group_size() && m->threshold() == n->threshold() &&
         std::ranges::equal(m->order(), n->order());
}

NIBBLE_INLINE void CpuInput::prepare(const kernels::KernelTable& isa, const CpuMatrix& w, MatrixView<const float> from,
                                     InputKind how, Executor& executor) {
  kind = how;
  outlier_columns.clear();
  if (how != InputKind::fp32 &&
      how != InputKind::fixed)  // before anything is moved, so that an error names the caller's place
    parallel_for(executor, from.rows, 8, [&](std::size_t begin, std::size_t end) {
      for (std::size_t t = begin; t < end; ++t)
        if (!is_finite(isa.absmax(from.data + t * from.stride, from.cols))) detail::refuse(from, t);
    });
  arrange(w, from);
  if (how == InputKind::fp32) return;
  const InterleavedMatrix& m = *detail::interleaved(w);
  if (how == InputKind::fixed) return fix(isa, m, executor);
  if (how == InputKind::llm_int8 && m.threshold() > 0) take_outliers(isa, m.threshold(), x, m);
  codes.resize(x.rows * m.depth());
  sums.resize(x.rows * m.groups());
  token_scale.resize(x.rows);
  group_scale.resize(how == InputKind::int8_group ? x.rows * m.groups() : 0);
  parallel_for(executor, x.rows, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) round_token(isa, m, t);
  });
}

NIBBLE_INLINE void CpuInput::arrange(const CpuMatrix& w, MatrixView<const float> from) {
  const InterleavedMatrix* m = detail::interleaved(w);
  x = from;
  const std::size_t depth = m == nullptr ? from.cols : m->depth();
  const bool in_order = m == nullptr || m->order().empty();
  // Rows whole pages apart share a few sets of the first level; a tile of tokens would drive itself out.
  const bool collides = kind == InputKind::fp32 && from.rows > 8 && from.stride % 1024 == 0;
  if (depth == from.cols && in_order && !collides) return;
  const std::size_t stride = depth + (collides ? 16 : 0);
  copy.resize(from.rows * stride);
  for (std::size_t t = 0; t < from.rows; ++t) {
    const float* row = from.data + t * from.stride;
    float* to = copy.data() + t * stride;
    if (in_order) std::copy_n(row, from.cols, to);
    else
      for (std::size_t k = 0; k < from.cols; ++k) to[k] = row[m->order()[k]];
    std::fill(to + from.cols, to + depth, 0.0f);
  }
  x = {copy.data(), from.rows, depth, stride};
}

/// A column with |x| ≥ threshold in any token goes to `outliers`, and is zero in x (LLM.int8, section 3.2).
NIBBLE_INLINE void CpuInput::take_outliers(const kernels::KernelTable& isa, float threshold,
                                           MatrixView<const float> from, const InterleavedMatrix& w) {
  is_outlier.assign(from.cols, 0);
  for (std::size_t t = 0; t < from.rows; ++t) {
    const float* row = from.data + t * from.stride;
    if (isa.absmax(row, from.cols) < threshold) continue;
    for (std::size_t k = 0; k < from.cols; ++k) is_outlier[k] |= std::abs(row[k]) >= threshold;
  }
  for (std::size_t k = 0; k < from.cols; ++k)
    if (is_outlier[k] != 0) outlier_columns.push_back(k);
  if (outlier_columns.empty()) return;
  outliers.resize(from.rows * outlier_columns.size());
  for (std::size_t t = 0, i = 0; t < from.rows; ++t)
    for (const std::size_t k : outlier_columns) outliers[i++] = from(t, k);
  if (from.data != copy.data()) {
    copy.resize(from.rows * w.depth());
    for (std::size_t t = 0; t < from.rows; ++t)
      std::copy_n(from.data + t * from.stride, from.cols, copy.data() + t * from.cols);
    x = {copy.data(), from.rows, from.cols};
  }
  for (std::size_t t = 0; t < x.rows; ++t)
    for (const std::size_t k : outlier_columns) copy[t * x.stride + k] = 0;
}

NIBBLE_INLINE void CpuInput::fix(const kernels::KernelTable& isa, const InterleavedMatrix& w, Executor& executor) {
  const kernels::ChunkLayout layout = w.chunks();
  const auto count = [&](std::size_t columns) { return (columns + layout.chunk - 1) / layout.chunk; };
  const std::size_t groups = layout.depth / layout.group_size;
  chunks = groups * count(layout.group_size) + count(layout.depth % layout.group_size);
  stride = layout.depth * (kernels::are_bytes(layout.code_bits) ? isa.fixed_bytes_of_8_bits : isa.fixed_bytes);
  codes.resize(x.rows * stride);
  sums.resize(x.rows * chunks * 3);
  totals.resize(x.rows * chunks);
  group_scale.resize(x.rows * chunks);
  parallel_for(executor, x.rows, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t)
      isa.encode_fixed(x.data + t * x.stride, layout, codes.data() + t * stride, sums.data() + t * chunks * 3,
                       totals.data() + t * chunks, group_scale.data() + t * chunks);
  });
}

NIBBLE_INLINE void CpuInput::round_token(const kernels::KernelTable& isa, const InterleavedMatrix& w, std::size_t t) {
  const float* row = x.data + t * x.stride;
  std::int8_t* to = codes.data() + t * w.depth();
  const auto absmax = [&](std::size_t first, std::size_t last) {
    const float most = isa.absmax(row + first, last - first);
    return LlmInt8::fit(Range{-most, most}).absmax;
  };
  const bool by_group = kind == InputKind::int8_group;
  float most = by_group ? 0.0f : absmax(0, w.depth());
  token_scale[t] = by_group ? 1.0f : most * LlmInt8::inverse_127;
  for (std::size_t g = 0; g < w.groups(); ++g) {
    const std::size_t first = g * w.group_size(), last = std::min(first + w.group_size(), w.depth());
    if (by_group) {
      most = absmax(first, last);
      group_scale[t * w.groups() + g] = most * LlmInt8::inverse_127;
    }
    sums[t * w.groups() + g] = isa.encode_signed(row + first, last - first, LlmInt8::multiplier(most), to + first);
  }
}

}  // namespace nibble::inline NIBBLE_ABI
