#include <algorithm>
#include <cstdlib>
#include <new>

#include "cuda_emulation/block.h"
#include "cuda_emulation/sanitizer.h"

namespace nibble::cuda_emulation {

SharedArray::SharedArray(std::size_t bytes) : bytes_(bytes), behind_(kZone + (kZone - bytes % kZone) % kZone) {
  const std::size_t whole = kZone + bytes + behind_;
  memory_ = static_cast<unsigned char*>(std::aligned_alloc(kZone, whole));
  if (memory_ == nullptr) throw std::bad_alloc();
  data_ = memory_ + kZone;
  std::fill(memory_, memory_ + whole, kZoneByte);
  std::fill(data_, data_ + bytes, static_cast<unsigned char>(0xff));  // a NaN in every float type
  if (!detects_bounds()) return;
  __asan_poison_memory_region(memory_, kZone);
  __asan_poison_memory_region(data_ + bytes, behind_);
}

SharedArray::~SharedArray() {
  if (detects_bounds()) {
    __asan_unpoison_memory_region(memory_, kZone);
    __asan_unpoison_memory_region(data_ + bytes_, behind_);
  }
  std::free(memory_);
}

bool SharedArray::contains(const void* p, std::size_t bytes) const {
  const auto* const first = static_cast<const unsigned char*>(p);
  return first >= data_ && first + bytes <= data_ + bytes_;
}

bool SharedArray::is_intact() const {
  const auto untouched = [](unsigned char byte) { return byte == kZoneByte; };
  return std::all_of(memory_, data_, untouched) && std::all_of(data_ + bytes_, data_ + bytes_ + behind_, untouched);
}

}  // namespace nibble::cuda_emulation
