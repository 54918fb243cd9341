// Any bytes as an importance matrix, of either form: one whose every entry can be asked and written, or nibble::Error.
#include <cmath>

#include "input.h"
#include "nibble/core/error.h"
#include "nibble/format/imatrix.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  const fuzz::MemoryFile file(fuzz::text_of(data, size));
  try {
    const ImportanceMatrix m = ImportanceMatrix::read(file.path());
    for (const auto& [name, e] : m.entries())
      for (std::size_t expert = 0; expert < e.experts(); ++expert)
        for (const float x : m.mean_squares(name, e.columns, expert, e.experts()))
          if (!(x >= 0)) __builtin_trap();
    ImportanceMatrix twice = m;
    twice.merge(m);
  } catch (const Error&) {
  }
  return 0;
}
