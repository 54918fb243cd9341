// What the reader and the writer of GGUF share.
#pragma once

#include <cstddef>
#include <string>

#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::format {

constexpr std::size_t kGgufAlignment = 32;  // without general.alignment
constexpr int kMaxGgufNesting = 4;

/// The next multiple of `alignment`, a power of two below 2^32; `n` is a place in a file.
constexpr std::size_t round_up(std::size_t n, std::size_t alignment) { return (n + alignment - 1) & ~(alignment - 1); }

/// The row of ggml_types() with this number; null if there is none.
const GgmlType* find_ggml_type(std::uint32_t id);

/// The bytes that a tensor's type and shape need; returns what is wrong with them, empty if nothing.
std::string gguf_tensor_bytes(const GgufTensor& tensor, std::size_t& bytes);

}  // namespace nibble::inline NIBBLE_ABI::format
