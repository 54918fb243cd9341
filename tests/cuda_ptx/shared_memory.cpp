#include "tests/cuda_ptx/shared_memory.h"

#include <algorithm>

namespace nibble::cuda_ptx {

namespace {
constexpr int warp_size = 32;
}

bool SharedMemory::is_ordered(const Mark& before, int thread) const {
  if (before.block_time != block_time_ || before.thread == thread || before.thread == Mark::nobody) return true;
  const int warp = thread / warp_size;
  return before.thread != Mark::everywhere && before.warp == warp &&
         before.warp_time < warp_time_[static_cast<std::size_t>(warp)];
}

void SharedMemory::note(Mark& mark, int thread) const {
  const int warp = thread / warp_size;
  const std::uint32_t now = warp_time_[static_cast<std::size_t>(warp)];
  if (mark.block_time != block_time_ || is_ordered(mark, thread)) {
    mark = {thread, warp, block_time_, now};
  } else if (mark.warp == warp) {
    mark = {Mark::several, warp, block_time_, now};
  } else {
    mark.thread = Mark::everywhere;
  }
}

std::string SharedMemory::touch(int thread, std::size_t offset, std::size_t bytes, Access access) {
  for (std::size_t at = offset; at < offset + bytes; ++at) {
    Marks& m = marks_[at];
    if (m.copies > 0) return "shared memory is touched while a copy to it is under way";
    const bool races = !is_ordered(m.write, thread) || (access != Access::read && !is_ordered(m.read, thread)) ||
                       (access != Access::atomic && !is_ordered(m.atomic, thread));
    if (races) {
      const Mark& other = !is_ordered(m.write, thread) ? m.write : !is_ordered(m.read, thread) ? m.read : m.atomic;
      return "shared memory race with " +
             (other.thread >= 0 ? "thread " + std::to_string(other.thread) : std::string("several threads"));
    }
    note(access == Access::read ? m.read : access == Access::write ? m.write : m.atomic, thread);
  }
  return {};
}

std::string SharedMemory::begin_copy(int thread, std::size_t offset, std::size_t bytes) {
  std::string wrong = touch(thread, offset, bytes, Access::write);
  if (!wrong.empty()) return wrong;
  for (std::size_t at = offset; at < offset + bytes; ++at) ++marks_[at].copies;
  std::fill_n(data_.begin() + static_cast<std::ptrdiff_t>(offset), bytes, std::byte{0xff});
  return {};
}

void SharedMemory::end_copy(std::size_t offset, const std::vector<std::byte>& bytes) {
  std::copy(bytes.begin(), bytes.end(), data_.begin() + static_cast<std::ptrdiff_t>(offset));
  for (std::size_t at = offset; at < offset + bytes.size(); ++at) {
    Mark& write = marks_[at].write;
    --marks_[at].copies;
    // The copy's end is a write of the thread that waits: at the time of its wait.
    write.block_time = block_time_;
    write.warp_time = warp_time_[static_cast<std::size_t>(write.warp)];
  }
}

}  // namespace nibble::cuda_ptx
