// Threads through a hook: an engine brings its own pool, everyone else gets a good default.
//
// No result of the library depends on how many threads there are or on how work is split among them: a task writes
// its own outputs, and every reduction has an order fixed by the data.
#pragma once

#include <cstddef>

#include "nibble/core/function_ref.h"

namespace nibble::inline NIBBLE_ABI {

/// The caller's thread pool. Implement two functions and pass it wherever an Executor& is taken.
///
/// What the library asks of it, and no more: run() may be called from several threads at once if the engine calls the
/// library from several, and need not be able to call itself. The library never calls run() from inside one of its
/// own tasks on the same executor: such nested work runs on the thread that asks for it (see parallel_for). An engine
/// whose own tasks, handed to its pool without the library, call the library with that same pool, says so with a
/// TaskScope around each of them, unless the pool can be called from its own tasks.
class Executor {
 public:
  virtual ~Executor() = default;
  /// How many tasks can run at once, the calling thread included; at least 1.
  [[nodiscard]] virtual int concurrency() const noexcept = 0;
  /// Calls task(i) once for every i in [0, count), in any order on any threads, and returns when all are done.
  /// Tasks passed by this library never throw and never call run() on the same executor.
  virtual void run(std::size_t count, FunctionRef<void(std::size_t)> task) = 0;
};

/// While one lives, its thread is in a task of `executor`: what the library would split among that executor's threads
/// it does on this one. parallel_for and default_executor() mark their own tasks; an engine's pool marks the tasks that
/// it starts by itself. Scopes nest, and end in the reverse order, on the thread that made them.
class TaskScope {
 public:
  explicit TaskScope(const Executor& executor) noexcept;
  ~TaskScope();
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;
  /// Whether the calling thread is in a task of `executor`, however deep.
  [[nodiscard]] static bool inside(const Executor& executor) noexcept;

 private:
  const Executor* executor_;
  const TaskScope* outer_;
};

/// Runs everything on the calling thread.
Executor& serial_executor();

/// A process-wide pool, made at first use: one thread per CPU the process may use, or NIBBLE_THREADS of them. Several
/// threads may call it at once; called from one of its own tasks it runs all on that task's thread. A child of fork()
/// makes threads of its own when it first needs them; a task that forks must end the child, or exec, before it returns:
/// run() throws Error{unsupported} there otherwise.
Executor& default_executor();

/// Splits [0, count) into consecutive ranges of at least `grain` items and calls body(begin, end) for each. An
/// exception thrown by a body is rethrown here; of several, the one of the lowest range. Called from a task of the same
/// executor, it is body(0, count) on the calling thread.
void parallel_for(Executor& executor, std::size_t count, std::size_t grain,
                  FunctionRef<void(std::size_t begin, std::size_t end)> body);

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/core/impl/parallel_inl.h"
#endif
