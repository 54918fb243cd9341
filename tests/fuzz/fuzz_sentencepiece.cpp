// Any bytes as tokenizer.model: a tokenizer, or nibble::Error.
#include "input.h"
#include "nibble/core/error.h"
#include "nibble/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  static const fuzz::Folder folder;
  folder.put("tokenizer.model", fuzz::text_of(data, size));
  try {
    const auto tokenizer = text::load_tokenizer(folder.path());
    for (const char* text :
         {"", "It is a truth universally acknowledged, that 1 813", "\xe2\x96\x81<s> \xf0\x9f\x99\x82\r\n"})
      (void)tokenizer->decode(tokenizer->encode(text));
  } catch (const Error&) {
  }
  return 0;
}
