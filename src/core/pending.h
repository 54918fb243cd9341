// Outputs in the making: a crash leaves the old one or the new one, never half of one.
//
// What is written has the name "<output>.<16 hexadecimal digits>.nibble-tmp" until it is whole. The digits are random
// and the file must not be there yet, so two processes, even of equal ids in two containers, never write into one file,
// and nothing planted under the name is followed. It is locked (flock) for as long as its process lives: of one whose
// lock is free the process is dead, and whoever writes into that folder next removes it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "core/files.h"

namespace nibble::inline NIBBLE_ABI::files {

/// Removes a file or a folder, if it is there; for ways out that cannot fail. False if something stays. (remove_all of
/// <filesystem> ends the process when memory ends: what it calls is noexcept, and allocates.) Of a folder the entry
/// `last` goes after all others, so that it still says whose the folder is if a kill leaves it half removed.
bool remove_quietly(const std::filesystem::path& path, const char* last = "") noexcept;

/// Something under a temporary name, for as long as it has that name.
class Pending {
 public:
  explicit Pending(const std::filesystem::path& path);
  ~Pending();
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  /// Removes all that there are, and lets none come or go any more: the last thing that a process does whose
  /// destructors will not run.
  static void remove_all() noexcept;

 private:
  const std::filesystem::path& path_;  ///< Of the object that this is a part of.
  Pending* next_ = nullptr;
};

/// A file under a temporary name until commit(); it vanishes if that never comes.
class PendingFile {
 public:
  /// Creates the temporary file. Error{invalid_argument} for a name that no file can have (check_output), Error{io}.
  explicit PendingFile(std::filesystem::path path);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  /// Writes all of `bytes` at `offset`; what is skipped reads as zeros.
  void write(std::span<const std::byte> bytes, std::size_t offset);
  /// Cuts the file to `size`, or fills it up with zeros.
  void resize(std::size_t size);
  /// Syncs and closes the file, gives it its name, in place of a file that has it, and syncs the folder.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  Pending pending_{temporary_};
  Descriptor file_, lock_;  ///< One opened file: the lock outlives the close whose result is asked for.
};

/// A whole small file, through a temporary one.
void write_file(const std::filesystem::path& path, std::string_view text);

/// A new folder under a temporary name until commit(), removed with all that is in it if that never comes.
class PendingDirectory {
 public:
  /// Creates it, and the folders above it that are not there. Error{invalid_argument} if `final_path` exists,
  /// Error{io}.
  explicit PendingDirectory(std::filesystem::path final_path);
  /// The same with a temporary name of the caller's, who alone uses it, on the same file system; what is there is
  /// removed.
  PendingDirectory(std::filesystem::path final_path, std::filesystem::path temporary);
  /// A folder for the time of the object, beside `like` and for this user alone: it is never committed.
  struct Scratch {};
  PendingDirectory(Scratch, const std::filesystem::path& like);
  ~PendingDirectory();
  PendingDirectory(const PendingDirectory&) = delete;
  PendingDirectory& operator=(const PendingDirectory&) = delete;
  /// Where to write.
  [[nodiscard]] const std::filesystem::path& path() const { return temporary_; }
  /// Gives the directory its name and syncs the folder it lies in. Error{invalid_argument} if something of that name
  /// has come to be since: nothing is replaced.
  void commit();

 private:
  PendingDirectory() = default;  // what delegates to it is destroyed even where it throws
  void create_parents();
  void create_beside(const std::filesystem::path& path, unsigned mode);

  std::filesystem::path final_, temporary_;
  Pending pending_{temporary_};
  std::vector<std::filesystem::path> parents_;  ///< Those that were made for it, the outermost first.
  Descriptor lock_;
  bool committed_ = false;
};

/// Whether a file's name is that of a temporary.
bool is_temporary_name(std::string_view name);

}  // namespace nibble::inline NIBBLE_ABI::files
