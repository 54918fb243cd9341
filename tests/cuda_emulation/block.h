// The state of the machine during a launch: blocks, their warps and threads, and what each waits for. Internal.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "cuda_emulation/emulation.h"
#include "cuda_emulation/fiber.h"
#include "cuda_emulation/machine.h"

namespace nibble::cuda_emulation {

struct Block;

struct Thread {
  enum class State { ready, waiting, spinning, done };
  State state = State::ready;
  uint3 index{};
  unsigned linear = 0;  ///< Its number in the block.
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  const char* waits_in = "";  ///< While not ready.
  Site site{"", 0};
  std::vector<Copy> open_copies;
  std::deque<std::vector<Copy>> groups;
  char left = 0;  ///< Token: whatever the thread has done so far.

  [[nodiscard]] unsigned lane() const { return linear % kWarpSize; }
  [[nodiscard]] unsigned warp() const { return linear / kWarpSize; }
};

/// A meeting of threads: those who came, and two tokens for the race detector, used in turn, so that who leaves late is
/// not ordered after who has come to the next meeting.
struct Meeting {
  std::vector<Thread*> waiting;
  unsigned round = 0;
  Site site{"", 0};
  const void* caller = nullptr;
  char token[2] = {};
};

/// One mask's collectives in a warp.
struct WarpMeeting : Meeting {
  std::uint32_t mask = 0, arrived = 0;
  Collective what{};
  unsigned char contributions[2][kWarpSize * Contributions::kMaxBytes] = {};
};

/// An array of shared memory between two zones that nobody may write.
class SharedArray {
 public:
  explicit SharedArray(std::size_t bytes);
  ~SharedArray();
  SharedArray(const SharedArray&) = delete;
  SharedArray& operator=(const SharedArray&) = delete;
  [[nodiscard]] unsigned char* data() const { return data_; }
  [[nodiscard]] bool contains(const void* p, std::size_t bytes) const;
  /// Whether the zones hold what they held.
  [[nodiscard]] bool is_intact() const;

 private:
  static constexpr std::size_t kZone = 512;  // keeps the array aligned, and catches a whole warp's 16 bytes each
  static constexpr unsigned char kZoneByte = 0xa5;
  unsigned char* memory_;
  unsigned char* data_;
  std::size_t bytes_, behind_;  ///< The array's, and the zone's after it.
};

struct Block {
  uint3 index{};
  std::vector<Thread> threads;
  unsigned live = 0;
  Meeting barrier;
  std::vector<std::vector<std::unique_ptr<WarpMeeting>>> warps;
  std::map<const void*, std::unique_ptr<SharedArray>> statics;
  std::unique_ptr<SharedArray> dynamic;
  char begin = 0, end = 0;  ///< Tokens: before all threads, after all.
};

/// The one machine. `current` runs; null outside kernels.
struct Machine {
  Options options;
  Statistics statistics;
  Fiber host;
  Thread* current = nullptr;
  bool faulted = false;
  std::string fault;
  bool interleaves = false;  ///< Lets others run where a thread could go on.
};
Machine& machine();

/// Goes to the scheduler until the thread is chosen again.
void leave_thread();
/// Makes a meeting's waiting threads ready.
void wake(Meeting& meeting);
/// Opens the barrier if every live thread of the block has come.
void open_barrier_if_complete(Block& block);
/// "block (1,0,0) thread (5,0,0)".
std::string name_of(const Thread& thread);
/// Every thread that waits, and where: "block (0,0,0): threads 0-30, 32 in __syncthreads at gemm.cuh:40. …".
std::string describe_waiting(const std::vector<std::unique_ptr<Block>>& blocks);

}  // namespace nibble::cuda_emulation
