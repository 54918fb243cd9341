// What backend/impl/cpu_matrix.h declares.
#pragma once

#include <algorithm>
#include <numeric>

#include "nibble/backend/impl/code_layout.h"
#include "nibble/backend/impl/cpu_kernels.h"
#include "nibble/backend/impl/cpu_matrix.h"
#include "nibble/scheme/int8_codebook.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

using kernels::kInterleavedRows;
using kernels::kPanelDepth;
using kernels::kPanelWidth;

constexpr std::size_t round_up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Columns of a group, as kernels see it: rows have their own scales whatever the granularity.
inline std::size_t columns_per_group(const QuantSpec& spec, std::size_t cols) {
  return spec.granularity == Granularity::group || spec.granularity == Granularity::block
             ? std::min(spec.group_size, cols)
             : cols;
}

/// The width that codes are held in: their own where groups are whole steps, else 4 or 8, which have the shortest.
inline int held_bits(const QuantSpec& spec, std::size_t cols) {
  const std::size_t group = columns_per_group(spec, cols);
  if (spec.has_real_zeros() && spec.bits == 3) return 4;  // the kernels have offsets for 2, 4 and 5 bits
  const auto whole_steps = [&](int bits) { return group == cols || group % CodeLayout(bits).step_columns() == 0; };
  return whole_steps(spec.bits) ? spec.bits : spec.bits <= 4 ? 4 : 8;
}

/// E2M1's values are 0, ½, 1, 1½, 2, 3, 4 and 6: twice them are integers, which the kernels look up, half the scale
/// makes up for it.
inline bool is_doubled(const QuantSpec& spec) { return spec.scheme == SchemeKind::e2m1; }

/// The type that the kernels take scales in: the spec's own where they know it (kernels::InterleavedPanel::scale_type).
inline ScaleType held_scale_type(const QuantSpec& spec) {
  static_assert(static_cast<int>(ScaleType::f32) == 0 && static_cast<int>(ScaleType::f16) == 1 &&
                static_cast<int>(ScaleType::bf16) == 2);
  if (spec.scale_type == ScaleType::e8m0) return ScaleType::bf16;
  const bool is_own =
      !spec.double_quant && !is_doubled(spec) && !spec.has_real_zeros() && is_matrix_type(dtype_of(spec.scale_type));
  return is_own ? spec.scale_type : ScaleType::f32;
}

/// Columns sorted by group, those of a group in their order.
inline std::vector<std::uint32_t> columns_by_group(const std::vector<std::int32_t>& g_idx) {
  std::vector<std::uint32_t> order(g_idx.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return g_idx[a] < g_idx[b]; });
  return order;
}

/// Whether the columns sorted by group fall into runs of group_size, one a group.
inline bool has_equal_groups(const QuantizedMatrix& q) {
  if (q.spec.granularity != Granularity::group) return false;
  std::vector<std::size_t> count(q.spec.groups_per_row(q.cols));
  for (const std::int32_t g : q.g_idx) ++count[static_cast<std::size_t>(g)];
  for (std::size_t g = 0; g < count.size(); ++g)
    if (count[g] != std::min(q.spec.group_size, q.cols - g * q.spec.group_size)) return false;
  return true;
}

}  // namespace detail

NIBBLE_INLINE bool InterleavedMatrix::fits(const QuantizedMatrix& q) {
  const QuantSpec& spec = q.spec;
  if (!q.g_idx.empty() && !detail::has_equal_groups(q)) return false;
  if (spec.is_codebook() && spec.bits != 4) return false;
  if (spec.scheme == SchemeKind::llm_int8 && q.cols > 65536) return false;  // sums must fit an int32
  if (spec.has_zero_points() && !spec.preserve_zero) return false;          // raw zero points need an int32
  const int held = detail::held_bits(spec, q.cols);
  if (spec.has_real_zeros() && held != 2 && held != 4 && held != 5) return false;
  if (spec.granularity == Granularity::block && q.cols % spec.group_size != 0) return false;
  if (spec.granularity == Granularity::tile) return false;  // rows have scales of their own here
  const std::size_t group = detail::columns_per_group(spec, q.cols);
  return group == q.cols || group % CodeLayout(held).step_columns() == 0;
}

