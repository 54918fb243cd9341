// The packed matrices of the CPU backends.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/code_layout.h"
#include "nibble/backend/impl/cpu/kernels.h"
#include "nibble/backend/impl/cpu_packer.h"

namespace nibble::inline NIBBLE_ABI {

/// Weights as fp32 panels can be cut from them. Decoding is per call: nothing of the matrix is kept in fp32.
class CpuMatrix : public PackedMatrix {
 public:
  using PackedMatrix::PackedMatrix;
  /// How a row's sum is made: chunks of columns, and whether each sum is multiplied by a scale of its row afterwards.
  [[nodiscard]] virtual kernels::ChunkLayout chunks() const { return {cols(), cols(), kernels::kPanelDepth, 32}; }
  [[nodiscard]] virtual bool scales_after_sums() const { return false; }
  /// Those of rows row0 … row0 + 31 in the chunk that begins at column k0.
  virtual void input_scales(const kernels::KernelTable&, std::size_t, std::size_t, float*) const {}
  /// panel[k − k0][j] = W[row0 + j][k] for k0 ≤ k < k1, a chunk, without its scale if that comes after sums; columns j
  /// past the last row are zero. row0 is a multiple of 32. Returns the panel: `panel` filled, or a place where it
  /// already lies. Rows are asked for in order, since two panels may be decoded at once.
  virtual const float* input_panel(const kernels::KernelTable& isa, std::size_t row0, std::size_t k0, std::size_t k1,
                                   float* panel) const = 0;
  /// panel[r − r0][j] = W[r][col0 + j] for r0 ≤ r < r1; columns past the last are zero. col0 is a multiple of 32.
  virtual void output_panel(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                            float* panel) const = 0;
  /// The same turned: columns[j·kPanelDepth + r − r0] = W[r][col0 + j], for at most kPanelDepth rows from a multiple of
  /// it on. What lies in a column behind its rows, and in columns past the last, means nothing.
  virtual void output_columns(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                              float* columns) const {
    float panel[kernels::kPanelDepth * kernels::kPanelWidth];
    output_panel(isa, col0, r0, r1, panel);
    for (std::size_t r = 0; r < r1 - r0; ++r)
      for (std::size_t j = 0; j < kernels::kPanelWidth; ++j)
        columns[j * kernels::kPanelDepth + r] = panel[r * kernels::kPanelWidth + j];
  }
};

/// Codes interleaved for kernels::gemv_codes.
class InterleavedMatrix final : public CpuMatrix {
 public:
  /// Whether a matrix has this form: groups of whole words within a row, zero points of a byte; with act-order, groups
  /// of equal size, whose columns are brought together.
  static bool fits(const QuantizedMatrix& q);
  InterleavedMatrix(const Packer& by, const QuantizedMatrix& q);
  /// Blocks that are integer codes with a scale a group, and an offset, that a QuantizedMatrix cannot hold as small.
  InterleavedMatrix(const Packer& by, const BlockMatrix& m);

  std::size_t storage_bytes() const override;
  /// Whether a QuantizedMatrix holds the same values.
  [[nodiscard]] bool can_unpack() const { return is_canonical_; }
  [[nodiscard]] QuantizedMatrix unpack() const;
  kernels::ChunkLayout chunks() const override {
    return {depth_, group_size_, is_affine() ? kernels::fixed_chunk(code_bits_) : kernels::kPanelDepth, code_bits_};
  }
  bool scales_after_sums() const override { return is_looked_up(); }
  void input_scales(const kernels::KernelTable& isa, std::size_t row0, std::size_t k0, float* scales) const override;
  const float* input_panel(const kernels::KernelTable& isa, std::size_t row0, std::size_t k0, std::size_t k1,
                           float* panel) const override;
  void output_panel(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                    float* panel) const override;
  void output_columns(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                      float* columns) const override;

