// Progress and cancellation for long work, as a callback of the caller's.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

/// Called now and then with the fraction done in [0, 1] and what is being done; returns false to cancel, which makes
/// the running call throw Error{cancelled} before anything is written. Called from one thread at a time.
using Progress = std::function<bool(double fraction, std::string_view message)>;

/// Reports, and turns the caller's "no" into the error. An empty Progress is silence.
inline void report(const Progress& progress, double fraction, std::string_view message) {
  if (progress && !progress(fraction, message))
    throw Error(ErrorCode::cancelled, "cancelled during: " + std::string(message));
}

}  // namespace nibble::inline NIBBLE_ABI
