// What the encoder and the decoder of quantized layers share: which layout a spec has, and the names in it.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "nibble/format/quantized_tensors.h"

namespace nibble::format {

enum class Layout { bnb4, bnb8, native };

inline Layout layout_of(const QuantSpec& spec) {
  if (spec.scheme == SchemeKind::nf4 || spec.scheme == SchemeKind::fp4) return Layout::bnb4;
  if (spec.scheme == SchemeKind::llm_int8) return Layout::bnb8;
  const bool int8_rows = spec.scheme == SchemeKind::symmetric && spec.bits == 8 &&
                         spec.granularity == Granularity::channel && spec.scale_type == ScaleType::f32;
  return int8_rows ? Layout::bnb8 : Layout::native;
}

inline std::string quant_state_name(const std::string& layer, SchemeKind kind) {
  return layer + ".weight.quant_state.bitsandbytes__" + (kind == SchemeKind::nf4 ? "nf4" : "fp4");
}

inline Buffer copy_bytes(const void* data, std::size_t size) {
  Buffer b = Buffer::allocate(size);
  std::memcpy(b.writable<std::byte>(), data, size);
  return b;
}

template <class T>
Buffer copy_bytes(const std::vector<T>& v) {
  return copy_bytes(v.data(), v.size() * sizeof(T));
}

/// The canonical (row-padded, low nibble first) codes as bitsandbytes' flat stream with the even element high, and
/// back.
void canonical_to_bnb4(const QuantizedMatrix& q, std::uint8_t* flat);
void bnb4_to_canonical(const std::uint8_t* flat, QuantizedMatrix& q);

}  // namespace nibble::format
