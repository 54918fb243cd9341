// Keeps an eye on the files that are mapped: whether they are still what they were.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::files {

/// Enters a map of the file `fd` (which may be closed afterwards) among those that are watched, until the map's end.
void watch_map(std::span<const std::byte> map, int fd, const std::filesystem::path& path);
void unwatch_map(const std::byte* map) noexcept;

/// Error{io} if the file that `address` is mapped from has become shorter or was written to since, or was found cut off
/// while it was read (see guard_mapped_files). Nothing for any other address. Costs a system call.
void require_intact(const std::byte* address);
/// The same of all maps that there are.
void require_all_intact();

}  // namespace nibble::inline NIBBLE_ABI::files
