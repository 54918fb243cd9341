// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

#include "nibble/core/error_code.h"
#include "nibble/core/printable.h"

namespace nibble::inline NIBBLE_ABI {

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
