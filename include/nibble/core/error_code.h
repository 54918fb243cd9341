// What kind of thing went wrong: the code of an exception (core/error.h), and of an error that is returned as a value
// (quantize/rows.h), where a program is compiled without exceptions.
#pragma once

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// The message that goes with a code says which thing, where, and with what value.
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

}  // namespace nibble::inline NIBBLE_ABI
