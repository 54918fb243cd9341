// What core/buffer.h declares.
#pragma once

#include "nibble/core/buffer.h"

#include "nibble/core/impl/huge_pages.h"
#include "nibble/core/impl/memory.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NIBBLE_EXACT_BLOCKS 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define NIBBLE_EXACT_BLOCKS 1
#endif

namespace nibble::inline NIBBLE_ABI {

namespace detail {

inline constexpr std::size_t kAlignment = 64;

#if defined(NIBBLE_EXACT_BLOCKS)

/// Nothing behind the last byte, so that the sanitizer sees every step beyond it.
inline std::shared_ptr<std::byte> zeroed_block(std::size_t size) {
  auto* bytes = static_cast<std::byte*>(::operator new(size, std::align_val_t(kAlignment)));
  std::memset(bytes, 0, size);
  return {bytes, [](std::byte* p) { ::operator delete(p, std::align_val_t(kAlignment)); }};
}

#else

/// Aligned by hand: a block from glibc's aligned allocation (before 2.38) is no room for the next one of the same size
/// when it is freed, so that the heap would grow by a layer with every layer of a model. calloc's zeros cost nothing
/// until they are touched.
inline std::shared_ptr<std::byte> zeroed_block(std::size_t size) {
  if (size >= kHugePage) return huge_block(size);
  void* block = size <= SIZE_MAX - kAlignment ? std::calloc(size + kAlignment, 1) : nullptr;
  if (block == nullptr) throw std::bad_alloc();
  const std::size_t over = reinterpret_cast<std::uintptr_t>(block) % kAlignment;
  auto* aligned = static_cast<std::byte*>(block) + (kAlignment - over) % kAlignment;
  return {std::shared_ptr<void>(block, &std::free), aligned};
}

#endif

}  // namespace detail

NIBBLE_INLINE Buffer Buffer::allocate(std::size_t size) {
  auto block = needing_memory([] { return std::string("a buffer"); }, size, [&] { return detail::zeroed_block(size); });
  Buffer out;
  out.data_ = out.writable_ = block.get();
  out.size_ = size;
  out.owner_ = std::move(block);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI
