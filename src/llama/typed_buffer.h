// Values as a tensor of another floating-point type.
#pragma once

#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/core/dtype.h"
#include "nibble/core/float_types.h"

namespace nibble::llama {

/// `type` is F32, F16 or BF16; rounds to nearest, ties to even.
inline Buffer typed_buffer(DType type, const std::vector<float>& values) {
  Buffer out = Buffer::allocate(values.size() * size_of(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (type == DType::f32) out.writable<float>()[i] = values[i];
    else if (type == DType::f16) out.writable<f16>()[i] = f16(values[i]);
    else out.writable<bf16>()[i] = bf16(values[i]);
  }
  return out;
}

}  // namespace nibble::llama
