#include "files.h"

#include "mapped_files.h"
#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <new>
#include <sstream>
#include <system_error>

namespace nibble::files {

namespace {

/// Closes a descriptor on the way out of an error.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

void throw_system_error(const char* what, const std::filesystem::path& path) {
  const int reason = errno;
  throw Error(reason == ENOENT ? ErrorCode::not_found : ErrorCode::io,
              std::string("cannot ") + what + " '" + path.string() + "': " + std::generic_category().message(reason));
}

std::shared_ptr<const std::span<const std::byte>> map_file(const std::filesystem::path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) throw_system_error("open", path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_system_error("look at", path);
  if (!S_ISREG(status.st_mode)) throw Error(ErrorCode::io, "'" + path.string() + "' is not a regular file");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return std::make_shared<const std::span<const std::byte>>();
  void* bytes = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (bytes == MAP_FAILED) throw_system_error("map", path);
  const std::span<const std::byte>* view = nullptr;
  try {
    view = new std::span<const std::byte>(static_cast<const std::byte*>(bytes), size);
    watch_map(*view, fd.get(), path);
  } catch (...) {
    delete view;
    ::munmap(bytes, size);
    throw;
  }
  return {view, [](const std::span<const std::byte>* map) {
            unwatch_map(map->data());
            ::munmap(const_cast<std::byte*>(map->data()), map->size());
            delete map;
          }};
}

void release_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t begin = (address + page - 1) / page * page, end = (address + bytes.size()) / page * page;
  // Only advice: a failure costs memory, not correctness.
  if (end > begin)
    ::madvise(const_cast<std::byte*>(bytes.data()) + (begin - address), static_cast<std::size_t>(end - begin),
              MADV_DONTNEED);
}

std::string read_text(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw_system_error("open", path);
  const auto size = in.tellg();
  if (size < 0 || size > (64 << 20))
    throw Error(ErrorCode::corrupt_file, "'" + path.string() + "' is too large for what it should be");
  std::string text;
  needing_memory([&] { return "the text of '" + path.string() + "'"; }, static_cast<std::size_t>(size),
                 [&] { text.resize(static_cast<std::size_t>(size)); });
  in.seekg(0);
  in.read(text.data(), size);
  if (!in) throw_system_error("read", path);
  return text;
}

std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  auto out = path;
  out += ".tmp" + std::to_string(::getpid());
  return out;
}

void commit_file(int file, const std::filesystem::path& temporary, const std::filesystem::path& path) {
  std::filesystem::path folder;
  try {  // all that allocates comes before the file has its name
    folder = path.has_parent_path() ? path.parent_path() : ".";
  } catch (...) {
    ::close(file);
    throw;
  }
  const bool synced = ::fsync(file) == 0;
  const int reason = errno;
  const bool closed = ::close(file) == 0;
  if (!synced || !closed) {
    if (!synced) errno = reason;
    throw_system_error("sync", temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) throw_system_error("rename to", path);
  const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || ::fsync(directory.get()) != 0) throw_system_error("sync", folder);
}

void write_at(int file, std::span<const std::byte> bytes, std::size_t offset, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written =
        ::pwrite(file, bytes.data(), std::min(bytes.size(), std::size_t{1} << 30), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw_system_error("write", path);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::size_t>(written);
  }
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  const auto temporary = temporary_beside(path);
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) throw_system_error("create", temporary);
  try {
    write_at(file, std::as_bytes(std::span(text)), 0, temporary);
  } catch (...) {
    ::close(file);
    ::unlink(temporary.c_str());
    throw;
  }
  try {
    commit_file(file, temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void remove_quietly(const std::filesystem::path& path) noexcept {
  // Once more if memory ended (as an exception or as an error of the system's): what called this is on its way out, and
  // gives memory back as it goes.
  for (int tries = 0; tries < 3; ++tries) {
    try {
      std::error_code error;
      std::filesystem::remove_all(path, error);
      if (!error) return;
    } catch (const std::bad_alloc&) {
      continue;
    }
  }
}

namespace {

struct PendingList {
  std::mutex mutex;
  Pending* first = nullptr;
};

PendingList& pending_list() {
  static PendingList list;
  return list;
}

}  // namespace

Pending::Pending(const std::filesystem::path& path) : path_(path) {
  PendingList& list = pending_list();
  const std::lock_guard lock(list.mutex);
  next_ = list.first;
  list.first = this;
}

Pending::~Pending() {
  PendingList& list = pending_list();
  const std::lock_guard lock(list.mutex);
  Pending** at = &list.first;
  while (*at != this) at = &(*at)->next_;
  *at = next_;
}

void Pending::remove_all() noexcept {
  for (Pending* p = pending_list().first; p != nullptr; p = p->next_) remove_quietly(p->path_);
}

}  // namespace nibble::files
