// What backend/backend.h declares.
#pragma once

#include "nibble/backend/backend.h"

#include <string>
#include <vector>

#include "nibble/backend/impl/checks.h"
#include "nibble/backend/impl/thread_scratch.h"
#include "nibble/core/impl/downcast.h"
#include "nibble/core/visit_float.h"

namespace nibble::inline NIBBLE_ABI {

NIBBLE_INLINE void Backend::dequantize_to(const QuantizedMatrix& q, std::size_t first_row, MutableFloatMatrix out,
                                          Executor& executor) const {
  check_dequantize(q, first_row, out);
  std::vector<float> values(out.cols);
  for (std::size_t r = 0; r < out.rows; ++r) {
    dequantize(q, first_row + r, {values.data(), 1, out.cols}, executor);
    check_downcast(values, out.type, "matrix", q.cols, first_row + r);
    downcast_floats(out.type, values.data(), out.cols, out.row(r));
  }
}

NIBBLE_INLINE void Backend::upcast(FloatMatrix x, MatrixView<float> out) const {
  check_upcast(x, out);
  for (std::size_t r = 0; r < x.rows; ++r) upcast_floats(x.type, x.row(r), x.cols, out.row(r).data());
}

namespace detail {

/// x in fp32, in memory that the calling thread keeps.
template <class Multiply>
void with_upcast(const Backend& backend, FloatMatrix x, const Multiply& multiply) {
  x.validate("x");
  const ThreadScratch<std::vector<float>> values;
  if (values->size() < x.rows * x.cols) values->resize(x.rows * x.cols);
  const MatrixView<float> wide(values->data(), x.rows, x.cols);
  backend.upcast(x, wide);
  multiply(MatrixView<const float>(wide));
}

}  // namespace detail

NIBBLE_INLINE void Backend::matmul(MatrixView<const f16> x, const PackedMatrix& w, MatrixView<float> y,
                                   Executor& executor) const {
  detail::with_upcast(*this, x, [&](MatrixView<const float> wide) { matmul(wide, w, y, executor); });
}

NIBBLE_INLINE void Backend::matmul(MatrixView<const bf16> x, const PackedMatrix& w, MatrixView<float> y,
                                   Executor& executor) const {
  detail::with_upcast(*this, x, [&](MatrixView<const float> wide) { matmul(wide, w, y, executor); });
}

NIBBLE_INLINE void Backend::matmul_int8(MatrixView<const float>, const PackedMatrix&, MatrixView<float>,
                                        Executor&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' has no 8-bit activations");
}

NIBBLE_INLINE void Backend::matmul_fused(MatrixView<const float> x, std::span<const Projection> projections,
                                         Activations activations, Executor& executor) const {
  for (const Projection& p : projections) {
    if (p.weights == nullptr) throw Error(ErrorCode::invalid_argument, "matmul_fused: a projection has no weights");
    if (!p.bias.empty() && p.bias.size() != p.weights->rows())
      throw Error(ErrorCode::shape_mismatch, "matmul_fused: a bias has " + std::to_string(p.bias.size()) +
                                                 " values for " + std::to_string(p.weights->rows()) + " outputs");
  }
  for (const Projection& p : projections) {
    if (activations != Activations::fp32 && has_int8_matmul(*p.weights)) matmul_int8(x, *p.weights, p.y, executor);
    else matmul(x, *p.weights, p.y, executor);
    if (!p.bias.empty())
      for (std::size_t t = 0; t < p.y.rows; ++t)
        for (std::size_t j = 0; j < p.y.cols; ++j) p.y(t, j) += p.bias[j];
  }
}

NIBBLE_INLINE void Backend::matmul_gated(MatrixView<const float> x, const PackedMatrix& gate, const PackedMatrix& up,
                                         GatedActivation activation, MatrixView<float> y, Activations activations,
                                         Executor& executor) const {
  y.validate("y");
  std::vector<float> ups(y.rows * y.cols);
  const MatrixView<float> other(ups.data(), y.rows, y.cols);
  const Projection both[] = {{&gate, y}, {&up, other}};
  matmul_fused(x, both, activations, executor);
  for (std::size_t t = 0; t < y.rows; ++t) apply_gate(activation, y.row(t), other.row(t), y.row(t), this);
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): backends that take them keep them
NIBBLE_INLINE PackedMatrixPtr Backend::pack(BlockMatrix, Executor&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' does not take GGUF blocks");
}

NIBBLE_INLINE void Backend::gather_rows(const PackedMatrix&, std::span<const std::int32_t>, MatrixView<float>,
                                        Executor&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' gathers no rows of packed matrices");
}

NIBBLE_INLINE QuantizedMatrix Backend::unpack(const PackedMatrix&) const {
  throw Error(ErrorCode::unsupported, "the backend '" + std::string(name()) + "' cannot unpack");
}

}  // namespace nibble::inline NIBBLE_ABI
