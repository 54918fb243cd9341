// Threads through a hook: an engine brings its own pool, everyone else gets a good default.
//
// No result of the library depends on how many threads there are or on how work is split among them: a task writes
// its own outputs, and every reduction has an order fixed by the data.
#pragma once

#include <cstddef>

#include "nibble/core/function_ref.h"

namespace nibble {

/// The caller's thread pool. Implement two functions and pass it wherever an Executor& is taken.
class Executor {
 public:
  virtual ~Executor() = default;
  /// How many tasks can run at once, the calling thread included; at least 1.
  [[nodiscard]] virtual int concurrency() const noexcept = 0;
  /// Calls task(i) once for every i in [0, count), in any order on any threads, and returns when all are done.
  /// Tasks passed by this library never throw and never call run() on the same executor.
  virtual void run(std::size_t count, FunctionRef<void(std::size_t)> task) = 0;
};

/// Runs everything on the calling thread.
Executor& serial_executor();

/// A process-wide pool, made at first use: one thread per CPU the process may use, or NIBBLE_THREADS of them.
Executor& default_executor();

/// Splits [0, count) into consecutive ranges of at least `grain` items and calls body(begin, end) for each. An
/// exception thrown by a body is rethrown here; of several, the one of the lowest range.
void parallel_for(Executor& executor, std::size_t count, std::size_t grain,
                  FunctionRef<void(std::size_t begin, std::size_t end)> body);

}  // namespace nibble
