// The canonical form of a quantized matrix (matrix/quantized_matrix.h) in device memory: what the kernels of this
// folder read and write. Plain data; passed to kernels by value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nibble/matrix/quant_spec.h"

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace nibble::inline NIBBLE_ABI::cuda {

/// A canonical matrix whose buffers lie on the device. Does not own. The byte layout is QuantizedMatrix's but for
/// `pitch`: rows of codes may lie further apart than their bytes, which gives 16-byte loads of any row their alignment.
struct CanonicalMatrix {
  QuantSpec spec;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t pitch = 0;  ///< Bytes from one row of codes to the next; at least packed_bytes(cols, bits).
  const std::uint8_t* codes = nullptr;
  const void* scales = nullptr;
  const void* zero_points = nullptr;     ///< Asymmetric only: bytes, or int32 where the range was kept raw.
  const float* codebook = nullptr;       ///< Codebook schemes: 2^bits values.
  const std::int32_t* g_idx = nullptr;   ///< Act-order: the group of each column. Null: column / group_size.
  const float* nested_absmax = nullptr;  ///< Double quantization: one per NestedScales::block_size groups,
  const float* nested_map = nullptr;     ///< 256 values
  const float* nested_offset = nullptr;  ///< and one.
  /// Where `codes` is null: the codes in the order of the tensor-core kernels (gemm_layout.h's PackedLayout for 4 bits,
  /// PackedInt8Layout for 8), which dequantize() reads, too.
  const std::uint32_t* tensor_codes = nullptr;
  const std::int32_t* tensor_places = nullptr;  ///< Act-order: the place of each column in that order. Null: its own.
};

/// Which group an element belongs to, QuantizedMatrix::group_of as one formula for every granularity:
///   group = row·groups_per_row + (row·columns_per_row + column) / size,
/// where blocks count columns on from row to row, and a tensor's or channel's group never ends within a row.
struct GroupMap {
  std::size_t groups_per_row = 0;
  std::size_t columns_per_row = 0;
  std::size_t size = 1;
  int shift = 0;                        ///< log2(size), or −1 where that is no integer.
  const std::int32_t* g_idx = nullptr;  ///< In the place of column / size.
};

inline GroupMap group_map(const QuantSpec& spec, std::size_t cols, const std::int32_t* g_idx) {
  constexpr int endless = 63;
  GroupMap map;
  map.g_idx = g_idx;
  switch (spec.granularity) {
    case Granularity::tensor: map.shift = endless; break;
    case Granularity::channel:
      map.groups_per_row = 1;
      map.shift = endless;
      break;
    case Granularity::group:
      map.groups_per_row = spec.groups_per_row(cols);
      map.size = spec.group_size;
      break;
    case Granularity::block:
      map.columns_per_row = cols;
      map.size = spec.group_size;
      break;
    case Granularity::tile: break;  // of small floats alone, which no kernel here takes
  }
  if (map.shift == endless) {
    map.size = std::size_t{1} << endless;
    return map;
  }
  while (std::size_t{1} << map.shift < map.size) ++map.shift;
  if (std::size_t{1} << map.shift != map.size) map.shift = -1;
  return map;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
