// GGUF blocks as weights: those with an exact canonical form become it, the others are decoded panel by panel.
#pragma once

#include <algorithm>

#include "nibble/backend/impl/cpu_matmul.h"
#include "nibble/backend/impl/cpu_matrix.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

using kernels::kPanelDepth;
using kernels::kPanelWidth;

/// Q4_1, Q5_1, Q4_K, Q5_K and IQ4_NL stay as they are in memory. A token costs a pass over the plain decoder, so they
/// are the slow types for few tokens; for many the decoding is shared.
class BlockPanels final : public CpuMatrix {
 public:
  BlockPanels(const Backend& backend, BlockMatrix m) : CpuMatrix(backend, m.rows, m.cols), m_(std::move(m)) {}
  std::size_t storage_bytes() const override { return m_.storage_bytes(); }

  const float* input_panel(const kernels::KernelTable&, std::size_t row0, std::size_t k0, std::size_t k1,
                           float* panel) const override {
    float rows[kPanelWidth][kPanelDepth];
    const std::size_t width = std::min(kPanelWidth, m_.rows - row0);
    for (std::size_t j = 0; j < kPanelWidth; ++j) {
      if (j < width) m_.decode_row(row0 + j, k0, k1, rows[j]);
      else std::fill_n(rows[j], k1 - k0, 0.0f);
    }
    for (std::size_t k = 0; k < k1 - k0; ++k)
      for (std::size_t j = 0; j < kPanelWidth; ++j) panel[k * kPanelWidth + j] = rows[j][k];
    return panel;
  }
  void output_panel(const kernels::KernelTable&, std::size_t col0, std::size_t r0, std::size_t r1,
                    float* panel) const override {
    std::fill_n(panel, (r1 - r0) * kPanelWidth, 0.0f);
    const std::size_t last = std::min(col0 + kPanelWidth, m_.cols);
    for (std::size_t r = r0; r < r1; ++r) m_.decode_row(r, col0, last, panel + (r - r0) * kPanelWidth);
  }

 private:
  BlockMatrix m_;
};

}  // namespace detail

NIBBLE_INLINE PackedMatrixPtr cpu_pack(const Backend& backend, BlockMatrix m) {
  m.validate("weights");
  if (is_float(m.type)) return cpu_pack(backend, m.aligned().as_floats());
  if (exact_spec(m.type)) return cpu_pack(backend, to_quantized(m));
  return std::make_shared<detail::BlockPanels>(backend, std::move(m));
}

}  // namespace nibble::inline NIBBLE_ABI
