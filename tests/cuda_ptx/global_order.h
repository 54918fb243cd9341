// Which writes of other blocks a thread may count on: the part of PTX's memory consistency model that blocks use.
//
// The interpreter's memory is sequentially consistent, so that a missing release or acquire would change no result. So
// each byte of global memory remembers who wrote it last in this launch. Another block may touch it only after that
// write: the writer, or a thread of its block after a barrier, released a flag at the scope of the device (.release, or
// a fence and a relaxed access), and the reader, or a thread of its block before a barrier, acquired it. Two accesses
// that are both strong (atomics, .relaxed, .acquire, .release, .volatile) need no order. What a launch writes may not
// be read through the read-only cache (.nc) by anybody else.
//
// Not seen: writes over what another block has only read (the emulation's race detector sees those), and that
// __syncwarp orders memory, which no release here relies on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace nibble::cuda_ptx {

/// What an instruction's words say about order. Scopes smaller than the device's say nothing to other blocks.
struct MemoryOrder {
  bool is_strong = false, acquires = false, releases = false, is_read_only = false;
};

/// What happened before: of each block the barriers, of each thread the releases, before whose end writes are known.
struct Knowledge {
  std::map<std::uint64_t, std::uint64_t> barriers, releases;
  [[nodiscard]] bool is_empty() const { return barriers.empty() && releases.empty(); }
  void join(const Knowledge& other);
};

/// A thread's part of the order. `block` and `thread` are numbers in the grid.
struct OrderedThread {
  std::uint64_t block = 0, thread = 0;
  std::uint64_t barriers = 0, releases = 0;  ///< That it has passed.
  Knowledge known;                           ///< Acquired, by itself or before a barrier by others of its block.
  Knowledge seen;                            ///< Released to what it has read without acquiring: a fence acquires it.
  Knowledge fenced;                          ///< What its last fence releases with later relaxed accesses.
  std::array<std::uint32_t, 2> event{};      ///< Its current weak and strong writes, or 0.
};

class GlobalOrder {
 public:
  /// An access of `bytes` at `address`; what is wrong with it, or "".
  std::string touch(OrderedThread& t, std::uint64_t address, std::size_t bytes, const MemoryOrder& order, bool reads,
                    bool writes);
  void fence(OrderedThread& t);
  /// All threads of a block have come to a barrier.
  template <class Threads>
  void barrier(Threads& threads) {
    Knowledge all;
    for (auto& t : threads) all.join(t.order.known);
    for (auto& t : threads) {
      ++t.order.barriers;
      t.order.event = {};
      if (!all.is_empty()) t.order.known = all;
    }
  }

 private:
  struct Event {
    std::uint64_t block, thread, barriers, releases;
    bool is_strong;
  };
  static constexpr std::uint64_t kPage = 1024;
  using Page = std::array<std::uint32_t, kPage>;  // by byte: the event that wrote it last, or 0

  [[nodiscard]] bool is_before(const Event& event, const OrderedThread& t) const;
  [[nodiscard]] std::string check(const OrderedThread& t, std::uint32_t event, const MemoryOrder& order) const;
  void synchronize(OrderedThread& t, std::uint64_t address, const MemoryOrder& order, bool reads, bool writes);
  Knowledge release(OrderedThread& t);
  std::uint32_t event_of(OrderedThread& t, bool is_strong);

  std::vector<Event> events_{1};
  std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages_;
  std::map<std::uint64_t, Knowledge> released_;  // by the flag's address
};

}  // namespace nibble::cuda_ptx
