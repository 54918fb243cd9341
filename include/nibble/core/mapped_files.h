// Models are mapped, not read; what happens when somebody cuts such a file short while it is in use.
#pragma once

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// Reading beyond the end that a mapped file now has raises SIGBUS, which ends the process. After this call the library
/// answers the signal where it comes from a map of its own: the bytes read as zeros, and the file counts as damaged, so
/// that every call that was at work with it (loading, quantizing, evaluating, writing) ends in Error{io} that names it,
/// and nothing is written from it. Other SIGBUS go to the handler there was before.
///
/// A process-wide setting, and so the application's to make: the tool `nibble` does, the library never does by itself.
/// Without it a file that has become shorter is still noticed before each tensor's use, but not during it. May be
/// called again; safe from any thread.
void guard_mapped_files();

}  // namespace nibble::inline NIBBLE_ABI