NIBBLE_INLINE InterleavedMatrix::InterleavedMatrix(const Packer& by, const QuantizedMatrix& q)
    : CpuMatrix(by.backend, q.rows, q.cols),
      spec_(q.spec),
      codebook_(q.codebook),
      g_idx_(q.g_idx),
      nested_(q.nested),
      tensor_scale_(q.tensor_scale),
      code_bits_(detail::is_doubled(q.spec) ? kernels::kTableBits : detail::held_bits(q.spec, q.cols)),
      scale_type_(detail::held_scale_type(q.spec)),
      zero_point_(q.spec.has_zero_points() || q.spec.has_real_zeros() ? 0
                  : detail::is_doubled(q.spec)                        ? 128
                                                                      : q.zero_point(0)),
      depth_(detail::round_up(q.cols, CodeLayout(kernels::held_bits(code_bits_)).step_columns())) {
  const std::size_t group = detail::columns_per_group(q.spec, q.cols);
  groups_ = (q.cols + group - 1) / group;
  group_size_ = detail::round_up(group, code_layout().step_columns());
  for (std::size_t i = 0; i < 16 && code_bits_ <= 4; ++i) {
    const std::size_t code = code_bits_ == 2 ? i % 4 : i;  // the kernels leave the next code's bits above a 2-bit code
    if (q.spec.is_codebook()) values_[i] = q.codebook[code];
    else values_[i] = static_cast<float>(static_cast<int>(code) - zero_point_);
  }
  if (detail::is_doubled(spec_))
    for (std::size_t i = 0; i < 16; ++i) {
      values_[i] = 2 * q.codebook[i];
      table_[i] = static_cast<std::uint8_t>(static_cast<int>(values_[i]) + zero_point_);
    }
  if (is_looked_up()) {
    const Int8Codebook rounded = Int8Codebook::of(std::span<const float, 16>(values_));
    std::ranges::copy(rounded.codes, table_);
    int8_unit_ = rounded.unit;
  }
  if (keeps_scales()) kept_scales_ = q.scales;
  if (!g_idx_.empty()) order_ = detail::columns_by_group(g_idx_);
  const std::size_t count = panels() * groups_ * kernels::kInterleavedRows;
  scales_ = Buffer::allocate(count * static_cast<std::size_t>(scale_bytes(scale_type_)));
  if (spec_.has_zero_points()) zeros_ = Buffer::allocate(count);
  if (spec_.has_real_zeros()) {
    kept_zeros_ = q.zero_points;
    offsets_ = Buffer::allocate(scales_.size());
  }
  pack_panels(by, [&](std::size_t r, std::uint8_t* codes) {
    copy_codes(q, r, codes);
    copy_groups(q, r);
  });
}

NIBBLE_INLINE void InterleavedMatrix::pack_panels(const Packer& by, FunctionRef<void(std::size_t, std::uint8_t*)> row) {
  codes_ = Buffer::allocate(panels() * words_per_panel() * 4 + 3);  // kernels load at any byte of the last word
  auto* const words = codes_.writable<std::uint32_t>();
  constexpr std::size_t at_once = kernels::kInterleaveRows;
  static_assert(kernels::kInterleavedRows % at_once == 0);
  const std::size_t stride = detail::round_up(depth_, kernels::kInterleaveColumns);
  parallel_for(by.executor, panels(), 1, [&](std::size_t begin, std::size_t end) {
    std::vector<std::uint8_t> codes(at_once * stride);  // zero past the last column
    for (std::size_t r = begin * kernels::kInterleavedRows; r < std::min(end * kernels::kInterleavedRows, rows());
         r += at_once) {
      const std::size_t count = std::min(at_once, rows() - r);
      for (std::size_t i = 0; i < count; ++i) row(r + i, codes.data() + i * stride);
      std::fill(codes.begin() + static_cast<std::ptrdiff_t>(count * stride), codes.end(), std::uint8_t{0});
      by.isa.interleave(codes.data(), stride, depth_, kernels::held_bits(code_bits_), words + row_words(r));
    }
  });
}

/// A row's codes, a byte each, in the order of the groups.
NIBBLE_INLINE void InterleavedMatrix::copy_codes(const QuantizedMatrix& q, std::size_t r, std::uint8_t* codes) const {
  if (order_.empty()) return unpack_codes(q.row_codes(r), q.cols, q.spec.bits, codes);
  std::vector<std::uint8_t> stored(q.cols);
  unpack_codes(q.row_codes(r), q.cols, q.spec.bits, stored.data());
  for (std::size_t k = 0; k < q.cols; ++k) codes[k] = stored[order_[k]];
}

