#include <algorithm>

#include "cpu_matrix.h"

namespace nibble {

namespace {

using kernels::kInterleavedRows;
using kernels::kPanelDepth;
using kernels::kPanelWidth;

constexpr std::size_t round_up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }
std::size_t codes_per_word(int code_bits) { return 32 / static_cast<std::size_t>(code_bits); }
int widened_bits(const QuantSpec& spec) { return spec.bits <= 4 ? 4 : 8; }

/// Columns of a group, as kernels see it: rows have their own scales whatever the granularity.
std::size_t columns_per_group(const QuantSpec& spec, std::size_t cols) {
  return spec.granularity == Granularity::group || spec.granularity == Granularity::block
             ? std::min(spec.group_size, cols)
             : cols;
}

}  // namespace

bool InterleavedMatrix::fits(const QuantizedMatrix& q) {
  const QuantSpec& spec = q.spec;
  if (!q.g_idx.empty() || spec.scheme == SchemeKind::llm_int8 || (spec.is_codebook() && spec.bits != 4)) return false;
  if (spec.has_zero_points() && !spec.hold_zero) return false;  // raw zero points need an int32
  if (spec.granularity == Granularity::block && q.cols % spec.group_size != 0) return false;
  const std::size_t group = columns_per_group(spec, q.cols);
  return group == q.cols || group % codes_per_word(widened_bits(spec)) == 0;
}

InterleavedMatrix::InterleavedMatrix(const Backend& backend, const QuantizedMatrix& q)
    : CpuMatrix(backend, q.rows, q.cols),
      spec_(q.spec),
      codebook_(q.codebook),
      nested_(q.nested),
      code_bits_(widened_bits(q.spec)),
      scale_type_(q.spec.double_quant ? ScaleType::f32 : q.spec.scale_type),
      is_integer_(q.spec.is_affine()),
      zero_point_(1 << (q.spec.bits - 1)),
      depth_(round_up(q.cols, codes_per_word(code_bits_))) {
  const std::size_t group = columns_per_group(q.spec, q.cols);
  groups_ = (q.cols + group - 1) / group;
  group_size_ = round_up(group, codes_per_word(code_bits_));
  for (std::size_t c = 0; c < 16 && code_bits_ == 4; ++c) {
    if (q.spec.is_codebook()) values_[c] = q.codebook[c];
    else values_[c] = static_cast<float>(static_cast<int>(c) - (q.spec.has_zero_points() ? 0 : q.zero_point(0)));
  }
  if (spec_.double_quant) nested_codes_ = q.scales;
  pack_codes(q);
  pack_groups(q);
}

void InterleavedMatrix::pack_codes(const QuantizedMatrix& q) {
  codes_ = Buffer::allocate(panels() * words_per_panel() * 4);
  auto* words = codes_.writable<std::uint32_t>();
  const std::size_t per_word = codes_per_word(code_bits_);
  std::vector<std::uint8_t> row(depth_);
  for (std::size_t r = 0; r < q.rows; ++r) {
    unpack_codes(q.row_codes(r), q.cols, q.spec.bits, row.data());
    std::uint32_t* to = words + r / kInterleavedRows * words_per_panel() + r % kInterleavedRows;
    for (std::size_t k = 0; k < depth_; k += per_word, to += kInterleavedRows) {
      std::uint32_t word = 0;
      for (std::size_t b = 0; b < 4; ++b) {
        const std::uint32_t byte =
            code_bits_ == 4 ? row[k + b] | (static_cast<std::uint32_t>(row[k + b + 4]) << 4) : row[k + b];
        word |= byte << (8 * b);
      }
      *to = word;
    }
  }
}

void InterleavedMatrix::pack_groups(const QuantizedMatrix& q) {
  const bool has_zeros = q.spec.has_zero_points() || code_bits_ == 8;
  const std::size_t count = panels() * groups_ * kInterleavedRows;
  scales_ = Buffer::allocate(count * static_cast<std::size_t>(scale_bytes(scale_type_)));
  if (has_zeros) zeros_ = Buffer::allocate(count);
  for (std::size_t r = 0; r < q.rows; ++r)
    for (std::size_t g = 0; g < groups_; ++g) {
      const std::size_t to = (r / kInterleavedRows * groups_ + g) * kInterleavedRows + r % kInterleavedRows;
      const std::size_t from = q.group_of(r, std::min(g * group_size_, q.cols - 1));
      if (scale_type_ == ScaleType::f32) scales_.writable<float>()[to] = q.scale(from);
      else scales_.writable<std::uint16_t>()[to] = q.scales.as<std::uint16_t>()[from];
      if (has_zeros) zeros_.writable<std::uint8_t>()[to] = static_cast<std::uint8_t>(q.zero_point(from));
    }
}

