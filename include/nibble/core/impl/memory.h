// What an error says when memory ends: what needed how much.
#pragma once

#include <cstddef>
#include <new>
#include <string>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

/// Error{out_of_memory}: "no memory left for <what>: <bytes> bytes were needed".
[[noreturn]] inline void throw_out_of_memory(const std::string& what, std::size_t bytes) {
  throw Error(ErrorCode::out_of_memory,
              "no memory left for " + what + ": " + std::to_string(bytes) + " bytes were needed");
}

/// action(), whose errors of memory become Error{out_of_memory} that names `what` is worked on and its size. For steps
/// of some size: a tensor, a file, a block; not for each allocation. `name` is only called then.
template <class Name, class Action>
decltype(auto) needing_memory(const Name& name, std::size_t bytes, Action&& action) {
  try {
    return action();
  } catch (const std::bad_alloc&) {
    throw_out_of_memory(name(), bytes);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::out_of_memory) throw;
    throw Error(e.code(), name() + ": " + e.what());
  }
}

}  // namespace nibble::inline NIBBLE_ABI
