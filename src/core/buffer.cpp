#include "nibble/core/buffer.h"

#include <cstring>
#include <new>

namespace nibble {

Buffer Buffer::allocate(std::size_t size) {
  constexpr std::align_val_t alignment{64};
  auto* bytes = static_cast<std::byte*>(::operator new(size, alignment));
  std::memset(bytes, 0, size);
  Buffer out;
  out.owner_ = std::shared_ptr<std::byte>(bytes, [](std::byte* p) { ::operator delete(p, alignment); });
  out.data_ = bytes;
  out.writable_ = bytes;
  out.size_ = size;
  return out;
}

}  // namespace nibble
