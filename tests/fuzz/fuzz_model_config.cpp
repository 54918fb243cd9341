// Any text as config.json: a configuration whose numbers hold together, or nibble::Error.
#include "input.h"
#include "nibble/core/error.h"
#include "nibble/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  try {
    const auto c = model::Config::parse(fuzz::text_of(data, size), "config.json");
    if (c.layers == 0 || c.heads == 0 || c.heads % c.kv_heads != 0 || c.head_dim % 2 != 0) __builtin_trap();
    if (c.turned_dim() > c.head_dim || c.turned_dim() % 2 != 0) __builtin_trap();
    if (c.head_dim <= 4096 && c.inverse_frequencies().size() != c.turned_dim() / 2) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
