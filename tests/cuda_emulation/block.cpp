// What threads do to each other within a block: barriers, collectives, shared memory, asynchronous copies.
#include "cuda_emulation/block.h"

#include <algorithm>
#include <bit>

#include "cuda_emulation/sanitizer.h"

namespace nibble::cuda_emulation {

namespace {

std::string place(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

Block& current_block() { return *machine().current->block; }

void wait_in(const char* what, Site site) {
  Thread& thread = *machine().current;
  thread.state = Thread::State::waiting;
  thread.waits_in = what;
  thread.site = site;
  leave_thread();
}

const char* name_of(Collective what) {
  switch (what) {
    case Collective::syncwarp: return "__syncwarp";
    case Collective::shuffle: return "a shuffle";
    case Collective::vote: return "a vote";
    case Collective::matrix_load: return "a matrix load";
    case Collective::matrix_product: return "a matrix product";
  }
  return "a collective";
}

}  // namespace

unsigned lane() { return machine().current->lane(); }

void fail(const std::string& message, Site site) {
  const Unseen unseen;
  throw Fault(message + " at " + place(site) + " [" + name_of(*machine().current) + "]");
}

// ---- Barriers -------------------------------------------------------------------------------------------------------

void wake(Meeting& meeting) {
  for (Thread* thread : meeting.waiting) thread->state = Thread::State::ready;
  meeting.waiting.clear();
}

void open_barrier_if_complete(Block& block) {
  if (block.barrier.waiting.empty() || block.barrier.waiting.size() < block.live) return;
  ++block.barrier.round;
  ++machine().statistics.barriers;
  wake(block.barrier);
}

[[gnu::noinline]] void barrier(Site site) {
  const Unseen unseen;
  Block& block = current_block();
  Meeting& meeting = block.barrier;
  // Not the line: a line may hold two barriers, and a function that holds one is inlined into many places.
  const void* const caller = __builtin_return_address(0);
  if (meeting.waiting.empty()) {
    meeting.site = site;
    meeting.caller = caller;
  } else if (meeting.caller != caller) {
    fail("divergent __syncthreads: others of the block wait in the one at " + place(meeting.site), site);
  }
  char* const token = &meeting.token[meeting.round % 2];
  release(token);
  meeting.waiting.push_back(machine().current);
  machine().current->state = Thread::State::waiting;
  open_barrier_if_complete(block);
  if (machine().current->state == Thread::State::waiting || machine().interleaves) {
    machine().current->waits_in = "__syncthreads";
    machine().current->site = site;
    leave_thread();
  }
  acquire(token);
}

void spin(Site site) {
  const Unseen unseen;
  Thread& thread = *machine().current;
  thread.state = Thread::State::spinning;
  thread.waits_in = "a loop that waits for another thread";
  thread.site = site;
  leave_thread();
}

// ---- Collectives ----------------------------------------------------------------------------------------------------

namespace {

/// The meeting of a mask in the running thread's warp. Masks may overlap: a lane may meet some lanes first, then
/// others.
WarpMeeting& meeting_of(std::uint32_t mask) {
  auto& meetings = current_block().warps[machine().current->warp()];
  for (const auto& known : meetings)
    if (known->mask == mask) return *known;
  meetings.push_back(std::make_unique<WarpMeeting>());
  meetings.back()->mask = mask;
  return *meetings.back();
}

/// The lanes of the mask that exist, in a block whose last warp is not whole.
std::uint32_t existing_lanes(std::uint32_t mask) {
  const auto threads = static_cast<unsigned>(current_block().threads.size());
  const unsigned beyond = threads - machine().current->warp() * kWarpSize;
  return beyond < kWarpSize ? mask & ((1u << beyond) - 1) : mask;
}

}  // namespace

Contributions meet(Collective what, std::uint32_t mask, const void* mine, std::size_t bytes, Site site) {
  const Unseen unseen;
  Thread& thread = *machine().current;
  const std::uint32_t bit = 1u << thread.lane();
  if ((mask & bit) == 0) fail(std::string("a lane outside the mask calls ") + name_of(what), site);
  if (what == Collective::matrix_load || what == Collective::matrix_product) {
    if (existing_lanes(mask) != mask) fail(std::string(name_of(what)) + " in a warp that is not whole", site);
  }
  mask = existing_lanes(mask);
  WarpMeeting& meeting = meeting_of(mask);
  if (meeting.arrived == 0) {
    meeting.what = what;
    meeting.site = site;
  } else if (meeting.what != what || meeting.site.line != site.line || std::strcmp(meeting.site.file, site.file) != 0) {
    fail(std::string("divergent warp: this lane calls ") + name_of(what) + ", others wait in " + name_of(meeting.what) +
             " at " + place(meeting.site),
         site);
  }
  const unsigned round = meeting.round % 2;
  char* const token = &meeting.token[round];
  unsigned char* const contributions = meeting.contributions[round];
  if (bytes > 0) std::memcpy(contributions + Contributions::kMaxBytes * thread.lane(), mine, bytes);
  if (what == Collective::syncwarp) release(token);  // the others exchange registers and order no memory
  meeting.arrived |= bit;
  if (meeting.arrived != mask) {
    meeting.waiting.push_back(&thread);
    wait_in(name_of(what), site);
  } else {
    meeting.arrived = 0;
    ++meeting.round;
    wake(meeting);
    if (what == Collective::matrix_product) ++machine().statistics.matrix_products;
    if (machine().interleaves) leave_thread();
  }
  if (what == Collective::syncwarp) acquire(token);
  return Contributions(contributions);
}

// ---- Shared memory and asynchronous copies --------------------------------------------------------------------------

void* static_shared(const void* key, std::size_t bytes) {
  const Unseen unseen;
  std::unique_ptr<SharedArray>& array = current_block().statics[key];
  if (array == nullptr) array = std::make_unique<SharedArray>(bytes);
  return array->data();
}

void* dynamic_shared() {
  if (current_block().dynamic == nullptr)
    fail("dynamic shared memory, of which the launch gave 0 bytes", {"the kernel", 0});
  return current_block().dynamic->data();
}

void require_shared_16(const void* p, const char* what, Site site) {
  const Unseen unseen;
  const Block& block = current_block();
  bool inside = block.dynamic != nullptr && block.dynamic->contains(p, 16);
  for (const auto& [key, array] : block.statics) inside = inside || array->contains(p, 16);
  if (!inside) fail(std::string(what) + " is not in the block's shared memory", site);
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) fail(std::string(what) + " is not aligned to 16 bytes", site);
}

void begin_copy(const Copy& copy) {
  const Unseen unseen;
  machine().current->open_copies.push_back(copy);
  ++machine().statistics.asynchronous_copies;
}

void commit_copies() {
  const Unseen unseen;
  Thread& thread = *machine().current;
  thread.groups.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}

bool next_finished_copy(int newest, Copy& copy) {
  const Unseen unseen;
  auto& groups = machine().current->groups;
  while (groups.size() > static_cast<std::size_t>(newest)) {
    if (groups.front().empty()) {
      groups.pop_front();
      continue;
    }
    copy = groups.front().back();
    groups.front().pop_back();
    return true;
  }
  return false;
}

}  // namespace nibble::cuda_emulation
