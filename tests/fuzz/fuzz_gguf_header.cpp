// Any bytes at all: the header parser accepts them or throws nibble::Error, nothing else.
#include <cstddef>
#include <cstdint>

#include "nibble/core/error.h"
#include "nibble/format/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto header = nibble::parse_gguf_header({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    for (const auto& t : header.tensors)
      if (header.data_start + t.offset + t.bytes > size) __builtin_trap();
  } catch (const nibble::Error&) {
  }
  return 0;
}
