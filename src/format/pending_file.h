// A file in the making: what streaming writers write into.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "core/pending.h"

namespace nibble::inline NIBBLE_ABI::format {

using files::PendingFile;

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

}  // namespace nibble::inline NIBBLE_ABI::format
