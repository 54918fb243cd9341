// Whole files: mapped for reading, written so that a crash leaves the old one or the new one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "nibble/core/error.h"

namespace nibble::files {

/// Error{io} (not_found where that is why): "cannot <what> <path>: <reason of errno>".
[[noreturn]] void throw_system_error(const char* what, const std::filesystem::path& path);

/// The file's bytes, mapped until the last copy of the pointer goes.
std::shared_ptr<const std::span<const std::byte>> map_file(const std::filesystem::path& path);

/// Tells the system that the pages wholly inside `bytes`, which lie in a map, can leave memory; they come back when
/// read.
void release_pages(std::span<const std::byte> bytes);

/// Text of a small file; Error{corrupt_file} beyond 64 MiB.
std::string read_text(const std::filesystem::path& path);

/// A name beside `path` that no other process uses.
std::filesystem::path temporary_beside(const std::filesystem::path& path);
/// Syncs and closes `file`, renames it to `path` and syncs the folder.
void commit_file(int file, const std::filesystem::path& temporary, const std::filesystem::path& path);
/// Writes all of `bytes` at `offset`.
void write_at(int file, std::span<const std::byte> bytes, std::size_t offset, const std::filesystem::path& path);
/// Removes a file or a folder, if it is there; for ways out that cannot fail.
void remove_quietly(const std::filesystem::path& path) noexcept;

/// Something under a temporary name, for as long as it has that name.
class Pending {
 public:
  explicit Pending(const std::filesystem::path& path);
  ~Pending();
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  /// Removes all that there are: what a process does whose destructors will not run.
  static void remove_all() noexcept;

 private:
  const std::filesystem::path& path_;  ///< Of the object that this is a part of.
  Pending* next_ = nullptr;
};

/// A whole small file, through a temporary one.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace nibble::files
