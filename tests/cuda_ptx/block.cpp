// Running a grid: threads up to their next meeting, warps and blocks in turn.
#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <random>

#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

constexpr std::size_t resident_blocks = 32;              // that take turns; the others begin as these end
constexpr std::uint64_t most_instructions = 1ull << 32;  // of one launch
constexpr int most_idle_turns = 1 << 10;                 // of all blocks, before waiting loops count as a deadlock

Dim position(std::size_t n, const Dim& size) {
  return {static_cast<unsigned>(n % size.x), static_cast<unsigned>(n / size.x % size.y),
          static_cast<unsigned>(n / size.x / size.y)};
}

template <class T>
void arrange(std::vector<T>& order, unsigned seed, std::mt19937& random) {
  if (seed == 1) std::sort(order.begin(), order.end(), std::greater<>());
  if (seed > 1) std::shuffle(order.begin(), order.end(), random);
}

/// Blocks' registers take megabytes each, and blocks are many: they hand them on.
std::vector<std::vector<std::uint64_t>>& spare_registers() {
  static thread_local std::vector<std::vector<std::uint64_t>> spare;
  return spare;
}
/// Filled with noise.
std::vector<std::uint64_t> take_registers(std::size_t n) {
  std::vector<std::uint64_t> registers;
  if (!spare_registers().empty()) {
    registers = std::move(spare_registers().back());
    spare_registers().pop_back();
  }
  registers.assign(n, ~std::uint64_t{0});
  return registers;
}

class BlockRunner {
 public:
  BlockRunner(Run& run, std::size_t number, std::mt19937& random) : run_(run), random_(random) {
    const Function& f = *run.function;
    const std::size_t threads = run.launch->block.count();
    block_.run = &run;
    block_.index = position(number, run.launch->grid);
    block_.shared = SharedMemory(f.dynamic_shared_offset + run.launch->shared_bytes, (threads + 31) / 32);
    block_.threads.resize(threads);
    block_.live = static_cast<int>(threads);
    registers_ = take_registers(threads * static_cast<std::size_t>(f.registers));
    for (std::size_t n = 0; n < threads; ++n) {
      Thread& t = block_.threads[n];
      t.block = &block_;
      t.id = static_cast<int>(n);
      t.lane = t.id % 32;
      t.warp = t.id / 32;
      t.order.block = number;
      t.order.thread = number * threads + n;
      t.registers = registers_.data() + n * static_cast<std::size_t>(f.registers);
      t.local.assign(f.local_bytes, std::byte{0xff});
    }
  }
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;
  ~BlockRunner() { spare_registers().push_back(std::move(registers_)); }

  [[nodiscard]] bool is_finished() const { return block_.live == 0; }

