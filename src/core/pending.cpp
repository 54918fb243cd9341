#include "pending.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "core/output_path.h"
#include "nibble/core/impl/held_over_fork.h"

namespace nibble::inline NIBBLE_ABI::files {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnd = ".nibble-tmp";
constexpr std::size_t kDigits = 16;

/// A random name beside `path`, shortened where it would be too long for a file system.
fs::path temporary_beside(const fs::path& path) {
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != static_cast<ssize_t>(sizeof random))
    throw_system_error("draw a random name beside", path);
  std::array<char, kDigits + 1> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(random));
  std::string name = path.filename().string();
  std::size_t length = std::min(name.size(), longest_name(parent_of(path)) - (1 + kDigits + kEnd.size()));
  while (length < name.size() && length > 0 && (static_cast<unsigned char>(name[length]) & 0xc0) == 0x80) --length;
  return path.parent_path() / (name.substr(0, length) + "." + digits.data() + std::string(kEnd));
}

/// Whether the descriptor is what the name means: else somebody removed or replaced it.
bool is_at(int file, const fs::path& path) {
  struct stat opened {
  }, named{};
  return ::fstat(file, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

/// Locks what was just created. False if another process took it for dead in between, and has removed it. Where a file
/// system knows no locks, none is held, and nobody takes the file for dead.
bool lock_own(int file, const fs::path& path) {
  while (::flock(file, LOCK_EX) != 0 && errno == EINTR) continue;
  return is_at(file, path);
}

/// Whether a lock held by any process, on whichever machine, is seen here: of other file systems one cannot be sure.
bool locks_are_certain(int folder) {
  constexpr std::array<std::uint64_t, 8> local = {0xef53,       // ext2 to ext4
                                                  0x58465342,   // XFS
                                                  0x9123683e,   // Btrfs
                                                  0x01021994,   // tmpfs
                                                  0x858458f6,   // ramfs
                                                  0x794c7630,   // overlayfs
                                                  0x2fc12fc1,   // ZFS
                                                  0xf2f52010};  // F2FS
  struct statfs status {};
  if (::fstatfs(folder, &status) != 0) return false;
  const auto type = static_cast<std::uint64_t>(status.f_type) & 0xffffffffu;
  return std::find(local.begin(), local.end(), type) != local.end();
}

void remove_if_dead(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC));
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0 || status.st_uid != ::geteuid()) return;
  if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return;
  if (!locks_are_certain(file.get()) || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0 || !is_at(file.get(), path)) return;
  remove_quietly(path);  // what stays costs room only
}

/// Removes what killed processes left in a folder.
void remove_dead(const fs::path& folder) {
  std::error_code error;
  for (const fs::path& path : list_folder(folder, error))
    if (is_temporary_name(path.filename().string())) remove_if_dead(path);
}

void sync_folder(const fs::path& folder) {
  const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || ::fsync(directory.get()) != 0) throw_system_error("sync", folder);
}

}  // namespace

namespace {

/// A file, or a folder with all that is in it, `last` after the others; links are removed, not followed. True if
/// nothing is there any more.
bool remove_at(int folder, const char* name, const char* last) noexcept {
  if (::unlinkat(folder, name, 0) == 0 || errno == ENOENT) return true;
  if (errno != EISDIR && errno != EPERM) return false;
  const int opened = ::openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (opened < 0) return false;
  DIR* const entries = ::fdopendir(opened);
  if (entries == nullptr) {
    ::close(opened);
    return false;
  }
  while (const dirent* entry = ::readdir(entries))
    if (const std::string_view inner = entry->d_name; inner != "." && inner != ".." && inner != last)
      (void)remove_at(::dirfd(entries), entry->d_name, "");
  if (*last != '\0') (void)remove_at(::dirfd(entries), last, "");
  ::closedir(entries);
  return ::unlinkat(folder, name, AT_REMOVEDIR) == 0;
}

}  // namespace

bool remove_quietly(const fs::path& path, const char* last) noexcept {
  // Once more where memory ended: what called this is on its way out, and others give memory back meanwhile.
  for (int tries = 0; tries < 3; ++tries)
    if (remove_at(AT_FDCWD, path.c_str(), last)) return true;
  return false;
}

namespace {

constinit std::mutex pending_mutex;
constinit Pending* first_pending = nullptr;
const HeldOverFork<pending_mutex> pending_over_fork;

}  // namespace

Pending::Pending(const fs::path& path) : path_(path) {
  const std::lock_guard lock(pending_mutex);
  next_ = first_pending;
  first_pending = this;
}

Pending::~Pending() {
  const std::lock_guard lock(pending_mutex);
  Pending** at = &first_pending;
  while (*at != this) at = &(*at)->next_;
  *at = next_;
}

void Pending::remove_all() noexcept {
  // Held to the end, so that nothing new comes to be; but who holds it may be the thread that failed.
  std::unique_lock lock(pending_mutex, std::defer_lock);
  for (int tries = 0; tries < 100 && !lock.try_lock(); ++tries) std::this_thread::yield();
  if (lock.owns_lock()) lock.release();  // for ever: the process ends
  for (Pending* p = first_pending; p != nullptr; p = p->next_)
    if (!p->path_.empty()) remove_quietly(p->path_);
}

