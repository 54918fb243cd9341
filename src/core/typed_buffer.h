// Values as a tensor of another floating-point type.
#pragma once

#include <string_view>
#include <vector>

#include "narrow.h"
#include "nibble/core/buffer.h"
#include "nibble/core/dtype.h"
#include "nibble/core/float_types.h"

namespace nibble::inline NIBBLE_ABI {

/// `type` is F32, F16 or BF16; rounds to nearest, ties to even. Error{non_finite} names the place in tensor `name`, of
/// rows of `cols`, of the first value that is not finite, or would not be in `type`.
inline Buffer typed_buffer(DType type, const std::vector<float>& values, std::string_view name, std::size_t cols) {
  check_narrowed(values, type, name, cols);
  Buffer out = Buffer::allocate(values.size() * size_of(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (type == DType::f32) out.writable<float>()[i] = values[i];
    else if (type == DType::f16) out.writable<f16>()[i] = f16(values[i]);
    else out.writable<bf16>()[i] = bf16(values[i]);
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
