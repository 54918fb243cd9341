// Any pattern, a zero byte, and any text: matched in a time that grows with both only linearly, or nibble::Error.
#include <cstring>

#include "format/pattern.h"
#include "input.h"
#include "nibble/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  const std::string_view input = fuzz::text_of(data, size);
  const std::size_t zero = std::min(input.find('\0'), input.size());
  try {
    const format::Pattern pattern(input.substr(0, zero));
    (void)pattern.matches_start(input.substr(std::min(zero + 1, input.size())));
    (void)pattern.matches_start("model.layers.11.mlp.down_proj");
  } catch (const Error&) {
  }
  return 0;
}
