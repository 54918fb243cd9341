// What a block's accesses to shared memory cost: the passes that its 32 banks take, beside those that they would take
// if no two lanes met in a bank.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "tests/cuda_ptx/interpreter.h"

namespace nibble::cuda_ptx {

/// The passes that serve lanes which each access `bytes` (at most 16) from an offset on, at once: bank b holds the
/// 4-byte words b, b + 32, …, and serves one of them in a pass, to any number of lanes.
std::size_t bank_passes(std::span<const std::uint32_t> offsets, std::size_t bytes);

/// Threads run one after another here, so what a warp did at once is put together again: the n-th time that a lane
/// comes to an instruction belongs to the other lanes' n-th time. That is exact where lanes do not part in loops.
/// Accesses of 4 bytes and less are served for 32 lanes at once, of 8 for 16, of 16 for 8: NVIDIA's guide says so for
/// 4 bytes only, and the others' 512 bytes in four passes are the least that 32 banks allow.
class BankTraffic {
 public:
  void note(int thread, int instruction, std::size_t offset, std::size_t bytes);
  /// Eight rows of a matrix load.
  void note_matrix(const std::array<std::uint32_t, 8>& rows);
  /// At the block's end: adds to shared_passes and shared_ideal_passes.
  void finish(Statistics& statistics);

 private:
  static constexpr int warp_size = 32;
  struct Access {
    std::array<std::uint32_t, warp_size> offset{};
    std::uint32_t lanes = 0;
  };
  /// One instruction in one warp.
  struct Site {
    std::size_t bytes = 0;
    std::array<std::uint32_t, warp_size> times{};  ///< Of each lane.
    std::deque<Access> open;                       ///< Not all lanes have come.
    std::uint32_t closed = 0;                      ///< Accesses before those.
  };
  void count(const Access& access, std::size_t bytes);

  std::vector<std::vector<Site>> sites_;  ///< By warp, instruction.
  std::uint64_t passes_ = 0, ideal_ = 0;
};

}  // namespace nibble::cuda_ptx