  /// Until all of its threads wait or have ended.
  void turn() {
    std::vector<std::size_t> order(block_.threads.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (bool moved = true; moved && !is_finished();) {
      moved = false;
      arrange(order, run_.launch->seed, random_);
      for (const std::size_t n : order) {
        Thread& t = block_.threads[n];
        if (t.state != Thread::running || t.yields) continue;
        moved = true;
        advance(t);
      }
      moved |= meet_in_warps();
      moved |= meet_at_barrier();
    }
    if (is_finished()) block_.banks.finish(*run_.statistics);
    bool waits_in_loop = false;
    for (Thread& t : block_.threads) {
      waits_in_loop |= t.yields;
      t.yields = false;
    }
    if (!is_finished() && !waits_in_loop) report_deadlock();
  }

  /// Blames a thread that waits in a loop, of so many blocks that all do.
  [[noreturn]] void report_waiting(std::size_t blocks) {
    const auto waiting = std::find_if(block_.threads.begin(), block_.threads.end(),
                                      [](const Thread& t) { return t.state == Thread::running; });
    const Thread& t = waiting == block_.threads.end() ? block_.threads.front() : *waiting;
    fault(t, run_.function->code[static_cast<std::size_t>(t.pc)],
          "waits for ever, as do all " + std::to_string(blocks) + " blocks that have begun");
  }

 private:
  void advance(Thread& t) {
    const std::vector<Instruction>& code = run_.function->code;
    while (t.state == Thread::running && !t.yields) {
      if (static_cast<std::size_t>(t.pc) >= code.size()) return finish(t);
      const Instruction& i = code[static_cast<std::size_t>(t.pc)];
      if (i.guard >= 0 && (t.registers[static_cast<std::size_t>(i.guard)] != 0) == i.guard_negated) {
        ++t.pc;
        continue;
      }
      if (++run_.statistics->instructions > most_instructions) fault(t, i, "the launch does not end");
      if (i.kind == Instruction::warp) {
        t.state = Thread::at_warp;
        return;
      }
      ++run_.counts[static_cast<std::size_t>(i.statistic)];
      switch (i.kind) {
        case Instruction::branch: t.pc = i.target; break;
        case Instruction::leave: return finish(t);
        case Instruction::barrier: t.state = Thread::at_barrier; return;
        default: i.execute(t, i); ++t.pc;
      }
    }
  }
  void finish(Thread& t) {
    const bool copies = !t.open.empty() ||
                        std::any_of(t.groups.begin(), t.groups.end(), [](const auto& group) { return !group.empty(); });
    if (copies) fault(t, run_.function->code.back(), "ends with a copy under way");
    t.state = Thread::done;
    --block_.live;
  }

  /// Lanes that are named by a warp-wide instruction and are all at it.
  bool meet_in_warps() {
    bool met = false;
    for (std::size_t begin = 0; begin < block_.threads.size(); begin += 32) {
      const std::size_t end = std::min(begin + 32, block_.threads.size());
      for (std::size_t n = begin; n < end; ++n)
        if (block_.threads[n].state == Thread::at_warp) met |= meet(begin, end, block_.threads[n]);
    }
    return met;
  }
  bool meet(std::size_t begin, std::size_t end, const Thread& first) {
    const Instruction& i = run_.function->code[static_cast<std::size_t>(first.pc)];
    const std::uint32_t mask = lanes_of(first, i);
    if ((mask >> first.lane & 1) == 0) fault(first, i, "a lane that its mask does not name");
    std::vector<Thread*> lanes;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      if (begin + lane >= end) fault(first, i, "names lanes that the block does not have");
      Thread& t = block_.threads[begin + lane];
      if (t.state == Thread::done) fault(first, i, "names lane " + std::to_string(lane) + ", which has ended");
      if (t.state != Thread::at_warp || t.pc != first.pc) return false;
      if (lanes_of(t, i) != mask) fault(t, i, "lanes with different masks");
      lanes.push_back(&t);
    }
    ++run_.counts[static_cast<std::size_t>(i.statistic)];
    i.execute_warp(lanes, i);
    for (Thread* t : lanes) {
      t->state = Thread::running;
      ++t->pc;
    }
    return true;
  }

  bool meet_at_barrier() {
    const Thread* first = nullptr;
    int waiting = 0;
    for (const Thread& t : block_.threads)
      if (t.state == Thread::at_barrier) {
        ++waiting;
        if (first == nullptr) first = &t;
      }
    if (waiting == 0 || waiting < block_.live) return false;
    for (Thread& t : block_.threads) {
      if (t.state != Thread::at_barrier) continue;
      if (t.pc != first->pc)
        fault(t, run_.function->code[static_cast<std::size_t>(t.pc)], "threads at different barriers");
      t.state = Thread::running;
    }
    for (Thread& t : block_.threads)
      if (t.state == Thread::running) ++t.pc;
    block_.shared.block_barrier();
    if (run_.launch->grid.count() > 1) run_.order.barrier(block_.threads);
    ++run_.statistics->barriers;
    return true;
  }

  [[noreturn]] void report_deadlock() {
    for (const Thread& t : block_.threads)
      if (t.state != Thread::done)
        fault(t, run_.function->code[static_cast<std::size_t>(t.pc)],
              t.state == Thread::at_barrier ? "a barrier that not all threads reach" : "lanes do not meet");
    throw Fault("no thread is left");
  }

  Run& run_;
  std::mt19937& random_;
  std::vector<std::uint64_t> registers_;
  Block block_;
};

