// Any bytes as a Hessian's file: one that can be saved and read back, or nibble::Error.
#include "input.h"
#include "nibble/core/error.h"
#include "nibble/solver/hessian.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  const fuzz::MemoryFile file(fuzz::text_of(data, size));
  try {
    const Hessian h = Hessian::load(file.path());
    for (std::size_t i = 0; i < h.channels(); ++i)
      if (!(h.sum(i, i) >= 0)) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
