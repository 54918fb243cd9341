#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
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
  return {new std::span<const std::byte>(static_cast<const std::byte*>(bytes), size),
          [](const std::span<const std::byte>* map) {
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
  std::string text(static_cast<std::size_t>(size), '\0');
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
  const bool synced = ::fsync(file) == 0;
  const int reason = errno;
  const bool closed = ::close(file) == 0;
  if (!synced || !closed) {
    if (!synced) errno = reason;
    throw_system_error("sync", temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) throw_system_error("rename to", path);
  auto folder = path.parent_path();
  if (folder.empty()) folder = ".";
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
  commit_file(file, temporary, path);
}

}  // namespace nibble::files