NIBBLE_INLINE void InterleavedMatrix::copy_groups(const QuantizedMatrix& q, std::size_t r) {
  const std::size_t first = q.group_of(r, 0);  // those of a row follow one another, but for act-order
  for (std::size_t g = 0; g < groups_; ++g) {
    const std::size_t to = param_index(r, g, groups_);
    const std::size_t from = order_.empty() ? first + g : q.group_of(r, order_[g * group_size_]);
    store_scale(scale_type_, scales_.writable<std::byte>(), to,
                detail::is_doubled(spec_) ? q.multiplier(from) * 0.5f : q.multiplier(from));
    // (code − zero)·scale as code·scale + offset. Of f16 numbers the product is exact.
    if (spec_.has_real_zeros()) offsets_.writable<float>()[to] = -(q.zero(from) * q.scale(from));
    if (zeros_.size() != 0) zeros_.writable<std::uint8_t>()[to] = static_cast<std::uint8_t>(q.zero_point(from));
  }
}

NIBBLE_INLINE std::size_t InterleavedMatrix::storage_bytes() const {
  return codes_.size() + scales_.size() + zeros_.size() + scale_steps_.size() + offsets_.size() + offset_steps_.size() +
         kept_scales_.size() + kept_zeros_.size() + sizeof values_ + g_idx_.size() * sizeof g_idx_[0] +
         order_.size() * sizeof order_[0];
}

NIBBLE_INLINE QuantizedMatrix InterleavedMatrix::unpack() const {
  QuantizedMatrix q = QuantizedMatrix::allocate(spec_, rows(), cols());
  q.codebook = codebook_;
  q.nested = nested_;
  q.tensor_scale = tensor_scale_;
  q.g_idx = g_idx_;
  if (keeps_scales()) q.scales = kept_scales_;
  if (spec_.has_real_zeros()) q.zero_points = kept_zeros_;
  const CodeLayout layout = code_layout();
  std::vector<std::uint8_t> row(cols());
  for (std::size_t r = 0; r < rows(); ++r) {
    const std::uint32_t* from = codes_.as<std::uint32_t>() + row_words(r);
    for (std::size_t k = 0; k < cols(); ++k) row[order_.empty() ? k : order_[k]] = layout.get(from, k);
    nibble::pack_codes(row.data(), cols(), spec_.bits, q.codes.writable<std::uint8_t>() + r * q.row_bytes());
    for (std::size_t g = 0; g < groups_; ++g) {
      const std::size_t column = std::min(g * group_size_, cols() - 1);
      const std::size_t to = q.group_of(r, order_.empty() ? column : order_[column]);
      if (keeps_scales()) continue;
      store_scale(spec_.scale_type, q.scales.writable<std::byte>(), to, scale_of(r, g));
      if (spec_.has_zero_points())
        q.zero_points.writable<std::uint8_t>()[to] = zeros_.as<std::uint8_t>()[param_index(r, g, groups_)];
    }
  }
  return q;
}

NIBBLE_INLINE float InterleavedMatrix::scale_of(std::size_t row, std::size_t group) const {
  const float shared = load_scale(scale_type_, scales_.data(), param_index(row, group >> span_shift_, spans()));
  if (scale_steps_.size() == 0) return shared;
  return shared * static_cast<float>(scale_steps_.as<std::int8_t>()[param_index(row, group, groups_)]);
}

NIBBLE_INLINE void InterleavedMatrix::decode_column(std::size_t panel, std::size_t column, float* out) const {
  const CodeLayout layout = code_layout();
  const auto* words = codes_.as<std::uint32_t>() + panel * words_per_panel();
  const std::size_t at = (panel * groups_ + column / group_size_) * kernels::kInterleavedRows;
  for (std::size_t j = 0; j < kernels::kInterleavedRows; ++j) {
    const std::uint8_t code = layout.get(words + j, column);
    const float scale = load_scale(scale_type_, scales_.data(), at + j);
    const bool is_looked_at = code_bits_ <= 4 || code_bits_ == kernels::kTableBits;
    const float value = is_looked_at ? values_[code] : static_cast<float>(code - zero_point_);
    out[j] = (zeros_.size() == 0 ? value : value - static_cast<float>(zeros_.as<std::uint8_t>()[at + j])) * scale;
  }
}

NIBBLE_INLINE kernels::InterleavedPanel InterleavedMatrix::panel(std::size_t index) const {
  const std::size_t group_at = index * groups_ * kernels::kInterleavedRows;
  const std::size_t span_at =
      index * spans() * kernels::kInterleavedRows * static_cast<std::size_t>(scale_bytes(scale_type_));
  const auto at = [](const Buffer& from, std::size_t offset) {
    return from.size() == 0 ? nullptr : from.data() + offset;
  };
  kernels::InterleavedPanel p{};
  p.codes = codes_.as<std::uint32_t>() + index * words_per_panel();
  p.scales = scales_.data() + span_at;
  p.scale_steps = reinterpret_cast<const std::int8_t*>(at(scale_steps_, group_at));
  p.offsets = at(offsets_, span_at);
  p.offset_steps = reinterpret_cast<const std::int8_t*>(at(offset_steps_, group_at));
  p.zeros = reinterpret_cast<const std::uint8_t*>(at(zeros_, group_at));
  p.table = table_;
  p.span_shift = span_shift_;
  p.values = values_;
  p.depth = depth_;
  p.group_size = group_size_;
  p.code_bits = code_bits_;
  p.scale_type = static_cast<int>(scale_type_);
  p.zero_point = zero_point_;
  return p;
}

