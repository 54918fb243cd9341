// What matrix/quantized_matrix.h declares.
#pragma once

#include "nibble/matrix/quantized_matrix.h"

#include <algorithm>

#include "nibble/core/error.h"
#include "nibble/matrix/scheme_registry.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline std::vector<float> codebook_of(SchemeKind kind) {
  const SchemeEntry* row = scheme_entry(kind);
  return row == nullptr ? std::vector<float>() : std::vector<float>(row->codebook.begin(), row->codebook.end());
}

inline std::size_t scale_element_bytes(const QuantSpec& spec) {
  return spec.double_quant ? 1 : static_cast<std::size_t>(scale_bytes(spec.scale_type));
}

/// Of a matrix whose fp32 form an address can still reach the end of: no product of its sizes overflows below that.
inline constexpr std::size_t kMaxElements = static_cast<std::size_t>(PTRDIFF_MAX) / 16;

inline std::size_t zero_point_bytes(const QuantSpec& spec) {
  if (spec.has_real_zeros()) return static_cast<std::size_t>(scale_bytes(spec.scale_type));
  return !spec.has_zero_points() ? 0 : spec.preserve_zero ? 1 : 4;
}

/// Of small floats: the codebook is the format's, and no code is one that it has no number for.
inline void check_floats(const QuantizedMatrix& q, const std::string& name) {
  const std::string what = "tensor '" + name + "' (" + q.spec.to_string() + ")";
  const std::vector<float> format = codebook_of(q.spec.scheme);
  bool all_numbers = true;
  for (std::size_t c = 0; c < format.size(); ++c) {
    const bool is_number = is_finite(format[c]);
    all_numbers = all_numbers && is_number;
    if (is_number ? q.codebook[c] != format[c] : is_finite(q.codebook[c]))
      throw Error(ErrorCode::corrupt_file, what + ": codebook value " + std::to_string(c) + " is not the format's");
  }
  if (all_numbers) return;
  std::vector<std::uint8_t> row(q.cols);
  for (std::size_t r = 0; r < q.rows; ++r) {
    unpack_codes(q.row_codes(r), q.cols, q.spec.bits, row.data());
    for (std::size_t c = 0; c < q.cols; ++c)
      if (!is_finite(format[row[c]]))
        throw Error(ErrorCode::non_finite, what + ", row " + std::to_string(r) + ", column " + std::to_string(c) +
                                               ": the code " + std::to_string(row[c]) + " is no number");
  }
}

}  // namespace detail

NIBBLE_INLINE QuantizedMatrix QuantizedMatrix::allocate(const QuantSpec& spec, std::size_t rows, std::size_t cols) {
  spec.validate();
  if (rows == 0 || cols == 0)
    throw Error(ErrorCode::invalid_argument,
                "a matrix of " + std::to_string(rows) + " × " + std::to_string(cols) + " has nothing to quantize");
  if (rows > detail::kMaxElements / cols)
    throw Error(ErrorCode::invalid_argument,
                "a matrix of " + std::to_string(rows) + " × " + std::to_string(cols) + " is larger than memory can be");
  QuantizedMatrix q;
  q.spec = spec;
  q.rows = rows;
  q.cols = cols;
  q.codes = Buffer::allocate(rows * q.row_bytes());
  q.scales = Buffer::allocate(q.group_count() * detail::scale_element_bytes(spec));
  q.zero_points = Buffer::allocate(q.group_count() * detail::zero_point_bytes(spec));
  q.codebook = detail::codebook_of(spec.scheme);
  return q;
}

NIBBLE_INLINE void QuantizedMatrix::validate_layout(const std::string& name) const {
  spec.validate();
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::corrupt_file, "tensor '" + name + "' (" + spec.to_string() + ", " + std::to_string(rows) +
                                             " × " + std::to_string(cols) + "): " + why);
  };
  const auto need = [&](const char* what, std::size_t have, std::size_t want) {
    if (have != want)
      refuse(std::string(what) + " has " + std::to_string(have) + " bytes or entries, " + std::to_string(want) +
             " are needed");
  };
  if (rows == 0 || cols == 0) refuse("it is empty");
  if (rows > detail::kMaxElements / cols) refuse("it is larger than memory can be");
  need("codes", codes.size(), rows * row_bytes());
  need("scales", scales.size(), group_count() * detail::scale_element_bytes(spec));
  need("zero_points", zero_points.size(), group_count() * detail::zero_point_bytes(spec));
  need("codebook", codebook.size(), spec.is_codebook() ? std::size_t{1} << spec.bits : 0);
  if (spec.double_quant) {
    need("nested absmax", nested.absmax.size(), nested_count(group_count()));
    need("nested map", nested.map.size(), 256);
  }
  if (g_idx.empty()) return;
  need("g_idx", g_idx.size(), cols);
  const auto groups = static_cast<std::int64_t>(spec.groups_per_row(cols));
  for (std::size_t c = 0; c < cols; ++c)
    if (g_idx[c] < 0 || g_idx[c] >= groups)
      refuse("g_idx[" + std::to_string(c) + "] is " + std::to_string(g_idx[c]) + "; it must be 0 to " +
             std::to_string(groups - 1));
}

