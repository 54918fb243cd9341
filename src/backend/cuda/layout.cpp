#include "backend/cuda/layout.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "nibble/core/error.h"
#include "nibble/core/parallel.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

std::size_t packed_column(const QuantizedMatrix& q, const std::vector<std::int32_t>& order, std::size_t k) {
  return order.empty() || k >= q.cols ? k : static_cast<std::size_t>(order[k]);
}

/// Columns by group, and within one in their order.
std::vector<std::int32_t> order_by_group(const QuantizedMatrix& q) {
  std::vector<std::int32_t> order;
  if (q.g_idx.empty()) return order;
  order.resize(q.cols);
  std::iota(order.begin(), order.end(), 0);
  const auto group = [&](std::int32_t c) { return q.g_idx[static_cast<std::size_t>(c)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return group(a) < group(b); });
  return order;
}

/// Whether aligned runs of `columns` share a group in every row.
bool runs_share_groups(const QuantizedMatrix& q, const std::vector<std::int32_t>& order, std::size_t columns) {
  switch (q.spec.granularity) {
    case Granularity::tensor:
    case Granularity::channel: return true;
    case Granularity::block: return q.spec.group_size % columns == 0 && q.cols % columns == 0;
    case Granularity::tile: return false;
    case Granularity::group: break;
  }
  for (std::size_t k = 0; k < q.cols; ++k)
    if (q.group_of(0, packed_column(q, order, k)) != q.group_of(0, packed_column(q, order, k / columns * columns)))
      return false;
  return true;
}

/// The most columns that may share parameters: all, 128, 64 or 32; 0 if there are none.
std::size_t shared_columns(const QuantizedMatrix& q, const std::vector<std::int32_t>& order) {
  const std::size_t all = round_up(q.cols, kGemmDepth);
  for (const std::size_t columns : {all, std::size_t{128}, std::size_t{64}, std::size_t{32}})
    if (columns <= all && runs_share_groups(q, order, columns)) return columns;
  return 0;
}

/// Calls body(row) on all threads: a word of either layout holds codes of one row, so rows do not meet.
template <class Body>
void for_each_row(std::size_t rows, const Body& body) {
  parallel_for(default_executor(), rows, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) body(row);
  });
}

template <class Layout>
std::uint8_t read_code(const Layout& layout, const std::vector<std::uint32_t>& words, std::size_t row, std::size_t col,
                       unsigned mask) {
  const CodePlace at = layout.place(row, col);
  return static_cast<std::uint8_t>(words[at.word] >> at.shift & mask);
}

std::uint16_t downcast_scale(float value, ScaleType type) {
  return type == ScaleType::f16 ? f16(value).bits : bf16(value).bits;
}

void pack_parameters(const QuantizedMatrix& q, HostW4& out) {
  const PackedLayout layout = out.layout();
  const std::size_t rows = layout.padded_rows(), parameter_rows = round_up(layout.padded_cols(), out.group) / out.group;
  const std::size_t size = out.scale_type == ScaleType::f32 ? 4 : 2;
  out.scales.resize(parameter_rows * rows * size);
  if (q.spec.has_zero_points()) out.zero_points.resize(parameter_rows * rows);
  for (std::size_t p = 0; p < parameter_rows && p * out.group < q.cols; ++p)
    for (std::size_t row = 0; row < q.rows; ++row) {
      const std::size_t group = q.group_of(row, packed_column(q, out.column_order, p * out.group));
      std::uint8_t* const to = out.scales.data() + (p * rows + scale_place(row)) * size;
      const float scale = q.scale(group);
      const std::uint16_t narrow = downcast_scale(scale, out.scale_type);  // the stored value: nothing is rounded
      if (size == 4) std::memcpy(to, &scale, 4);
      else std::memcpy(to, &narrow, 2);
      if (q.spec.has_zero_points())
        out.zero_points[p * rows + zero_point_place(row)] = static_cast<std::uint8_t>(q.zero_point(group));
    }
}

std::string describe(const QuantizedMatrix& q) {
  return q.spec.to_string() + " of " + std::to_string(q.rows) + " x " + std::to_string(q.cols);
}

}  // namespace

std::string why_not_w4(const QuantizedMatrix& q) {
  const std::string what = "the 4-bit tensor-core product does not take " + describe(q) + ": ";
  if (q.spec.bits != 4) return what + "codes have " + std::to_string(q.spec.bits) + " bits";
  if (q.spec.has_zero_points() && !q.spec.preserve_zero) return what + "zero points of a raw range need not fit 4 bits";
  if (q.cols % 8 != 0) return what + "columns are no multiple of 8";
  if (shared_columns(q, order_by_group(q)) == 0) return what + "32 neighbouring columns do not share a scale";
  for (const float v : q.codebook)
    if (!(v >= -65504.0f && v <= 65504.0f)) return what + "a codebook's value is " + std::to_string(v);
  return {};
}

