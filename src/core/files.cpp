#include "files.h"

#include "mapped_files.h"
#include "nibble/core/impl/memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string_view>
#include <system_error>

namespace nibble::inline NIBBLE_ABI::files {

namespace {

/// What is no regular file, in a word.
const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

/// What is there; of nothing the mode is 0, which no file has.
struct stat look_at(const std::filesystem::path& path, int flags = 0) {
  struct stat status {};
  if (path.native().find('\0') != std::string::npos) return status;  // the system would look at another file
  if (::fstatat(AT_FDCWD, path.c_str(), &status, flags) == 0) return status;
  if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG) throw_system_error("look at", path);
  return {};
}

}  // namespace

bool exists(const std::filesystem::path& path) { return look_at(path).st_mode != 0; }
bool is_directory(const std::filesystem::path& path) { return S_ISDIR(look_at(path).st_mode); }
bool is_regular_file(const std::filesystem::path& path) { return S_ISREG(look_at(path).st_mode); }
bool is_link(const std::filesystem::path& path) { return S_ISLNK(look_at(path, AT_SYMLINK_NOFOLLOW).st_mode); }

std::size_t size(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw_system_error("look at", path);
  return static_cast<std::size_t>(status.st_size);
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool Descriptor::close() { return ::close(std::exchange(fd_, -1)) == 0; }

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder, std::error_code& error) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(folder.c_str()), [](DIR* d) { return ::closedir(d); });
  std::vector<std::filesystem::path> out;
  const dirent* entry = nullptr;
  while (entries != nullptr && (errno = 0, entry = ::readdir(entries.get())) != nullptr)
    if (const std::string_view name = entry->d_name; name != "." && name != "..") out.push_back(folder / name);
  error = std::error_code(errno, std::generic_category());
  return out;
}

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> out = list_folder(folder, error);
  if (error) {
    errno = error.value();
    throw_system_error("list", folder);
  }
  return out;
}

void throw_system_error(const char* what, const std::filesystem::path& path) {
  const int reason = errno;
  throw Error(reason == ENOENT ? ErrorCode::not_found : ErrorCode::io,
              std::string("cannot ") + what + " '" + path.string() + "': " + std::generic_category().message(reason));
}

Descriptor open_input(const std::filesystem::path& path) {
  if (path.native().find('\0') != std::string::npos)
    throw Error(ErrorCode::io, "cannot open '" + path.string() + "': a file's name holds no NUL");
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (fd.get() < 0) throw_system_error("open", path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_system_error("look at", path);
  if (!S_ISREG(status.st_mode))
    throw Error(ErrorCode::io, "'" + path.string() + "' is " + kind_of(status.st_mode) + ", not a regular file");
  return fd;
}

void read_at(int file, std::span<std::byte> bytes, std::size_t offset, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::pread(file, bytes.data(), std::min(bytes.size(), std::size_t{1} << 30), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_system_error("read", path);
    if (n == 0) throw Error(ErrorCode::corrupt_file, "'" + path.string() + "' ends early");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::size_t>(n);
  }
}

std::shared_ptr<const std::span<const std::byte>> map_file(const std::filesystem::path& path) {
  const Descriptor fd = open_input(path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_system_error("look at", path);
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
  constexpr std::size_t most = 64 << 20;
  const Descriptor fd = open_input(path);
  std::string text;
  for (std::size_t had = 0;;) {
    const std::size_t room = std::min(had + std::max(had, std::size_t{1} << 16), most + 1);
    needing_memory([&] { return "the text of '" + path.string() + "'"; }, room, [&] { text.resize(room); });
    const ssize_t n = ::read(fd.get(), text.data() + had, text.size() - had);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_system_error("read", path);
    had += static_cast<std::size_t>(n);
    if (had > most) throw Error(ErrorCode::corrupt_file, "'" + path.string() + "' is too large for what it should be");
    if (n == 0) {
      text.resize(had);
      return text;
    }
  }
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

}  // namespace nibble::inline NIBBLE_ABI::files
