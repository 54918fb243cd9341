// What backend/backend.h declares.
#pragma once

#include <cstdlib>
#include <deque>
#include <mutex>
#include <utility>

#include "nibble/backend/backend.h"
#include "nibble/backend/impl/cpu_backend.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI {

namespace detail {

/// The library's only mutable global. Entries are never removed, so references to them stay good.
struct BackendRegistry {
  std::mutex mutex;
  std::deque<std::unique_ptr<Backend>> entries;

  BackendRegistry() {
    for (auto& backend : make_cpu_backends()) entries.push_back(std::move(backend));
  }
};

/// Never destroyed: a backend may own what its libraries tear down before it when the process ends.
inline BackendRegistry& backend_registry() {
  static BackendRegistry& r = *new BackendRegistry;
  return r;
}

}  // namespace detail

NIBBLE_INLINE void register_backend(std::unique_ptr<Backend> backend) {
  if (backend == nullptr) throw Error(ErrorCode::invalid_argument, "register_backend: there is no backend");
  detail::BackendRegistry& r = detail::backend_registry();
  const std::lock_guard lock(r.mutex);
  for (const auto& entry : r.entries)
    if (entry->name() == backend->name())
      throw Error(ErrorCode::invalid_argument,
                  "a backend named '" + std::string(backend->name()) + "' is registered already");
  r.entries.push_back(std::move(backend));
}

NIBBLE_INLINE std::vector<const Backend*> backends() {
  detail::BackendRegistry& r = detail::backend_registry();
  const std::lock_guard lock(r.mutex);
  std::vector<const Backend*> out;
  for (const auto& entry : r.entries) out.push_back(entry.get());
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
  static const Backend& best = [&]() -> const Backend& {
    for (const Backend* b : backends())
      if (b->available()) return *b;
    return find_backend("scalar");
  }();
  return best;
}

}  // namespace nibble::inline NIBBLE_ABI
