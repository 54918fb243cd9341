// The scheduler: which blocks are resident, and which thread runs next.
#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>

#include "cuda_emulation/block.h"
#include "cuda_emulation/sanitizer.h"

// The variables that device_launch_parameters.h declares, constant, for kernels: here they change with each switch.
extern "C" {
uint3 nibble_thread_index asm("threadIdx");
uint3 nibble_block_index asm("blockIdx");
dim3 nibble_block_shape asm("blockDim");
dim3 nibble_grid_shape asm("gridDim");
int nibble_warp_size asm("warpSize") = static_cast<int>(nibble::cuda_emulation::kWarpSize);
}

namespace nibble::cuda_emulation {

Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

Options& options() { return machine().options; }
const Statistics& statistics() { return machine().statistics; }
void reset_statistics() { machine().statistics = {}; }

namespace {

constexpr unsigned kMaxThreads = 1024;              // of a block
constexpr std::size_t kMaxSharedBytes = 227 << 10;  // of a block, on the largest devices
constexpr int kHopelessRounds = 2000;  // in which every thread that can run only looks whether it may go on

const std::function<void()>* running_body = nullptr;

/// Whether the running thread came to its end. If not, the machine holds the fault.
bool run_kernel() {
  Machine& m = machine();
  try {
    (*running_body)();
    return true;
  } catch (const Fault& fault) {
    m.fault = fault.what();
  } catch (const std::exception& e) {
    m.fault = "an exception left the kernel: " + std::string(e.what()) + " [" + name_of(*m.current) + "]";
  } catch (...) {
    m.fault = "an exception left the kernel [" + name_of(*m.current) + "]";
  }
  m.faulted = true;
  return false;
}

/// What every fiber runs: one CUDA thread after another.
[[noreturn]] void run_threads() {
  Fiber::arrived_from(machine().host);
  for (;;) {
    acquire(&machine().current->block->begin);
    if (!run_kernel()) leave_thread();  // for good
    Thread& thread = *machine().current;
    release(&thread.block->end);  // not `begin`: a thread that has ended orders nothing before one that starts late
    thread.state = Thread::State::done;
    --thread.block->live;
    {
      const Unseen unseen;
      open_barrier_if_complete(*thread.block);
    }
    leave_thread();
  }
}

/// Fibers at rest. The race detector takes what one fiber does as ordered, so each CUDA thread should get another fiber
/// than its like in the block before: fibers are taken in turn, from one more than a block needs.
class FiberPool {
 public:
  Fiber* take(std::size_t needed) {
    while (resting_.size() <= needed) {
      all_.push_back(std::make_unique<Fiber>(run_threads));
      resting_.push_back(all_.back().get());
    }
    Fiber* const fiber = resting_.front();
    resting_.pop_front();
    return fiber;
  }
  void give_back(Fiber* fiber) { resting_.push_back(fiber); }
  /// Frees a fiber that stands in the middle of a kernel.
  void abandon(const Fiber* fiber) {
    std::erase_if(all_, [&](const auto& owned) { return owned.get() == fiber; });
  }

