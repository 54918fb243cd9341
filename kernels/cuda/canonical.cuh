// Reading the canonical form on the device: groups, scales, zero points, and runs of eight codes or values.
//
// Eight codes of b bits are exactly b bytes (core/bit_pack.h), so a thread that owns eight columns from a multiple of
// eight on shares no byte with another.
#pragma once

#include "kernels/cuda/canonical.h"
#include "kernels/cuda/device.h"
#include "nibble/core/bit_pack.h"
#include "nibble/matrix/quantized_matrix.h"

namespace nibble::inline NIBBLE_ABI::cuda {

/// Columns that one thread decodes or encodes at a time.
inline constexpr int kRun = 8;

/// What all columns of a row share in group_of.
struct RowGroups {
  std::size_t first, columns;
};
NIBBLE_DEVICE RowGroups row_groups(const GroupMap& map, std::size_t row) {
  return {row * map.groups_per_row, row * map.columns_per_row};
}
NIBBLE_DEVICE std::size_t group_of(const GroupMap& map, const RowGroups& row, std::size_t col) {
  if (map.g_idx != nullptr) return row.first + static_cast<std::size_t>(__ldg(map.g_idx + col));
  const std::size_t index = row.columns + col;
  return row.first + (map.shift >= 0 ? index >> map.shift : index / map.size);
}
NIBBLE_DEVICE std::size_t group_of(const GroupMap& map, std::size_t row, std::size_t col) {
  return group_of(map, row_groups(map, row), col);
}

/// Whether columns col … col+n−1 of a row share a group, which is then group_of(map, row, col).
NIBBLE_DEVICE bool share_group(const GroupMap& map, std::size_t row, std::size_t col, int n) {
  return map.g_idx == nullptr && group_of(map, row, col) == group_of(map, row, col + static_cast<std::size_t>(n) - 1);
}

/// Widened without loss. The hardware's conversion of a NaN may differ from f16's; quantizers refuse NaN anyway.
NIBBLE_DEVICE float upcast(float v) { return v; }
NIBBLE_DEVICE float upcast(f16 v) { return __half2float(__ushort_as_half(v.bits)); }
NIBBLE_DEVICE float upcast(bf16 v) { return static_cast<float>(v); }

/// QuantizedMatrix::scale of scales of one type.
NIBBLE_DEVICE float read_scale(const void* scales, ScaleType type, std::size_t group) {
  if (type == ScaleType::f32) return __ldg(static_cast<const float*>(scales) + group);
  const std::uint16_t bits = __ldg(static_cast<const unsigned short*>(scales) + group);
  return type == ScaleType::f16 ? upcast(f16::from_bits(bits)) : upcast(bf16::from_bits(bits));
}

/// QuantizedMatrix::multiplier: what a decoded integer or a value of the codebook is multiplied by.
NIBBLE_DEVICE float multiplier_of(const CanonicalMatrix& q, std::size_t group) {
  if (q.spec.double_quant) {
    const std::uint8_t code = __ldg(static_cast<const std::uint8_t*>(q.scales) + group);
    return nested_value(__ldg(q.nested_map + code), __ldg(q.nested_absmax + group / NestedScales::block_size),
                        __ldg(q.nested_offset));
  }
  const float scale = read_scale(q.scales, q.spec.scale_type, group);
  return q.spec.scheme == SchemeKind::llm_int8 ? scale * LlmInt8::inverse_127 : scale;
}

/// QuantizedMatrix::zero_point.
NIBBLE_DEVICE std::int32_t zero_point_of(const CanonicalMatrix& q, std::size_t group) {
  if (q.spec.scheme != SchemeKind::asymmetric) return 1 << (q.spec.bits - 1);
  return q.spec.preserve_zero
             ? static_cast<std::int32_t>(__ldg(static_cast<const std::uint8_t*>(q.zero_points) + group))
             : __ldg(static_cast<const int*>(q.zero_points) + group);
}

NIBBLE_DEVICE bool is_aligned(const void* p, unsigned bytes) {
  return (reinterpret_cast<std::uintptr_t>(p) & (bytes - 1)) == 0;
}

/// What lies at an address; by the read-only cache, unless the same launch writes there.
template <bool IsConstant, class T>
NIBBLE_DEVICE T load(const T* at) {
  if constexpr (IsConstant) return __ldg(at);
  else return *at;
}

/// The first n of eight packed codes from `at`, code i at bit i·Bits. Reads no byte past the last code's. `IsConstant`:
/// the launch does not write them.
template <int Bits, bool IsConstant = true>
NIBBLE_DEVICE std::uint64_t load_codes(const std::uint8_t* at, int n) {
  if (n == kRun) {
    if constexpr (Bits == 2) {
      if (is_aligned(at, 2)) return load<IsConstant>(reinterpret_cast<const unsigned short*>(at));
    } else if constexpr (Bits == 4) {
      if (is_aligned(at, 4)) return load<IsConstant>(reinterpret_cast<const unsigned*>(at));
    } else if constexpr (Bits == 8) {
      if (is_aligned(at, 8)) return load<IsConstant>(reinterpret_cast<const unsigned long long*>(at));
    }
  }
  std::uint64_t word = 0;
  const int bytes = (n * Bits + 7) / 8;
#pragma unroll
  for (int i = 0; i < Bits; ++i)
    if (i < bytes) word |= static_cast<std::uint64_t>(load<IsConstant>(at + i)) << (8 * i);
  return word;
}

template <int Bits>
NIBBLE_DEVICE std::uint8_t code_at(std::uint64_t word, int i) {
  return static_cast<std::uint8_t>((word >> (i * Bits)) & ((1u << Bits) - 1u));
}

/// Writes the first n of eight codes of `bits` bits, packed in `word` with zeros above them, to their own bytes.
NIBBLE_DEVICE void store_codes(std::uint8_t* at, int n, int bits, std::uint64_t word) {
  if (n == kRun && bits == 8 && is_aligned(at, 8)) *reinterpret_cast<unsigned long long*>(at) = word;
  else if (n == kRun && bits == 4 && is_aligned(at, 4)) *reinterpret_cast<unsigned*>(at) = static_cast<unsigned>(word);
  else
    for (int i = 0; i < (n * bits + 7) / 8; ++i) at[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

/// Rounded once, half to even, bit for bit as f16 and bf16 do. The hardware rounds to binary16 alike, but makes every
/// NaN the same one.
template <class T>
NIBBLE_DEVICE T narrow(float v) {
  if constexpr (sizeof(T) == sizeof(float)) return v;
  else if constexpr (std::is_same_v<T, f16>)
    return v != v ? f16(v) : f16::from_bits(__half_as_ushort(__float2half_rn(v)));
  else return T(v);
}

/// Sixteen bytes, and the values of type T they hold.
template <class T>
union Quad {
  uint4 bits;
  T value[16 / sizeof(T)];
  NIBBLE_DEVICE Quad() : bits() {}
};

/// out[i] = at[i] for i < n ≤ 8, zero for the rest; by 16-byte loads where n = 8 and the address allows.
template <bool IsConstant = true, class T>
NIBBLE_DEVICE void load_run(const T* at, int n, float (&out)[kRun]) {
  constexpr int each = 16 / sizeof(T);
  if (n == kRun && is_aligned(at, 16)) {
#pragma unroll
    for (int i = 0; i < kRun; i += each) {
      Quad<T> quad;
      quad.bits = load<IsConstant>(reinterpret_cast<const uint4*>(at + i));
#pragma unroll
      for (int j = 0; j < each; ++j) out[i + j] = upcast(quad.value[j]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) out[i] = i < n ? upcast(at[i]) : 0.0f;
}

/// at[i] = values[i] rounded, for i < n ≤ 8; by 16-byte stores where n = 8 and the address allows.
template <class T>
NIBBLE_DEVICE void store_run(T* at, int n, const float (&values)[kRun]) {
  constexpr int each = 16 / sizeof(T);
  if (n == kRun && is_aligned(at, 16)) {
#pragma unroll
    for (int i = 0; i < kRun; i += each) {
      Quad<T> quad;
#pragma unroll
      for (int j = 0; j < each; ++j) quad.value[j] = narrow<T>(values[i + j]);
      *reinterpret_cast<uint4*>(at + i) = quad.bits;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i)
    if (i < n) at[i] = narrow<T>(values[i]);
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
