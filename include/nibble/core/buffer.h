// Bytes that are owned, or borrowed from something kept alive: a mapped checkpoint, say.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI {

/// Copies share the bytes. An owning buffer starts zeroed and is aligned to 64 bytes; one of 2 MiB and more lies in
/// huge pages where the system grants them.
class Buffer {
 public:
  Buffer() = default;
  /// Owns `size` new zero bytes. Error{out_of_memory}.
  static Buffer allocate(std::size_t size);
  /// Views bytes that live as long as `owner`; they are never written through the buffer.
  static Buffer view(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
    Buffer out;
    out.data_ = bytes.data();
    out.size_ = bytes.size();
    out.owner_ = std::move(owner);
    return out;
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const std::byte* data() const { return data_; }
  template <class T>
  [[nodiscard]] const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  /// Only for a buffer made by allocate(): nullptr for a view.
  template <class T>
  [[nodiscard]] T* writable() const {
    return reinterpret_cast<T*>(writable_);
  }

 private:
  const std::byte* data_ = nullptr;
  std::byte* writable_ = nullptr;
  std::size_t size_ = 0;
  std::shared_ptr<const void> owner_;
};

}  // namespace nibble::inline NIBBLE_ABI

#if defined(NIBBLE_HEADER_ONLY)
#include "nibble/core/impl/buffer_inl.h"
#endif