 private:
  std::vector<std::unique_ptr<Fiber>> all_;
  std::deque<Fiber*> resting_;
};

FiberPool& pool() {
  static FiberPool the_pool;
  return the_pool;
}

uint3 position(std::uint64_t linear, dim3 shape) {
  return {static_cast<unsigned>(linear % shape.x), static_cast<unsigned>(linear / shape.x % shape.y),
          static_cast<unsigned>(linear / shape.x / shape.y)};
}

/// One launch, from the first block's start to the last one's end.
class Launch {
 public:
  Launch(dim3 grid, dim3 block, std::size_t shared_bytes)
      : grid_(grid), block_(block), shared_bytes_(shared_bytes), random_(machine().options.seed) {
    const Options& options = machine().options;
    const std::uint64_t end = std::min(std::uint64_t{grid.x} * grid.y * grid.z, options.end_block);
    order_.resize(end - std::min(end, options.first_block));
    std::iota(order_.begin(), order_.end(), options.first_block);
    if (options.order == ThreadOrder::descending && !options.blocks_in_order)
      std::reverse(order_.begin(), order_.end());
    if (options.order == ThreadOrder::random && !options.blocks_in_order)
      std::shuffle(order_.begin(), order_.end(), random_);
    machine().interleaves = options.order == ThreadOrder::random;
    machine().faulted = false;
    nibble_block_shape = block;
    nibble_grid_shape = grid;
  }
  ~Launch() {
    for (const auto& block : finished_) acquire(&block->end);
    for (const auto& block : resident_)
      for (Thread& thread : block->threads) {
        acquire(&thread.left);
        pool().abandon(thread.fiber);
      }
    machine().current = nullptr;
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  void run() {
    for (;;) {
      const auto most = static_cast<std::size_t>(std::max(1, machine().options.resident_blocks));
      while (next_ < order_.size() && resident_.size() < most) start_block(order_[next_++]);
      if (resident_.empty()) return;
      run_round();
      retire_blocks();
    }
  }

 private:
  void start_block(std::uint64_t linear) {
    auto block = std::make_unique<Block>();
    const unsigned threads = block_.x * block_.y * block_.z;
    block->index = position(linear, grid_);
    block->live = threads;
    if (shared_bytes_ > 0) block->dynamic = std::make_unique<SharedArray>(shared_bytes_);
    block->warps.resize((threads + kWarpSize - 1) / kWarpSize);
    block->threads.resize(threads);
    for (unsigned i = 0; i < threads; ++i) {
      Thread& thread = block->threads[i];
      thread.linear = i;
      thread.index = position(i, block_);
      thread.block = block.get();
      thread.fiber = pool().take(threads);
    }
    release(&block->begin);
    ++machine().statistics.blocks;
    resident_.push_back(std::move(block));
  }

  /// Gives each thread that can run its turn.
  void run_round() {
    std::vector<Thread*> turn;
    bool any_ready = false;
    for (const auto& block : resident_)
      for (Thread& thread : block->threads)
        if (thread.state == Thread::State::ready || thread.state == Thread::State::spinning) {
          any_ready = any_ready || thread.state == Thread::State::ready;
          turn.push_back(&thread);
        }
    hopeless_rounds_ = any_ready ? 0 : hopeless_rounds_ + 1;
    if (turn.empty() || hopeless_rounds_ > kHopelessRounds)
      throw Fault("deadlock: no thread can go on." + describe_waiting(resident_));
    if (machine().options.order == ThreadOrder::descending) std::reverse(turn.begin(), turn.end());
    if (machine().options.order == ThreadOrder::random) std::shuffle(turn.begin(), turn.end(), random_);
    for (Thread* thread : turn) resume(*thread);
  }

  static void resume(Thread& thread) {
    Machine& m = machine();
    thread.state = Thread::State::ready;
    m.current = &thread;
    nibble_thread_index = thread.index;
    nibble_block_index = thread.block->index;
    m.host.switch_to(*thread.fiber);
    if (m.faulted) throw Fault(m.fault);
  }

  void retire_blocks() {
    for (std::size_t i = 0; i < resident_.size();) {
      Block& block = *resident_[i];
      if (block.live > 0) {
        ++i;
        continue;
      }
      check_shared_memory(block);
      for (const Thread& thread : block.threads) pool().give_back(thread.fiber);
      // The race detector must not see one block's shared memory in the place of another's: they are not ordered.
      if (detects_races()) finished_.push_back(std::move(resident_[i]));
      resident_.erase(resident_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  static void check_shared_memory(const Block& block) {
    bool intact = block.dynamic == nullptr || block.dynamic->is_intact();
    for (const auto& [key, array] : block.statics) intact = intact && array->is_intact();
    if (!intact)
      throw Fault("a write beyond an array of shared memory [" + name_of(block.threads.front()) + " or another]");
  }

  dim3 grid_, block_;
  std::size_t shared_bytes_;
  std::mt19937_64 random_;
  std::vector<std::uint64_t> order_;
  std::size_t next_ = 0;
  int hopeless_rounds_ = 0;
  std::vector<std::unique_ptr<Block>> resident_, finished_;
};

bool is_empty(dim3 shape) { return shape.x == 0 || shape.y == 0 || shape.z == 0; }

/// CUDA's limits of a launch.
bool can_launch(dim3 grid, dim3 block, std::size_t shared_bytes) {
  if (is_empty(grid) || is_empty(block) || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return false;
  if (block.x > kMaxThreads || block.y > kMaxThreads || block.z > 64) return false;
  return block.x * block.y * block.z <= kMaxThreads && shared_bytes <= kMaxSharedBytes;
}

}  // namespace

void leave_thread() {
  Thread& thread = *machine().current;
  release(&thread.left);
  thread.fiber->switch_to(machine().host);
}

cudaError_t run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
  if (!can_launch(grid, block, shared_bytes)) return cudaErrorInvalidConfiguration;
  static std::mutex one_launch_at_a_time;
  const std::lock_guard lock(one_launch_at_a_time);
  const Unseen unseen;
  running_body = &body;
  Launch(grid, block, shared_bytes).run();
  return cudaSuccess;
}

}  // namespace nibble::cuda_emulation