HostW4 pack_w4(const QuantizedMatrix& q) {
  if (const std::string why = why_not_w4(q); !why.empty()) throw Error(ErrorCode::unsupported, why);
  HostW4 out;
  out.spec = q.spec;
  out.rows = q.rows;
  out.cols = q.cols;
  out.column_order = order_by_group(q);
  out.group = shared_columns(q, out.column_order);
  out.scale_type = q.spec.double_quant ? ScaleType::f32 : q.spec.scale_type;
  out.codebook = q.codebook;
  const PackedLayout layout = out.layout();
  out.codes.resize(layout.words());
  for_each_row(q.rows, [&](std::size_t row) {
    for (std::size_t k = 0; k < q.cols; ++k) {
      const CodePlace at = layout.place(row, k);
      out.codes[at.word] |= std::uint32_t{q.code(row, packed_column(q, out.column_order, k))} << at.shift;
    }
  });
  pack_parameters(q, out);
  return out;
}

std::vector<std::int32_t> HostW4::column_places() const {
  std::vector<std::int32_t> places(column_order.size());
  for (std::size_t k = 0; k < places.size(); ++k)
    places[static_cast<std::size_t>(column_order[k])] = static_cast<std::int32_t>(k);
  return places;
}

std::uint8_t HostW4::code(std::size_t row, std::size_t col) const {
  if (column_order.empty()) return read_code(layout(), codes, row, col, 15);
  const auto at = std::find(column_order.begin(), column_order.end(), static_cast<std::int32_t>(col));
  return read_code(layout(), codes, row, static_cast<std::size_t>(at - column_order.begin()), 15);
}

float HostW4::scale(std::size_t row, std::size_t packed_col) const {
  const std::size_t at = packed_col / group * layout().padded_rows() + scale_place(row);
  if (scale_type == ScaleType::f32) {
    float value;
    std::memcpy(&value, scales.data() + at * 4, 4);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, scales.data() + at * 2, 2);
  return scale_type == ScaleType::f16 ? static_cast<float>(f16::from_bits(bits))
                                      : static_cast<float>(bf16::from_bits(bits));
}

std::int32_t HostW4::zero_point(std::size_t row, std::size_t packed_col) const {
  return zero_points.empty() ? 8 : zero_points[packed_col / group * layout().padded_rows() + zero_point_place(row)];
}

std::vector<std::uint8_t> unpack_w4_codes(const HostW4& packed) {
  const std::size_t row_bytes = packed_bytes(packed.cols, 4);
  std::vector<std::uint8_t> out(packed.rows * row_bytes);
  const PackedLayout layout = packed.layout();
  for (std::size_t row = 0; row < packed.rows; ++row)
    for (std::size_t k = 0; k < packed.cols; ++k) {
      const std::size_t col = packed.column_order.empty() ? k : static_cast<std::size_t>(packed.column_order[k]);
      set_code(out.data() + row * row_bytes, col, 4, read_code(layout, packed.codes, row, k, 15));
    }
  return out;
}

std::string why_not_int8(const QuantizedMatrix& q) {
  const std::string what = "the 8-bit tensor-core product does not take " + describe(q) + ": ";
  if (q.spec.scheme != SchemeKind::symmetric && q.spec.scheme != SchemeKind::llm_int8)
    return what + "codes are not symmetric integers";
  if (q.spec.bits != 8) return what + "codes have " + std::to_string(q.spec.bits) + " bits";
  if (q.spec.granularity != Granularity::channel && q.spec.granularity != Granularity::tensor)
    return what + "a row has several scales";
  if (q.cols > kMaxInt8Columns) return what + "a sum of so many columns may not fit 32 bits";
  return {};
}

HostInt8 pack_int8(const QuantizedMatrix& q) {
  if (const std::string why = why_not_int8(q); !why.empty()) throw Error(ErrorCode::unsupported, why);
  HostInt8 out;
  out.rows = q.rows;
  out.cols = q.cols;
  const PackedInt8Layout layout = out.layout();
  out.codes.resize(layout.words());
  out.multipliers.resize(q.rows);
  for_each_row(q.rows, [&](std::size_t row) {
    for (std::size_t col = 0; col < q.cols; ++col) {
      const CodePlace at = layout.place(row, col);
      out.codes[at.word] |= (q.code(row, col) ^ 0x80u) << at.shift;
    }
    out.multipliers[row] = q.multiplier(q.group_of(row, 0));
  });
  return out;
}

std::int8_t HostInt8::code(std::size_t row, std::size_t col) const {
  return static_cast<std::int8_t>(read_code(layout(), codes, row, col, 255));
}

std::vector<std::uint8_t> unpack_int8_codes(const HostInt8& packed) {
  std::vector<std::uint8_t> out;
  for (std::size_t row = 0; row < packed.rows; ++row)
    for (std::size_t col = 0; col < packed.cols; ++col)
      out.push_back(static_cast<std::uint8_t>(static_cast<std::uint8_t>(packed.code(row, col)) ^ 0x80u));
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
