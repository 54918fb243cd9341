// What backend/backend.h declares.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu_backend.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// One of the list of backends, which only grows. It has no lock, so that a child of fork() finds none that is held.
struct RegisteredBackend {
  std::unique_ptr<Backend> backend;
  std::atomic<RegisteredBackend*> next{nullptr};

  explicit RegisteredBackend(std::unique_ptr<Backend> b) : backend(std::move(b)) {}
  ~RegisteredBackend() { delete next.load(); }
  RegisteredBackend(const RegisteredBackend&) = delete;
  RegisteredBackend& operator=(const RegisteredBackend&) = delete;
};

/// Never destroyed: a backend may own what its libraries tear down before it when the process ends.
inline constinit std::atomic<RegisteredBackend*> registered_backends{nullptr};

/// The first of the list, with those of the CPU made. Of two threads that make them at once one keeps its own.
inline RegisteredBackend& first_backend() {
  RegisteredBackend* first = registered_backends.load(std::memory_order_acquire);
  if (first != nullptr) return *first;
  std::unique_ptr<RegisteredBackend> made;
  std::vector<std::unique_ptr<Backend>> backends = make_cpu_backends();
  for (; !backends.empty(); backends.pop_back()) {
    auto entry = std::make_unique<RegisteredBackend>(std::move(backends.back()));
    entry->next.store(made.release(), std::memory_order_relaxed);
    made = std::move(entry);
  }
  if (registered_backends.compare_exchange_strong(first, made.get(), std::memory_order_acq_rel)) first = made.release();
  return *first;
}

}  // namespace detail

NIBBLE_INLINE void register_backend(std::unique_ptr<Backend> backend) {
  if (backend == nullptr) throw Error(ErrorCode::invalid_argument, "register_backend: there is no backend");
  auto entry = std::make_unique<detail::RegisteredBackend>(std::move(backend));
  for (detail::RegisteredBackend* there = &detail::first_backend();;) {
    if (there->backend->name() == entry->backend->name())
      throw Error(ErrorCode::invalid_argument,
                  "a backend named '" + std::string(entry->backend->name()) + "' is registered already");
    detail::RegisteredBackend* next = nullptr;
    if (there->next.compare_exchange_strong(next, entry.get(), std::memory_order_acq_rel)) {
      (void)entry.release();
      return;
    }
    there = next;
  }
}

NIBBLE_INLINE std::vector<const Backend*> backends() {
  std::vector<const Backend*> out;
  for (const auto* entry = &detail::first_backend(); entry != nullptr;
       entry = entry->next.load(std::memory_order_acquire))
    out.push_back(entry->backend.get());
  return out;
}

NIBBLE_INLINE const Backend& find_backend(std::string_view name) {
  std::string names;
  for (const Backend* b : backends()) {
    if (b->name() == name) {
      if (b->available()) return *b;
      if (const std::string why = b->why_unavailable(); !why.empty())
        throw Error(ErrorCode::unsupported, "the backend '" + std::string(name) + "' cannot run here: " + why);
      throw Error(ErrorCode::unsupported, "this CPU cannot run the backend '" + std::string(name) + "' (" +
                                              std::string(b->description()) + ")");
    }
    names += (names.empty() ? "" : ", ") + std::string(b->name());
  }
  const char* hint = name == "cuda" ? "; this program does not use the library nibble::cuda, which a build with "
                                      "NIBBLE_CUDA has and nibble::cuda::register_backend() brings in"
                                    : "";
  throw Error(ErrorCode::not_found, "there is no backend '" + std::string(name) + "'; there are " + names + hint);
}

NIBBLE_INLINE const Backend& default_backend() {
  if (const char* wanted = std::getenv("NIBBLE_BACKEND"); wanted != nullptr && *wanted != '\0')
    return find_backend(wanted);
  static constinit std::atomic<const Backend*> best{nullptr};
  if (const Backend* known = best.load(std::memory_order_acquire)) return *known;
  const std::vector<const Backend*> all = backends();
  const auto found = std::ranges::find_if(all, [](const Backend* b) { return b->available(); });
  const Backend* first = found != all.end() ? *found : &find_backend("scalar");
  best.store(first, std::memory_order_release);
  return *first;
}

}  // namespace nibble::inline NIBBLE_ABI
