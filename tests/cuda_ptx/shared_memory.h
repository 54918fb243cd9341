// A block's shared memory, with the memory of who touched what since the last barrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cuda_ptx {

class SharedMemory {
 public:
  enum class Access { read, write, atomic };

  /// Filled with NaN bits. `warps`: of the block.
  SharedMemory(std::size_t bytes, std::size_t warps)
      : data_(bytes, std::byte{0xff}), marks_(bytes), warp_time_(warps) {}
  SharedMemory() = default;

  [[nodiscard]] std::size_t size() const { return data_.size(); }
  std::byte* data() { return data_.data(); }

  /// Notes the access by a thread to [offset, offset + bytes), inside. Returns what is wrong with it, or nothing:
  /// another thread touched a byte since the last barrier that orders the two (of the block, or of the warp for lanes
  /// of one), and one of them writes; or an asynchronous copy to it is under way.
  std::string touch(int thread, std::size_t offset, std::size_t bytes, Access access);

  void block_barrier() { ++block_time_; }
  void warp_barrier(std::size_t warp) { ++warp_time_[warp]; }

  /// An asynchronous copy's target, from its issue (as a write of the thread) to its end. It holds NaN bits meanwhile.
  std::string begin_copy(int thread, std::size_t offset, std::size_t bytes);
  void end_copy(std::size_t offset, const std::vector<std::byte>& bytes);

 private:
  /// The last access of one kind to a byte: by a thread, or by several (of one warp, or of the block).
  struct Mark {
    static constexpr int nobody = -1, several = -2, everywhere = -3;
    int thread = nobody;
    int warp = nobody;
    std::uint32_t block_time = 0, warp_time = 0;
  };
  struct Marks {
    Mark read, write, atomic;
    int copies = 0;
  };
  [[nodiscard]] bool is_ordered(const Mark& before, int thread) const;
  void note(Mark& mark, int thread) const;

  std::vector<std::byte> data_;
  std::vector<Marks> marks_;
  std::uint32_t block_time_ = 1;
  std::vector<std::uint32_t> warp_time_;
};

}  // namespace nibble::cuda_ptx
