// What the layouts share: tensors found and checked before they are used, and scales between types.
#pragma once

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "nibble/format/quantization_config.h"
#include "nibble/format/quantized_tensors.h"

namespace nibble::inline NIBBLE_ABI::format {

/// Error{corrupt_file}: "tensor '<tensor>': <why>".
[[noreturn]] void refuse(const std::string& tensor, const std::string& why);

/// The tensor of that name and type; refuses a missing one and another type.
NamedTensor need(const TensorSource& source, const std::string& name, DType type);
/// The same of the given shape, whose bytes are all there. No product of its sizes overflows.
NamedTensor need(const TensorSource& source, const std::string& name, DType type,
                 const std::vector<std::size_t>& shape);
/// `count` finite F32 values.
std::vector<float> need_floats(const TensorSource& source, const std::string& name, std::size_t count);
/// F32, F16 or BF16 of the given shape, all finite.
NamedTensor need_scales(const TensorSource& source, const std::string& name, const std::vector<std::size_t>& shape);
void need_bytes(const NamedTensor& t, std::size_t bytes);
void need_shape(const NamedTensor& t, const std::vector<std::size_t>& shape);
void need_finite(const NamedTensor& t);
/// Refuses an empty matrix, and sizes beyond any real one, whose products could overflow.
void check_shape(const std::string& name, std::size_t rows, std::size_t cols);

/// What the layer's configuration says; there must be one.
const LayerQuantization& layer_quantization(const TensorSource& source, const std::string& layer);
/// The spec of integer codes that it describes, with scales of this type.
QuantSpec affine_spec(const LayerQuantization& as, bool symmetric, DType scale);

/// g_idx of `cols` columns as the canonical form wants it: empty where the tensor is missing or says column/group_size.
std::vector<std::int32_t> read_g_idx(const TensorSource& source, const std::string& name, const QuantSpec& spec,
                                     std::size_t cols);
/// The group of each column, spelled out.
Buffer write_g_idx(const QuantizedMatrix& q);
/// Whether a column is in another group than its place says. A g_idx that says nothing else (of one group, or of
/// columns that were in order already) need not be stored, and does not come back.
bool is_reordered(const QuantizedMatrix& q);

/// The scale type of a tensor of scales; f32 for a type that is none.
ScaleType scale_type_of(DType type);
/// Element i of a floating-point tensor.
float float_at(const NamedTensor& t, std::size_t i);
/// The first scale that `type` does not hold exactly, as a message; empty if it holds all.
std::string inexact_scale(const QuantizedMatrix& q, ScaleType type);
/// All scales of q in group order, in `type`, which holds them exactly.
Buffer scales_in(const QuantizedMatrix& q, ScaleType type);

/// "768 × 256"
std::string shape_text(std::size_t rows, std::size_t cols);

inline Buffer copy_bytes(const void* data, std::size_t size) {
  Buffer b = Buffer::allocate(size);
  if (size > 0) std::memcpy(b.writable<std::byte>(), data, size);
  return b;
}

template <class T>
Buffer copy_bytes(const std::vector<T>& v) {
  return copy_bytes(v.data(), v.size() * sizeof(T));
}

/// [rows, cols] to [cols, rows].
template <class T>
void transpose(const T* from, std::size_t rows, std::size_t cols, T* to) {
  constexpr std::size_t tile = 16;  // lines of both sides stay in cache
  for (std::size_t r0 = 0; r0 < rows; r0 += tile)
    for (std::size_t c0 = 0; c0 < cols; c0 += tile)
      for (std::size_t r = r0; r < rows && r < r0 + tile; ++r)
        for (std::size_t c = c0; c < cols && c < c0 + tile; ++c) to[c * rows + r] = from[r * cols + c];
}

}  // namespace nibble::inline NIBBLE_ABI::format