  [[nodiscard]] std::size_t panels() const {
    return (rows() + kernels::kInterleavedRows - 1) / kernels::kInterleavedRows;
  }
  [[nodiscard]] kernels::InterleavedPanel panel(std::size_t index) const;
  /// As 8-bit activations meet it: a codebook as the integers of int8_unit().
  [[nodiscard]] kernels::InterleavedPanel int8_panel(std::size_t index) const;
  /// The values of one packed column for the 64 rows of a panel.
  void decode_column(std::size_t panel, std::size_t column, float* out) const;
  /// Whether 8-bit activations can meet them (LLM.int8's always do): 65536·255·127 still fits an int32.
  [[nodiscard]] bool has_int8_matmul() const { return !is_llm_int8() && group_size_ <= 65536; }
  /// What a product with int8_panel() is multiplied by: a codebook's unit, 1 for integer codes.
  [[nodiscard]] float int8_unit() const { return int8_unit_; }
  /// Whether fp32 activations meet them in fixed point: integers, and codes that a table of integers decodes.
  [[nodiscard]] bool is_affine() const {
    return spec_.is_affine() || spec_.has_real_zeros() || code_bits_ == kernels::kTableBits;
  }
  /// A codebook of floats that are no integers of any unit.
  [[nodiscard]] bool is_looked_up() const { return spec_.is_codebook() && code_bits_ != kernels::kTableBits; }
  [[nodiscard]] bool is_llm_int8() const { return spec_.scheme == SchemeKind::llm_int8; }
  /// LLM.int8's outlier threshold; 0 for all others.
  [[nodiscard]] float threshold() const { return is_llm_int8() ? spec_.threshold : 0; }
  /// Act-order: the column of W that packed column k holds. Empty: its own.
  [[nodiscard]] std::span<const std::uint32_t> order() const { return order_; }
  [[nodiscard]] std::size_t groups() const { return groups_; }
  [[nodiscard]] std::size_t group_size() const { return group_size_; }
  /// Columns, padded to whole words: what activations must be padded to.
  [[nodiscard]] std::size_t depth() const { return depth_; }

 private:
  /// Makes codes_ of what row(r, codes [depth_]) writes; it is called for rows of several panels at once.
  void pack_panels(const Packer& by, FunctionRef<void(std::size_t, std::uint8_t*)> row);
  void copy_codes(const QuantizedMatrix& q, std::size_t r, std::uint8_t* codes) const;
  void copy_groups(const QuantizedMatrix& q, std::size_t r);
  template <class Block>
  void pack_blocks(const Packer& by, const BlockMatrix& m);
  /// Where a row's numbers of a group, or of a span, lie in its panel's.
  [[nodiscard]] std::size_t param_index(std::size_t row, std::size_t group, std::size_t groups) const {
    return (row / kernels::kInterleavedRows * groups + group) * kernels::kInterleavedRows +
           row % kernels::kInterleavedRows;
  }
  [[nodiscard]] std::size_t spans() const { return groups_ >> span_shift_; }
  /// What multiplies a row's codes in a group.
  [[nodiscard]] float scale_of(std::size_t row, std::size_t group) const;
  [[nodiscard]] bool keeps_scales() const {
    return spec_.double_quant || is_llm_int8() || spec_.has_float_codes() || spec_.has_real_zeros();
  }
  [[nodiscard]] CodeLayout code_layout() const { return CodeLayout(kernels::held_bits(code_bits_)); }
  [[nodiscard]] std::size_t words_per_panel() const { return code_layout().words(depth_) * kernels::kInterleavedRows; }
  /// Where the words of a row begin in codes_.
  [[nodiscard]] std::size_t row_words(std::size_t row) const {
    return row / kernels::kInterleavedRows * words_per_panel() + row % kernels::kInterleavedRows;
  }

  QuantSpec spec_;
  std::vector<float> codebook_;
  std::vector<std::int32_t> g_idx_;
  std::vector<std::uint32_t> order_;
  Buffer
      kept_scales_;  ///< Where scales_ holds what was made of them (double quantization, LLM.int8, E2M1): for unpack().
  Buffer kept_zeros_;  ///< Real zero points, of which offsets_ holds the products with scales: for unpack().
  NestedScales nested_;
  TensorScale tensor_scale_;
  int code_bits_;  ///< As held: 2 … 8, or kernels::kTableBits.
  ScaleType scale_type_;
  std::int32_t zero_point_;  ///< Where no group has its own.
  std::size_t depth_, group_size_, groups_;
  bool is_canonical_ = true;  ///< A QuantizedMatrix of spec_ holds the same values.
  int span_shift_ = 0;        ///< A scale serves 2^span_shift_ groups, each with its step (kernels::InterleavedPanel).
  Buffer codes_, scales_, zeros_, scale_steps_, offsets_, offset_steps_;
  float values_[16] = {};
  std::uint8_t table_[16] = {};  ///< Of codes that stand for bytes: a codebook's for int8_panel(), or kTableBits'.
  float int8_unit_ = 1;
};

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/backend/impl/interleaved_matrix_inl.h"
#endif
