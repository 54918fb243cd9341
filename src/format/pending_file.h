// A file in the making: what streaming writers write into.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "core/files.h"

namespace nibble::format {

/// It has a temporary name until commit(), and vanishes if that never comes.
class PendingFile {
 public:
  /// Creates the temporary file. Error{io}, as for all of these.
  explicit PendingFile(std::filesystem::path path);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  /// Writes all of `bytes` at `offset`; what is skipped reads as zeros.
  void write(std::span<const std::byte> bytes, std::size_t offset);
  /// Cuts the file to `size`, or fills it up with zeros.
  void resize(std::size_t size);
  /// Syncs and closes the file, gives it its name and syncs the folder.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  files::Pending pending_{temporary_};
  int file_ = -1;
};

/// One whose tensors are declared first, and then written in any order, each once.
class PendingTensors {
 public:
  explicit PendingTensors(std::filesystem::path path) : file_(std::move(path)) {}
  [[nodiscard]] PendingFile& file() { return file_; }

  /// Error{invalid_argument} if the name is taken.
  void declare(const std::string& name, std::size_t offset, std::size_t bytes);
  /// All the bytes of one. Error{not_found}, Error{shape_mismatch} if the size is another, Error{io}.
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// Commits the file. Error{invalid_argument} names a tensor never written.
  void finish();

 private:
  struct Place {
    std::size_t offset, bytes;
  };
  PendingFile file_;
  std::map<std::string, Place> pending_;
};

}  // namespace nibble::format
