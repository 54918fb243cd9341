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
    mark = {static_cast<std::int16_t>(thread), static_cast<std::int16_t>(warp), block_time_, now};
  } else if (mark.warp == warp) {
    mark = {Mark::several, mark.warp, block_time_, now};
  } else {
    mark.thread = Mark::everywhere;
  }
}

template <class F>
bool SharedMemory::for_each_mark(std::size_t offset, std::size_t bytes, const F& f) {
  for (std::size_t at = offset, end = offset + bytes; at < end;) {
    Word& word = words_[at / word_bytes];
    const std::size_t first = at % word_bytes, last = std::min(word_bytes, first + (end - at));
    if (word.parts < 0 && last - first < word_bytes) {
      word.parts = static_cast<int>(parts_.size());
      parts_.emplace_back().fill(word);
    }
    if (word.parts < 0) {
      if (!f(word)) return false;
    } else {
      for (std::size_t byte = first; byte < last; ++byte)
        if (!f(parts_[static_cast<std::size_t>(word.parts)][byte])) return false;
    }
    at += last - first;
  }
  return true;
}

std::string SharedMemory::touch(int thread, std::size_t offset, std::size_t bytes, Access access) {
  std::string wrong;
  for_each_mark(offset, bytes, [&](Marks& m) {
    const bool races = !is_ordered(m.write, thread) || (access != Access::read && !is_ordered(m.read, thread)) ||
                       (access != Access::atomic && !is_ordered(m.atomic, thread));
    if (m.is_copied_to) {
      wrong = "shared memory is touched while a copy to it is under way";
    } else if (races) {
      const Mark& other = !is_ordered(m.write, thread) ? m.write : !is_ordered(m.read, thread) ? m.read : m.atomic;
      wrong = "shared memory race with " +
              (other.thread >= 0 ? "thread " + std::to_string(other.thread) : std::string("several threads"));
    } else {
      note(access == Access::read ? m.read : access == Access::write ? m.write : m.atomic, thread);
      return true;
    }
    return false;
  });
  return wrong;
}

std::string SharedMemory::begin_copy(int thread, std::size_t offset, std::size_t bytes) {
  std::string wrong = touch(thread, offset, bytes, Access::write);
  if (!wrong.empty()) return wrong;
  for_each_mark(offset, bytes, [](Marks& m) { return m.is_copied_to = true; });
  std::fill_n(data_.begin() + static_cast<std::ptrdiff_t>(offset), bytes, std::byte{0xff});
  return {};
}

void SharedMemory::end_copy(std::size_t offset, const std::byte* data, std::size_t bytes) {
  std::copy_n(data, bytes, data_.begin() + static_cast<std::ptrdiff_t>(offset));
  for_each_mark(offset, bytes, [&](Marks& m) {
    m.is_copied_to = false;
    // The copy's end is a write of the thread that waits: at the time of its wait.
    m.write.block_time = block_time_;
    m.write.warp_time = warp_time_[static_cast<std::size_t>(m.write.warp)];
    return true;
  });
}

}  // namespace nibble::cuda_ptx
