// Inputs: files opened, mapped and read whole. How outputs are written: pending.h.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::files {

/// Error{io} (not_found where that is why): "cannot <what> <path>: <reason of errno>".
[[noreturn]] void throw_system_error(const char* what, const std::filesystem::path& path);

/// A descriptor that is closed with the object.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  [[nodiscard]] int get() const { return fd_; }
  /// Closes it now, and says whether that went well.
  bool close();

 private:
  int fd_;
};

/// A regular file to read: every input is opened here. A pipe, device or folder is Error{io} at once, where reading it
/// could wait for ever; so is a name that holds a NUL, since the system would open another file.
Descriptor open_input(const std::filesystem::path& path);

/// Whether anything, a folder or a regular file is there, links followed. False of a name that no file can have, and of
/// a link to nothing; where the system does not say, as in a folder that may not be searched, Error{io}. (What
/// <filesystem> has throws no Error, or gives a number back that looks like a size.)
bool exists(const std::filesystem::path& path);
bool is_directory(const std::filesystem::path& path);
bool is_regular_file(const std::filesystem::path& path);
/// The same of the name itself: whether it is a link.
bool is_link(const std::filesystem::path& path);
/// Bytes of a file; Error if there is none.
std::size_t size(const std::filesystem::path& path);

/// What lies in a folder, in no order, without "." and "..": nothing of one that cannot be opened, and `error` says
/// why. (The iterators of <filesystem> end the process when memory ends: what they call is noexcept, and allocates.)
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder, std::error_code& error);

/// The same; a folder that cannot be read is an error that names it.
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder);

/// Reads all of `bytes` from `offset`. Error{corrupt_file} if the file ends before.
void read_at(int file, std::span<std::byte> bytes, std::size_t offset, const std::filesystem::path& path);

/// The file's bytes, mapped until the last copy of the pointer goes.
std::shared_ptr<const std::span<const std::byte>> map_file(const std::filesystem::path& path);

/// Tells the system that the pages wholly inside `bytes`, which lie in a map, can leave memory; they come back when
/// read.
void release_pages(std::span<const std::byte> bytes);

/// Text of a small file; Error{corrupt_file} beyond 64 MiB.
std::string read_text(const std::filesystem::path& path);

/// Writes all of `bytes` at `offset`.
void write_at(int file, std::span<const std::byte> bytes, std::size_t offset, const std::filesystem::path& path);

}  // namespace nibble::inline NIBBLE_ABI::files