bool is_temporary_name(std::string_view name) {
  if (!name.ends_with(kEnd)) return false;
  name.remove_suffix(kEnd.size());
  return name.size() > kDigits && name[name.size() - kDigits - 1] == '.' &&
         name.substr(name.size() - kDigits).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

PendingFile::PendingFile(fs::path path) : path_(std::move(path)) {
  check_output({path_, OutputKind::file}, {});
  remove_dead(parent_of(path_));
  do {
    temporary_ = temporary_beside(path_);
    file_ =
        Descriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0666));
    if (file_.get() < 0 && errno != EEXIST) throw_system_error("create", temporary_);
  } while (file_.get() < 0 || !lock_own(file_.get(), temporary_));
  lock_ = Descriptor(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
  if (lock_.get() < 0) {
    const int reason = errno;
    ::unlink(temporary_.c_str());
    errno = reason;
    throw_system_error("hold", temporary_);
  }
}

PendingFile::~PendingFile() {
  if (lock_.get() >= 0) ::unlink(temporary_.c_str());
}

void PendingFile::write(std::span<const std::byte> bytes, std::size_t offset) {
  write_at(file_.get(), bytes, offset, temporary_);
}

void PendingFile::resize(std::size_t size) {
  if (::ftruncate(file_.get(), static_cast<off_t>(size)) != 0) throw_system_error("resize", temporary_);
}

void PendingFile::commit() {
  const fs::path folder = parent_of(path_);  // all that allocates comes before the file has its name
  if (::fsync(file_.get()) != 0) throw_system_error("sync", temporary_);
  if (!file_.close()) throw_system_error("close", temporary_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_system_error("rename to", path_);
  lock_ = Descriptor();
  sync_folder(folder);
}

void write_file(const fs::path& path, std::string_view text) {
  PendingFile file(path);
  file.write(std::as_bytes(std::span(text)), 0);
  file.commit();
}

PendingDirectory::PendingDirectory(fs::path final_path) : PendingDirectory() {
  final_ = without_slash(std::move(final_path));
  check_output({final_, OutputKind::new_folder}, {});
  create_parents();
  create_beside(final_, 0777);
}

PendingDirectory::PendingDirectory(Scratch, const fs::path& like) : PendingDirectory() { create_beside(like, 0700); }

void PendingDirectory::create_beside(const fs::path& path, unsigned mode) {
  remove_dead(parent_of(path));
  for (;;) {
    temporary_ = temporary_beside(path);
    if (::mkdir(temporary_.c_str(), mode) != 0) {
      const fs::path refused = std::exchange(temporary_, {});  // not ours to remove
      if (errno == EEXIST) continue;
      throw_system_error("create the folder", refused);
    }
    lock_ = Descriptor(::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (lock_.get() >= 0 && lock_own(lock_.get(), temporary_)) return;
    if (lock_.get() < 0 && errno != ENOENT) throw_system_error("open the folder", temporary_);
  }
}

PendingDirectory::PendingDirectory(fs::path final_path, fs::path temporary) : PendingDirectory() {
  final_ = without_slash(std::move(final_path));
  temporary_ = std::move(temporary);
  check_output({final_, OutputKind::new_folder}, {});
  if (!remove_quietly(temporary_) || ::mkdir(temporary_.c_str(), 0777) != 0)
    throw_system_error("create the folder", temporary_);
}

PendingDirectory::~PendingDirectory() {
  if (committed_) return;
  if (!temporary_.empty()) remove_quietly(temporary_);
  for (auto it = parents_.rbegin(); it != parents_.rend(); ++it)
    if (::rmdir(it->c_str()) != 0) return;
}

void PendingDirectory::create_parents() {
  std::error_code error;
  std::vector<fs::path> missing;
  for (fs::path p = parent_of(final_); !fs::exists(p, error) && !p.empty(); p = parent_of(p)) missing.push_back(p);
  for (auto it = missing.rbegin(); it != missing.rend(); ++it) {
    if (::mkdir(it->c_str(), 0777) == 0) parents_.push_back(*it);
    else if (errno != EEXIST) throw_system_error("create the folder", *it);
  }
}

void PendingDirectory::commit() {
  const fs::path folder = parent_of(final_);  // all that allocates comes before it has its name
  sync_folder(temporary_);
  int result = ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_.c_str(), RENAME_NOREPLACE);
  if (result != 0 && (errno == EINVAL || errno == ENOSYS)) {  // a file system without it
    struct stat there {};
    errno = EEXIST;
    if (::lstat(final_.c_str(), &there) != 0) result = std::rename(temporary_.c_str(), final_.c_str());
  }
  if (result != 0 && (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR))
    throw Error(ErrorCode::invalid_argument, "'" + final_.string() +
                                                 "' has been made by another process meanwhile; nothing was replaced, "
                                                 "choose another name");
  if (result != 0) throw_system_error("rename to", final_);
  committed_ = true;
  sync_folder(folder);
}

}  // namespace nibble::inline NIBBLE_ABI::files