NIBBLE_INLINE kernels::InterleavedPanel InterleavedMatrix::int8_panel(std::size_t index) const {
  kernels::InterleavedPanel p = panel(index);
  if (!is_looked_up()) return p;
  p.code_bits = kernels::kTableBits;
  p.zero_point = 128;
  return p;
}

NIBBLE_INLINE void InterleavedMatrix::input_scales(const kernels::KernelTable& isa, std::size_t row0, std::size_t k0,
                                                   float* scales) const {
  const std::size_t at = (row0 / kernels::kInterleavedRows * groups_ + k0 / group_size_) * kernels::kInterleavedRows +
                         row0 % kernels::kInterleavedRows;
  const std::byte* from = scales_.data() + at * static_cast<std::size_t>(scale_bytes(scale_type_));
  const float* wide = cpu_upcast(isa, dtype_of(scale_type_), from, kernels::kPanelWidth, scales);
  if (wide != scales) std::copy_n(wide, kernels::kPanelWidth, scales);
}

NIBBLE_INLINE const float* InterleavedMatrix::input_panel(const kernels::KernelTable& isa, std::size_t row0,
                                                          std::size_t k0, std::size_t k1, float* panel) const {
  // Both halves are decoded; the caller's panel has room for both and walks them in order.
  const std::size_t half = row0 % kernels::kInterleavedRows / kernels::kPanelWidth;
  const std::size_t last = detail::round_up(k1, code_layout().step_columns());
  if (half == 0) isa.decode_codes(this->panel(row0 / kernels::kInterleavedRows), k0, last, !scales_after_sums(), panel);
  return panel + half * kernels::kPanelDepth * kernels::kPanelWidth;
}

NIBBLE_INLINE void InterleavedMatrix::output_panel(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0,
                                                   std::size_t r1, float* panel) const {
  float both[2 * kernels::kPanelDepth * kernels::kPanelWidth];
  const std::size_t width = std::min(kernels::kPanelWidth, cols() - col0);
  const std::size_t last = detail::round_up(col0 + width, code_layout().step_columns());
  std::fill_n(panel, (r1 - r0) * kernels::kPanelWidth, 0.0f);
  for (std::size_t first = r0 / kernels::kInterleavedRows * kernels::kInterleavedRows; first < r1;
       first += kernels::kInterleavedRows) {
    isa.decode_codes(this->panel(first / kernels::kInterleavedRows), col0, last, true, both);
    for (std::size_t r = std::max(first, r0); r < std::min(first + kernels::kInterleavedRows, r1); ++r) {
      const std::size_t local = r - first;
      const float* from = both + local / kernels::kPanelWidth * kernels::kPanelDepth * kernels::kPanelWidth +
                          local % kernels::kPanelWidth;
      for (std::size_t j = 0; j < width; ++j)
        panel[(r - r0) * kernels::kPanelWidth + j] = from[j * kernels::kPanelWidth];
    }
  }
}

NIBBLE_INLINE void InterleavedMatrix::output_columns(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0,
                                                     std::size_t r1, float* columns) const {
  static_assert(kernels::kPanelDepth % kernels::kInterleavedRows == 0);
  constexpr std::size_t half = kernels::kPanelDepth * kernels::kPanelWidth;
  float both[2 * half];
  const std::size_t width = std::min(kernels::kPanelWidth, cols() - col0);
  const std::size_t last = detail::round_up(col0 + width, code_layout().step_columns());
  for (std::size_t r = r0; r < r1; r += kernels::kInterleavedRows) {
    isa.decode_codes(panel(r / kernels::kInterleavedRows), col0, last, true, both);
    for (std::size_t j = 0; j < width; ++j)
      for (const std::size_t side : {0u, 1u})
        std::copy_n(both + side * half + j * kernels::kPanelWidth, kernels::kPanelWidth,
                    columns + j * kernels::kPanelDepth + (r - r0) + side * kernels::kPanelWidth);
  }
}

}  // namespace nibble::inline NIBBLE_ABI
