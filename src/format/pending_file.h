// A file in the making: what streaming writers write into.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

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
  int file_ = -1;
};

}  // namespace nibble::format
