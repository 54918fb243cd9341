// Values as a tensor of another floating-point type.
#pragma once

#include <string_view>
#include <vector>

#include "nibble/core/buffer.h"
#include "nibble/core/impl/downcast.h"
#include "nibble/core/visit_float.h"

namespace nibble::inline NIBBLE_ABI {

/// `type` is F32, F16 or BF16; rounds to nearest, ties to even. Error{non_finite} names the place in tensor `name`, of
/// rows of `cols`, of the first value that is not finite, or would not be in `type`.
inline Buffer typed_buffer(DType type, const std::vector<float>& values, std::string_view name, std::size_t cols) {
  check_downcast(values, type, name, cols);
  Buffer out = Buffer::allocate(values.size() * size_of(type));
  downcast_floats(type, values.data(), values.size(), out.writable<std::byte>());
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
