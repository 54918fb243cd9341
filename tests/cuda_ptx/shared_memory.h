// A block's shared memory, with the memory of who touched what since the last barrier.
#pragma once

#include <array>
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
      : data_(bytes, std::byte{0xff}), words_((bytes + word_bytes - 1) / word_bytes), warp_time_(warps) {}
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
  void end_copy(std::size_t offset, const std::byte* data, std::size_t bytes);

 private:
  /// The last access of one kind: by a thread, or by several (of one warp, or of the block).
  struct Mark {
    static constexpr std::int16_t nobody = -1, several = -2, everywhere = -3;
    std::int16_t thread = nobody, warp = nobody;
    std::uint32_t block_time = 0, warp_time = 0;
  };
  struct Marks {
    Mark read, write, atomic;
    bool is_copied_to = false;
  };
  /// Marks are kept of four bytes at once until an access to a part of them tells the bytes apart.
  static constexpr std::size_t word_bytes = 4;
  struct Word : Marks {
    int parts = -1;  ///< In parts_, where its bytes have marks of their own.
  };
  /// Calls f(marks) for the marks of each byte of the range, which may stand for several. Stops where f returns false.
  template <class F>
  bool for_each_mark(std::size_t offset, std::size_t bytes, const F& f);
  [[nodiscard]] bool is_ordered(const Mark& before, int thread) const;
  void note(Mark& mark, int thread) const;

  std::vector<std::byte> data_;
  std::vector<Word> words_;
  std::vector<std::array<Marks, word_bytes>> parts_;
  std::uint32_t block_time_ = 1;
  std::vector<std::uint32_t> warp_time_;
};

}  // namespace nibble::cuda_ptx
