// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

#include "nibble/core/printable.h"

namespace nibble::inline NIBBLE_ABI {

/// What kind of thing went wrong; the message says which thing, where, and with what value.
enum class ErrorCode {
  invalid_argument,  ///< An option or a size that no call accepts: bits 9, group size 0, an empty matrix.
  shape_mismatch,    ///< Two shapes that must agree do not.
  non_finite,        ///< NaN or infinity where a finite value is needed.
  unsupported,       ///< A valid request that this build, backend or format cannot serve.
  not_found,         ///< A tensor, file, backend or method of that name does not exist.
  corrupt_file,      ///< A file, or a quantized matrix handed in, breaks the rules of its format.
  io,                ///< The operating system refused a read, write, map, sync or rename.
  cancelled,         ///< The caller's Progress asked to stop; nothing was written.
  out_of_memory,     ///< The system refused memory; the message says what for, and how much.
  device,            ///< An accelerator's runtime refused a call: no memory left, a launch that failed.
};

/// Thrown for every failure. No error is swallowed and no assert guards input. What a message quotes from files
/// cannot harm a terminal or a log: it is printable().
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(printable(message)), code_(code) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace nibble::inline NIBBLE_ABI
