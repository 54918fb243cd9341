// Large blocks in huge pages, which are read an eighth faster where each byte is met once a token: a page of 4 KiB
// takes an entry of the processor's translation buffers for every 64 cache lines, one of 2 MiB for every 32,768.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::detail {

/// Of x86-64, and of AArch64 with small pages of 4 KiB.
inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

/// Zero bytes in a mapping of their own that begins where a huge page may. The system is asked for huge pages and need
/// not give them (/sys/kernel/mm/transparent_hugepage/enabled: "never" is the way out): then the bytes lie in small
/// ones. Pages are taken when they are first written, and given back when the block goes. std::bad_alloc.
inline std::shared_ptr<std::byte> huge_block(std::size_t size) {
  if (size > SIZE_MAX - kHugePage) throw std::bad_alloc();
  // One more, of which what is left before the first and behind the last byte goes back at once.
  const std::size_t reserved = size + kHugePage;
  void* const mapped = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const first = static_cast<std::byte*>(mapped);
  const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(first) % kHugePage) % kHugePage;
  std::byte* const bytes = first + before;
  const auto small_page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t used = (size + small_page - 1) / small_page * small_page;
  if (before != 0) ::munmap(first, before);
  if (before + used < reserved) ::munmap(bytes + used, reserved - before - used);
  (void)::madvise(bytes, size, MADV_HUGEPAGE);
  return {bytes, [used](std::byte* p) { ::munmap(p, used); }};
}

}  // namespace nibble::inline NIBBLE_ABI::detail