NIBBLE_INLINE void QuantizedMatrix::validate(const std::string& name) const {
  validate_layout(name);
  const auto refuse = [&](const char* what, std::size_t at, const std::string& value) {
    throw Error(ErrorCode::corrupt_file,
                "tensor '" + name + "' (" + spec.to_string() + "): " + what + " " + std::to_string(at) + value);
  };
  const bool has_floats = spec.has_float_codes();
  for (std::size_t i = 0; i < codebook.size(); ++i)
    if (!is_finite(codebook[i]) && !has_floats) refuse("codebook value", i, " is not finite");
  if (spec.has_tensor_scale() && !(is_finite(tensor_scale.value) && tensor_scale.value > 0))
    throw Error(ErrorCode::corrupt_file, "tensor '" + name + "' (" + spec.to_string() +
                                             "): the scale of the whole tensor is " +
                                             std::to_string(tensor_scale.value) + "; it must be positive and finite");
  if (has_floats) detail::check_floats(*this, name);
  for (std::size_t g = 0; g < group_count(); ++g)
    if (!is_finite(scale(g))) refuse("scale", g, " is not finite");
  for (std::size_t g = 0; g < group_count() && spec.has_real_zeros(); ++g)
    if (!is_finite(zero(g))) refuse("zero point", g, " is not finite");
  if (!spec.has_zero_points() || !spec.preserve_zero) return;
  for (std::size_t g = 0; g < group_count(); ++g)
    if (zero_point(g) >= 1 << spec.bits)
      refuse("zero point", g,
             " is " + std::to_string(zero_point(g)) + "; codes have " + std::to_string(spec.bits) + " bits");
}

NIBBLE_INLINE std::size_t QuantizedMatrix::group_of(std::size_t r, std::size_t c) const {
  if (!g_idx.empty() && spec.granularity == Granularity::group)
    return r * spec.groups_per_row(cols) + static_cast<std::size_t>(g_idx[c]);
  return spec.grouping().of(r, c, cols);
}

NIBBLE_INLINE float QuantizedMatrix::scale(std::size_t group) const {
  if (spec.double_quant)
    return nested_value(nested.map[scales.as<std::uint8_t>()[group]], nested.absmax[group / NestedScales::block_size],
                        nested.offset);
  const float stored = load_scale(spec.scale_type, scales.data(), group);
  return spec.has_tensor_scale() ? tensor_scale.apply(stored) : stored;
}

NIBBLE_INLINE std::int32_t QuantizedMatrix::zero_point(std::size_t group) const {
  if (spec.has_zero_points())
    return spec.preserve_zero ? zero_points.as<std::uint8_t>()[group] : zero_points.as<std::int32_t>()[group];
  return 1 << (spec.bits - 1);
}

NIBBLE_INLINE float QuantizedMatrix::zero(std::size_t group) const {
  return spec.has_real_zeros() ? load_scale(spec.scale_type, zero_points.data(), group)
                               : static_cast<float>(zero_point(group));
}

NIBBLE_INLINE float QuantizedMatrix::value(std::size_t r, std::size_t c) const {
  const std::size_t group = group_of(r, c);
  if (spec.has_real_zeros()) return real_zero_decode(code(r, c), {scale(group), zero(group)});
  if (spec.is_codebook()) return codebook[code(r, c)] * scale(group);
  return affine_decode(code(r, c), {multiplier(group), zero_point(group)});
}

NIBBLE_INLINE std::size_t QuantizedMatrix::storage_bytes() const {
  return codes.size() + scales.size() + zero_points.size() + (spec.has_tensor_scale() ? sizeof(float) : 0) +
         4 * (nested.absmax.size() + nested.map.size() + codebook.size() + g_idx.size());
}

NIBBLE_INLINE void quantize_nested(const float* absmax, std::size_t count, std::uint8_t* bytes, NestedScales& nested) {
  const auto& map = Codebook<dynamic_map<true>>::values();
  nested.map.assign(map.begin(), map.end());
  nested.absmax.resize(nested_count(count));
  nested.offset = quantize_nested({absmax, count}, bytes, nested.absmax.data());
}

}  // namespace nibble::inline NIBBLE_ABI