std::size_t InterleavedMatrix::storage_bytes() const {
  return codes_.size() + scales_.size() + zeros_.size() + nested_codes_.size() + sizeof values_;
}

QuantizedMatrix InterleavedMatrix::unpack() const {
  QuantizedMatrix q = QuantizedMatrix::allocate(spec_, rows(), cols());
  q.codebook = codebook_;
  q.nested = nested_;
  if (spec_.double_quant) q.scales = nested_codes_;
  const std::size_t per_word = codes_per_word(code_bits_);
  std::vector<std::uint8_t> row(depth_);
  for (std::size_t r = 0; r < rows(); ++r) {
    const std::uint32_t* from =
        codes_.as<std::uint32_t>() + r / kInterleavedRows * words_per_panel() + r % kInterleavedRows;
    for (std::size_t k = 0; k < depth_; k += per_word, from += kInterleavedRows)
      for (std::size_t b = 0; b < 4; ++b) {
        const auto byte = static_cast<std::uint8_t>(*from >> (8 * b));
        row[k + b] = code_bits_ == 4 ? byte & 15 : byte;
        if (code_bits_ == 4) row[k + b + 4] = static_cast<std::uint8_t>(byte >> 4);
      }
    nibble::pack_codes(row.data(), cols(), spec_.bits, q.codes.writable<std::uint8_t>() + r * q.row_bytes());
    for (std::size_t g = 0; g < groups_; ++g) {
      const std::size_t at = (r / kInterleavedRows * groups_ + g) * kInterleavedRows + r % kInterleavedRows;
      const std::size_t to = q.group_of(r, std::min(g * group_size_, cols() - 1));
      if (spec_.double_quant) continue;
      if (scale_type_ == ScaleType::f32) q.scales.writable<float>()[to] = scales_.as<float>()[at];
      else q.scales.writable<std::uint16_t>()[to] = scales_.as<std::uint16_t>()[at];
      if (spec_.has_zero_points()) q.zero_points.writable<std::uint8_t>()[to] = zeros_.as<std::uint8_t>()[at];
    }
  }
  return q;
}

kernels::InterleavedPanel InterleavedMatrix::panel(std::size_t index) const {
  const std::size_t group_at = index * groups_ * kInterleavedRows;
  kernels::InterleavedPanel p{};
  p.codes = codes_.as<std::uint32_t>() + index * words_per_panel();
  p.scales = scales_.data() + group_at * static_cast<std::size_t>(scale_bytes(scale_type_));
  p.zeros = zeros_.size() == 0 ? nullptr : zeros_.as<std::uint8_t>() + group_at;
  p.values = values_;
  p.depth = depth_;
  p.group_size = group_size_;
  p.code_bits = code_bits_;
  p.scale_type = scale_type_ == ScaleType::f32 ? 0 : scale_type_ == ScaleType::f16 ? 1 : 2;
  p.zero_point = zero_point_;
  return p;
}

const float* InterleavedMatrix::input_panel(const kernels::KernelTable& isa, std::size_t row0, std::size_t k0,
                                            std::size_t k1, float* panel) const {
  // Both halves are decoded; the caller's panel has room for both and walks them in order.
  const std::size_t half = row0 % kInterleavedRows / kPanelWidth;
  if (half == 0)
    isa.decode_codes(this->panel(row0 / kInterleavedRows), k0, round_up(k1, codes_per_word(code_bits_)), panel);
  return panel + half * kPanelDepth * kPanelWidth;
}

void InterleavedMatrix::output_panel(const kernels::KernelTable& isa, std::size_t col0, std::size_t r0, std::size_t r1,
                                     float* panel) const {
  float both[2 * kPanelDepth * kPanelWidth];
  const std::size_t width = std::min(kPanelWidth, cols() - col0);
  std::fill_n(panel, (r1 - r0) * kPanelWidth, 0.0f);
  for (std::size_t first = r0 / kInterleavedRows * kInterleavedRows; first < r1; first += kInterleavedRows) {
    isa.decode_codes(this->panel(first / kInterleavedRows), col0, round_up(col0 + width, codes_per_word(code_bits_)),
                     both);
    for (std::size_t r = std::max(first, r0); r < std::min(first + kInterleavedRows, r1); ++r) {
      const std::size_t local = r - first;
      const float* from = both + local / kPanelWidth * kPanelDepth * kPanelWidth + local % kPanelWidth;
      for (std::size_t j = 0; j < width; ++j) panel[(r - r0) * kPanelWidth + j] = from[j * kPanelWidth];
    }
  }
}

}  // namespace nibble
