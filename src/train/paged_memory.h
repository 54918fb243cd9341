// Memory that need not stay in memory: pages of a file without a name, which the system reads again when they are
// touched.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::train {

class PagedMemory {
 public:
  /// Zeros. The file's room is taken at once, so that a full disk is an error here and not a signal later. Error{io}.
  PagedMemory(std::size_t bytes, const std::filesystem::path& folder);
  ~PagedMemory();
  PagedMemory(const PagedMemory&) = delete;
  PagedMemory& operator=(const PagedMemory&) = delete;

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  /// Takes the pages of a part of it from the process; what they hold stays.
  static void release(std::span<std::byte> part) noexcept;

 private:
  std::span<std::byte> bytes_;
};

}  // namespace nibble::inline NIBBLE_ABI::train
