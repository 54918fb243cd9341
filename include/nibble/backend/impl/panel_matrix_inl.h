// The two forms that need no kernel of their own: unquantized weights, and whatever no faster layout fits.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "nibble/backend/impl/cpu_matmul.h"
#include "nibble/backend/impl/cpu_matrix.h"
#include "nibble/backend/impl/cpu_quantize.h"
#include "nibble/backend/impl/float8_matrix.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/shape.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

using kernels::KernelTable;
using kernels::kPanelDepth;
using kernels::kPanelWidth;

/// Unquantized weights, interleaved at load: panel p holds rows 32p … 32p+31 as [column][32], in the given type.
class DenseMatrix final : public CpuMatrix {
 public:
  DenseMatrix(const Packer& by, FloatMatrix w) : CpuMatrix(by.backend, w.rows, w.cols), type_(w.type) {
    const std::size_t panels = (w.rows + kPanelWidth - 1) / kPanelWidth;
    data_ = Buffer::allocate(panels * kPanelWidth * w.cols * size_of(type_));
    parallel_for(by.executor, panels, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t r = begin * kPanelWidth; r < std::min(end * kPanelWidth, w.rows); r += kPanelWidth) {
        const std::size_t width = std::min(kPanelWidth, w.rows - r);
        if (type_ == DType::f32)
          by.isa.transpose(static_cast<const float*>(w.row(r)), w.stride, width, w.cols,
                           data_.writable<float>() + index(r, 0), kPanelWidth);
        else interleave_16_bits(w, r, width);
      }
    });
  }
  std::size_t storage_bytes() const override { return data_.size(); }

  const float* input_panel(const KernelTable& isa, std::size_t row0, std::size_t k0, std::size_t k1,
                           float* panel) const override {
    const std::size_t first = index(row0, k0);
    if (type_ == DType::f32) return data_.as<float>() + first;
    load(isa, first, (k1 - k0) * kPanelWidth, panel);
    return panel;
  }
  void output_panel(const KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                    float* panel) const override {
    const std::size_t width = std::min(kPanelWidth, cols() - col0);
    std::fill_n(panel, (r1 - r0) * kPanelWidth, 0.0f);
    float column[kPanelWidth];
    for (std::size_t row = r0 / kPanelWidth * kPanelWidth; row < r1; row += kPanelWidth)
      for (std::size_t j = 0; j < width; ++j) {
        load(isa, index(row, col0 + j), kPanelWidth, column);
        for (std::size_t r = std::max(row, r0); r < std::min(row + kPanelWidth, r1); ++r)
          panel[(r - r0) * kPanelWidth + j] = column[r - row];
      }
  }

 private:
  std::size_t index(std::size_t row, std::size_t col) const {
    return (row / kPanelWidth * cols() + col) * kPanelWidth + row % kPanelWidth;
  }
  /// A few columns of every row at a time, which the first cache holds from one to the next.
  void interleave_16_bits(FloatMatrix w, std::size_t first_row, std::size_t width) {
    constexpr std::size_t columns = 64;
    std::uint16_t* const to = data_.writable<std::uint16_t>() + index(first_row, 0);
    for (std::size_t first = 0; first < w.cols; first += columns)
      for (std::size_t j = 0; j < width; ++j) {
        const auto* from = static_cast<const std::uint16_t*>(w.row(first_row + j));
        for (std::size_t c = first; c < std::min(first + columns, w.cols); ++c) to[c * kPanelWidth + j] = from[c];
      }
  }
  void load(const KernelTable& isa, std::size_t first, std::size_t n, float* out) const {
    const float* wide = cpu_upcast(isa, type_, data_.data() + first * size_of(type_), n, out);
    if (wide != out) std::memcpy(out, wide, n * sizeof(float));
  }

  DType type_;
  Buffer data_;
};

/// Quantized weights in the canonical form: what no faster layout fits, and LLM.int8.
class QuantizedPanels final : public CpuMatrix {
 public:
  QuantizedPanels(const Backend& backend, QuantizedMatrix q) : CpuMatrix(backend, q.rows, q.cols), q_(std::move(q)) {}
  std::size_t storage_bytes() const override { return q_.storage_bytes(); }
  const QuantizedMatrix& matrix() const { return q_; }

  const float* input_panel(const KernelTable& isa, std::size_t row0, std::size_t k0, std::size_t k1,
                           float* panel) const override {
    float rows[kPanelWidth][kPanelDepth];
    std::uint8_t codes[kPanelDepth];
    const std::size_t width = std::min(kPanelWidth, q_.rows - row0);
    for (std::size_t j = 0; j < kPanelWidth; ++j) {
      if (j < width) cpu_decode_row(isa, q_, row0 + j, k0, k1, codes, rows[j]);
      else std::fill_n(rows[j], k1 - k0, 0.0f);
    }
    for (std::size_t k = 0; k < k1 - k0; ++k)
      for (std::size_t j = 0; j < kPanelWidth; ++j) panel[k * kPanelWidth + j] = rows[j][k];
    return panel;
  }
  void output_panel(const KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                    float* panel) const override {
    const std::size_t last = std::min(col0 + kPanelWidth, q_.cols);
    std::uint8_t codes[kPanelWidth];
    std::fill_n(panel, (r1 - r0) * kPanelWidth, 0.0f);
    for (std::size_t r = r0; r < r1; ++r) cpu_decode_row(isa, q_, r, col0, last, codes, panel + (r - r0) * kPanelWidth);
  }

 private:
  QuantizedMatrix q_;
};

}  // namespace detail

NIBBLE_INLINE PackedMatrixPtr cpu_pack(const Packer& by, QuantizedMatrix q) {
  q.validate("weights");
  if (InterleavedMatrix::fits(q)) return std::make_shared<InterleavedMatrix>(by, q);
  if (detail::Float8Matrix::fits(q)) return std::make_shared<detail::Float8Matrix>(by, std::move(q));
  return std::make_shared<detail::QuantizedPanels>(by.backend, std::move(q));
}

NIBBLE_INLINE PackedMatrixPtr cpu_pack(const Packer& by, FloatMatrix weights) {
  weights.validate("weights");
  if (weights.rows == 0 || weights.cols == 0)
    throw Error(ErrorCode::invalid_argument, "cannot pack a matrix of " + detail::shape(weights.rows, weights.cols));
  return std::make_shared<detail::DenseMatrix>(by, weights);
}

NIBBLE_INLINE QuantizedMatrix cpu_unpack(const PackedMatrix& packed) {
  if (const auto* m = dynamic_cast<const InterleavedMatrix*>(&packed); m != nullptr && m->can_unpack())
    return m->unpack();
  if (const auto* m = dynamic_cast<const detail::Float8Matrix*>(&packed)) return m->unpack();
  if (const auto* m = dynamic_cast<const detail::QuantizedPanels*>(&packed)) return m->matrix();
  throw Error(ErrorCode::unsupported, "unpack: the matrix of " + detail::shape(packed.rows(), packed.cols()) +
                                          " was never a matrix of one scale and zero point a group");
}

}  // namespace nibble::inline NIBBLE_ABI