/// A block begins when those that have begun have ended or wait in loops: then as many as may be needed run by turns.
void run_grid(Run& run) {
  std::mt19937 random(run.launch->seed);
  std::vector<std::size_t> order(run.launch->grid.count());
  std::iota(order.begin(), order.end(), std::size_t{0});
  arrange(order, run.launch->seed, random);
  std::vector<std::unique_ptr<BlockRunner>> resident;
  int idle = 0;
  for (std::size_t begun = 0; begun < order.size() || !resident.empty();) {
    bool has_moved = false;
    if (resident.size() < resident_blocks && begun < order.size()) {
      resident.push_back(std::make_unique<BlockRunner>(run, order[begun++], random));
      has_moved = true;
    }
    run.has_changed = false;
    const std::uint64_t barriers = run.statistics->barriers;
    for (auto& block : resident) block->turn();
    has_moved |= std::erase_if(resident, [](const auto& block) { return block->is_finished(); }) > 0;
    has_moved |= run.has_changed || run.statistics->barriers != barriers;
    idle = has_moved ? 0 : idle + 1;
    if (idle > most_idle_turns) resident.front()->report_waiting(resident.size());
  }
}

}  // namespace

void fault(const Thread& t, const Instruction& i, const std::string& what) {
  const Dim b = t.block->index;
  throw Fault(t.block->run->function->name + ", block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
              std::to_string(b.z) + "), thread " + std::to_string(t.id) + ": " + what + ": " + i.text);
}

std::uint64_t special_value(const Thread& t, int index) {
  const Launch& launch = *t.block->run->launch;
  const auto axis = [&](const Dim& d) { return index % 4 == 0 ? d.x : index % 4 == 1 ? d.y : d.z; };
  switch (static_cast<Special>(index / 4)) {
    case Special::tid: return axis(position(static_cast<std::size_t>(t.id), launch.block));
    case Special::ctaid: return axis(t.block->index);
    case Special::ntid: return axis(launch.block);
    case Special::nctaid: return axis(launch.grid);
    case Special::laneid: return static_cast<std::uint64_t>(t.lane);
    case Special::warpid: return static_cast<std::uint64_t>(t.warp);
  }
  return 0;
}

void MemoryMap::add(const void* data, std::size_t bytes) { buffers_[reinterpret_cast<std::uint64_t>(data)] = bytes; }

bool MemoryMap::contains(std::uint64_t address, std::size_t bytes, Hint& hint) const {
  if (address >= hint.begin && address < hint.end && bytes <= hint.end - address) return true;
  auto after = buffers_.upper_bound(address);
  if (after == buffers_.begin()) return false;
  --after;
  hint = {after->first, after->first + after->second};
  return address <= hint.end && bytes <= hint.end - address;
}

Module::Module(std::string_view text) : program_(std::make_unique<Program>(parse(text))) {}
Module::~Module() = default;
Module::Module(Module&&) noexcept = default;
Module& Module::operator=(Module&&) noexcept = default;

std::vector<std::string> Module::kernels() const {
  std::vector<std::string> names;
  for (const auto& [name, function] : program_->functions) names.push_back(name);
  return names;
}

bool Module::has(const std::string& kernel) const { return program_->functions.contains(kernel); }

Statistics Module::run(const std::string& kernel, const Launch& launch, const MemoryMap& memory) const {
  const auto found = program_->functions.find(kernel);
  if (found == program_->functions.end()) throw Fault("no kernel " + kernel);
  if (launch.parameters.size() < found->second.parameter_bytes)
    throw Fault(kernel + ": " + std::to_string(launch.parameters.size()) + " bytes of parameters, not " +
                std::to_string(found->second.parameter_bytes));
  if (launch.block.count() == 0 || launch.block.count() > 1024) throw Fault(kernel + ": no such block");
  Statistics statistics;
  Run run{&found->second, &launch, &memory, program_.get(), &statistics, {}, {}, false, {}};
  run.counts.resize(program_->opcodes.size());
  run.buffer_hints.resize(found->second.code.size());
  run_grid(run);
  for (std::size_t n = 0; n < run.counts.size(); ++n)
    if (run.counts[n] > 0) statistics.opcodes[program_->opcodes[n]] = run.counts[n];
  return statistics;
}

}  // namespace nibble::cuda_ptx
