#include "cpu_matmul.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cpu_matrix.h"
#include "cpu_quantize.h"
#include "nibble/core/error.h"
#include "nibble/quantize/llm_int8.h"

namespace nibble {

namespace {

using kernels::KernelTable;
using kernels::kInterleavedRows;
using kernels::kPanelDepth;
using kernels::kPanelWidth;

/// Unquantized weights, interleaved at load: panel p holds rows 32p … 32p+31 as [column][32], in the given type.
class DenseMatrix final : public CpuMatrix {
 public:
  DenseMatrix(const Backend& backend, FloatMatrix w) : CpuMatrix(backend, w.rows, w.cols), type_(w.type) {
    const std::size_t panels = (w.rows + kPanelWidth - 1) / kPanelWidth;
    data_ = Buffer::allocate(panels * kPanelWidth * w.cols * size_of(type_));
    for (std::size_t r = 0; r < w.rows; ++r) {
      if (type_ == DType::f32) interleave<float>(w, r);
      else interleave<std::uint16_t>(w, r);
    }
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
  template <class T>
  void interleave(FloatMatrix w, std::size_t r) {
    const auto* from = static_cast<const T*>(w.row(r));
    T* to = data_.writable<T>() + index(r, 0);
    for (std::size_t c = 0; c < w.cols; ++c) to[c * kPanelWidth] = from[c];
  }
  void load(const KernelTable& isa, std::size_t first, std::size_t n, float* out) const {
    if (type_ == DType::f32) std::memcpy(out, data_.as<float>() + first, n * sizeof(float));
    else (type_ == DType::f16 ? isa.load_f16 : isa.load_bf16)(data_.as<std::uint16_t>() + first, n, out);
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
  /// input_panel of the codes as signed integers in fp32, for LLM.int8.
  void code_panel(const KernelTable& isa, std::size_t row0, std::size_t k0, std::size_t k1, float* panel) const {
    std::fill_n(panel, (k1 - k0) * kPanelWidth, 0.0f);
    float signed_codes[kPanelDepth];
    for (std::size_t j = 0; j < std::min(kPanelWidth, q_.rows - row0); ++j) {
      isa.decode_affine(q_.row_codes(row0 + j) + k0, k1 - k0, 1.0f, LlmInt8::zero_point, signed_codes);
      for (std::size_t k = 0; k < k1 - k0; ++k) panel[k * kPanelWidth + j] = signed_codes[k];
    }
  }

 private:
  QuantizedMatrix q_;
};

std::string shape(std::size_t rows, std::size_t cols) { return std::to_string(rows) + " × " + std::to_string(cols); }

/// Scratch of one task: two decoded panels and the products of a block. Kept by the thread from call to call.
struct Scratch {
  std::vector<float> panel, product;
  std::vector<std::int32_t> sum;
};
Scratch& thread_scratch(std::size_t tokens) {
  thread_local Scratch s;
  s.panel.resize(2 * kPanelDepth * kPanelWidth);
  if (s.product.size() < tokens * kPanelWidth) s.product.resize(tokens * kPanelWidth);
  return s;
}

/// Adds a block's products [tokens][32] to columns [col, col + width) of y, or sets them.
void add_products(const float* product, MatrixView<float> y, std::size_t col, std::size_t width, bool first) {
  for (std::size_t t = 0; t < y.rows; ++t) {
    float* to = y.data + t * y.stride + col;
    const float* from = product + t * kPanelWidth;
    for (std::size_t j = 0; j < width; ++j) to[j] = first ? from[j] : to[j] + from[j];
  }
}

/// The weights of rows row0 … in the outlier columns, [column][32].
std::vector<float> outlier_weights(const QuantizedMatrix& q, std::size_t row0, std::size_t width,
                                   const std::vector<std::size_t>& columns) {
  std::vector<float> out(columns.size() * kPanelWidth, 0.0f);
  for (std::size_t i = 0; i < columns.size(); ++i)
    for (std::size_t j = 0; j < width; ++j) out[i * kPanelWidth + j] = q.value(row0 + j, columns[i]);
  return out;
}

/// LLM.int8: exact integer products of quantized activations, plus the outlier columns in fp32.
void matmul_llm_int8(const KernelTable& isa, MatrixView<const float> x, const QuantizedPanels& w, MatrixView<float> y,
                     Executor& executor) {
  const QuantizedMatrix& q = w.matrix();
  const Int8Activations a = quantize_activations_llm_int8(x, q.spec.threshold);
  std::vector<float> outliers(x.rows * a.outlier_columns.size());  // gathered, so that they multiply as a panel too
  for (std::size_t t = 0, i = 0; t < x.rows; ++t)
    for (std::size_t c : a.outlier_columns) outliers[i++] = x(t, c);

  parallel_for(executor, (q.rows + kPanelWidth - 1) / kPanelWidth, 1, [&](std::size_t begin, std::size_t end) {
    Scratch& s = thread_scratch(x.rows);
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t row0 = p * kPanelWidth, width = std::min(kPanelWidth, q.rows - row0);
      s.sum.assign(x.rows * kPanelWidth, 0);
      for (std::size_t k = 0; k < q.cols; k += kPanelDepth) {
        const std::size_t depth = std::min(kPanelDepth, q.cols - k);
        w.code_panel(isa, row0, k, k + depth, s.panel.data());
        isa.multiply_panel(a.codes.data() + k, q.cols, x.rows, s.panel.data(), depth, s.product.data());
        for (std::size_t i = 0; i < s.sum.size(); ++i) s.sum[i] += static_cast<std::int32_t>(s.product[i]);
      }
      float scale[kPanelWidth] = {};
      for (std::size_t j = 0; j < width; ++j) scale[j] = q.multiplier(row0 + j);
      for (std::size_t t = 0; t < x.rows; ++t)
        for (std::size_t j = 0; j < width; ++j)
          y(t, row0 + j) =
              static_cast<float>(s.sum[t * kPanelWidth + j]) * (a.absmax[t] * LlmInt8::inverse_127) * scale[j];
      const std::vector<float> panel = outlier_weights(q, row0, width, a.outlier_columns);
      for (std::size_t k = 0; k < a.outlier_columns.size(); k += kPanelDepth) {
        const std::size_t depth = std::min(kPanelDepth, a.outlier_columns.size() - k);
        isa.multiply_panel(outliers.data() + k, a.outlier_columns.size(), x.rows, panel.data() + k * kPanelWidth, depth,
                           s.product.data());
        add_products(s.product.data(), y, row0, width, false);
      }
    }
  });
}

/// The activations, copied and padded with zeros where the columns do not fill whole words.
MatrixView<const float> padded(MatrixView<const float> x, std::size_t depth, std::vector<float>& copy) {
  if (x.cols == depth) return x;
  copy.assign(x.rows * depth, 0.0f);
  for (std::size_t t = 0; t < x.rows; ++t) std::copy_n(x.data + t * x.stride, x.cols, copy.data() + t * depth);
  return {copy.data(), x.rows, depth};
}

void matmul_few_tokens(const KernelTable& isa, MatrixView<const float> x, const InterleavedMatrix& w,
                       MatrixView<float> y, Executor& executor) {
  thread_local std::vector<float> copy;
  const MatrixView<const float> input = padded(x, w.depth(), copy);
  parallel_for(executor, w.panels(), 1, [&](std::size_t begin, std::size_t end) {
    float product[kernels::kMostFewTokens * kInterleavedRows];
    for (std::size_t p = begin; p < end; ++p) {
      isa.multiply_codes(w.panel(p), input.data, input.stride, input.rows, product);
      const std::size_t row0 = p * kInterleavedRows, width = std::min(kInterleavedRows, w.rows() - row0);
      for (std::size_t t = 0; t < x.rows; ++t)
        std::copy_n(product + t * kInterleavedRows, width, y.data + t * y.stride + row0);
    }
  });
}

}  // namespace

void check_matmul_shapes(MatrixView<const float> x, std::size_t in, std::size_t out, MatrixView<float> y,
                         const char* what) {
  if (x.cols != in || y.cols != out || x.rows != y.rows)
    throw Error(ErrorCode::shape_mismatch, std::string(what) + ": x is " + shape(x.rows, x.cols) + " and y is " +
                                               shape(y.rows, y.cols) + "; x must have " + std::to_string(in) +
                                               " columns, y " + std::to_string(out) + ", and both as many rows");
}

PackedMatrixPtr cpu_pack(const Backend& backend, QuantizedMatrix q) {
  if (InterleavedMatrix::fits(q)) return std::make_shared<InterleavedMatrix>(backend, q);
  return std::make_shared<QuantizedPanels>(backend, std::move(q));
}

PackedMatrixPtr cpu_pack(const Backend& backend, const KernelTable&, FloatMatrix weights) {
  if (weights.rows == 0 || weights.cols == 0)
    throw Error(ErrorCode::invalid_argument, "cannot pack a matrix of " + shape(weights.rows, weights.cols));
  return std::make_shared<DenseMatrix>(backend, weights);
}

QuantizedMatrix cpu_unpack(const PackedMatrix& packed) {
  if (const auto* m = dynamic_cast<const InterleavedMatrix*>(&packed)) return m->unpack();
  if (const auto* m = dynamic_cast<const QuantizedPanels*>(&packed)) return m->matrix();
  throw Error(ErrorCode::unsupported,
              "unpack: the matrix of " + shape(packed.rows(), packed.cols()) + " was never quantized");
}

void cpu_matmul(const KernelTable& isa, MatrixView<const float> x, const PackedMatrix& packed, MatrixView<float> y,
                Executor& executor) {
  const auto& w = dynamic_cast<const CpuMatrix&>(packed);
  check_matmul_shapes(x, w.cols(), w.rows(), y, "matmul");
  if (const auto* q = dynamic_cast<const QuantizedPanels*>(&w);
      q != nullptr && q->matrix().spec.scheme == SchemeKind::llm_int8)
    return matmul_llm_int8(isa, x, *q, y, executor);
  if (const auto* few = dynamic_cast<const InterleavedMatrix*>(&w); few != nullptr && x.rows <= isa.few_tokens)
    return matmul_few_tokens(isa, x, *few, y, executor);
  // Pairs of panels: an interleaved panel decodes into two.
  parallel_for(executor, (w.rows() + kInterleavedRows - 1) / kInterleavedRows, 1,
               [&](std::size_t begin, std::size_t end) {
                 Scratch& s = thread_scratch(x.rows);
                 for (std::size_t p = begin; p < end; ++p)
                   for (std::size_t k = 0; k < w.cols(); k += kPanelDepth)
                     for (std::size_t row0 = p * kInterleavedRows;
                          row0 < std::min((p + 1) * kInterleavedRows, w.rows()); row0 += kPanelWidth) {
                       const std::size_t depth = std::min(kPanelDepth, w.cols() - k);
                       const float* panel = w.input_panel(isa, row0, k, k + depth, s.panel.data());
                       isa.multiply_panel(x.data + k, x.stride, x.rows, panel, depth, s.product.data());
                       add_products(s.product.data(), y, row0, std::min(kPanelWidth, w.rows() - row0), k == 0);
                     }
               });
}

void cpu_matmul_transposed(const KernelTable& isa, MatrixView<const float> x, const PackedMatrix& packed,
                           MatrixView<float> y, Executor& executor) {
  const auto& w = dynamic_cast<const CpuMatrix&>(packed);
  check_matmul_shapes(x, w.rows(), w.cols(), y, "matmul_transposed");
  parallel_for(executor, (w.cols() + kPanelWidth - 1) / kPanelWidth, 1, [&](std::size_t begin, std::size_t end) {
    Scratch& s = thread_scratch(x.rows);
    for (std::size_t p = begin; p < end; ++p) {
      const std::size_t col0 = p * kPanelWidth, width = std::min(kPanelWidth, w.cols() - col0);
      for (std::size_t r = 0; r < w.rows(); r += kPanelDepth) {
        const std::size_t depth = std::min(kPanelDepth, w.rows() - r);
        w.output_panel(isa, col0, r, r + depth, s.panel.data());
        isa.multiply_panel(x.data + r, x.stride, x.rows, s.panel.data(), depth, s.product.data());
        add_products(s.product.data(), y, col0, width, r == 0);
      }
    }
  });
}

}  // namespace nibble
