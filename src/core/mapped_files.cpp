#include "mapped_files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "files.h"
#include "nibble/core/impl/held_over_fork.h"
#include "nibble/core/mapped_files.h"

namespace nibble::inline NIBBLE_ABI::files {

namespace {

/// One map. Entries are made once and used again, never freed: the signal's handler walks the list without a lock.
struct Watch {
  std::atomic<const std::byte*> begin{nullptr};  ///< Null: free.
  std::atomic<std::size_t> size{0};
  std::atomic<bool> damaged{false};
  Watch* next = nullptr;
  // Not for the handler:
  int file = -1;
  std::string path;
  struct timespec written {};
};

std::atomic<Watch*> first_watch{nullptr};
struct sigaction handler_before {};

constinit std::mutex watch_mutex;
const HeldOverFork<watch_mutex> watch_over_fork;

Watch* watch_of(const std::byte* address) {
  for (Watch* w = first_watch.load(std::memory_order_acquire); w != nullptr; w = w->next) {
    const std::byte* begin = w->begin.load(std::memory_order_acquire);
    if (begin != nullptr && address >= begin && address < begin + w->size.load(std::memory_order_relaxed)) return w;
  }
  return nullptr;
}

/// Puts a page of zeros where a page of the file is gone. Only system calls that a handler may make.
void on_bus_error(int number, siginfo_t* info, void* context) {
  Watch* w = watch_of(static_cast<const std::byte*>(info->si_addr));
  if (w != nullptr) {
    const auto size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    auto* const address = static_cast<std::byte*>(info->si_addr);
    std::byte* const page = address - reinterpret_cast<std::uintptr_t>(address) % size;
    w->damaged.store(true, std::memory_order_release);
    if (::mmap(page, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) return;
  }
  if ((handler_before.sa_flags & SA_SIGINFO) != 0 && handler_before.sa_sigaction != nullptr)
    return handler_before.sa_sigaction(number, info, context);
  if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN)
    return handler_before.sa_handler(number);
  ::signal(number, SIG_DFL);  // the instruction is run again, and ends the process as it would have
}

void check(const Watch& w) {
  struct stat now {};
  const bool seen = ::fstat(w.file, &now) == 0;
  const auto size = static_cast<std::size_t>(now.st_size);
  const std::string file = "'" + w.path + "'", mapped = std::to_string(w.size.load());
  if (seen && size < w.size.load())
    throw Error(ErrorCode::io, file + " was cut off while it was in use: " + std::to_string(size) + " of its " +
                                   mapped +
                                   " bytes are left; what was read of it cannot be trusted. Put the file back and "
                                   "start again");
  if (w.damaged.load() || !seen || now.st_mtim.tv_sec != w.written.tv_sec || now.st_mtim.tv_nsec != w.written.tv_nsec)
    throw Error(ErrorCode::io, file +
                                   " was written to while it was in use; what was read of it cannot be trusted. "
                                   "Start again when it is whole");
}

}  // namespace

void watch_map(std::span<const std::byte> map, int fd, const std::filesystem::path& path) {
  std::string name = path.string();
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_system_error("look at", path);
  const std::lock_guard lock(watch_mutex);
  Watch* w = first_watch.load();
  while (w != nullptr && w->begin.load() != nullptr) w = w->next;
  const bool fresh = w == nullptr;
  if (fresh) w = new Watch;
  w->file = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (w->file < 0) {
    if (fresh) delete w;
    throw_system_error("keep open", path);
  }
  w->path = std::move(name);
  w->written = status.st_mtim;
  w->damaged.store(false);
  w->size.store(map.size());
  if (fresh) {
    w->next = first_watch.load();
    first_watch.store(w, std::memory_order_release);
  }
  w->begin.store(map.data(), std::memory_order_release);
}

void unwatch_map(const std::byte* map) noexcept {
  const std::lock_guard lock(watch_mutex);
  Watch* w = watch_of(map);
  if (w == nullptr) return;
  w->begin.store(nullptr, std::memory_order_release);
  ::close(w->file);
}

void require_intact(const std::byte* address) {
  const std::lock_guard lock(watch_mutex);
  if (const Watch* w = watch_of(address)) check(*w);
}

void require_all_intact() {
  const std::lock_guard lock(watch_mutex);
  for (const Watch* w = first_watch.load(); w != nullptr; w = w->next)
    if (w->begin.load() != nullptr) check(*w);
}

}  // namespace nibble::inline NIBBLE_ABI::files

namespace nibble::inline NIBBLE_ABI {

void guard_mapped_files() {
  static constinit std::atomic<bool> installed{false};
  if (installed.exchange(true)) return;
  struct sigaction ours {};
  ours.sa_sigaction = files::on_bus_error;
  ours.sa_flags = SA_SIGINFO;
  sigemptyset(&ours.sa_mask);
  if (::sigaction(SIGBUS, &ours, &files::handler_before) != 0) installed.store(false);
}

}  // namespace nibble::inline NIBBLE_ABI
