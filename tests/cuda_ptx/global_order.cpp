#include "tests/cuda_ptx/global_order.h"

#include <algorithm>

namespace nibble::cuda_ptx {

namespace {

using Ends = std::map<std::uint64_t, std::uint64_t>;

void join_ends(Ends& to, const Ends& from) {
  for (const auto& [who, end] : from) to[who] = std::max(to[who], end);
}
bool lies_before(std::uint64_t when, std::uint64_t who, const Ends& ends) {
  const auto at = ends.find(who);
  return at != ends.end() && when < at->second;
}

}  // namespace

void Knowledge::join(const Knowledge& other) {
  join_ends(barriers, other.barriers);
  join_ends(releases, other.releases);
}

bool GlobalOrder::is_before(const Event& event, const OrderedThread& t) const {
  return event.block == t.block || lies_before(event.barriers, event.block, t.known.barriers) ||
         lies_before(event.releases, event.thread, t.known.releases);
}

std::string GlobalOrder::check(const OrderedThread& t, std::uint32_t number, const MemoryOrder& order) const {
  const Event& event = events_[number];
  if (order.is_read_only && event.thread != t.thread) return "reads through the read-only cache what the launch writes";
  if ((event.is_strong && order.is_strong) || is_before(event, t)) return "";
  return "touches what block " + std::to_string(event.block) +
         " wrote, with no release there and acquire here in between";
}

/// What a release now makes known: what the thread knows, its block's writes before the last barrier, and its own.
Knowledge GlobalOrder::release(OrderedThread& t) {
  Knowledge out = t.known;
  out.barriers[t.block] = t.barriers;
  out.releases[t.thread] = ++t.releases;
  t.event = {};
  return out;
}

void GlobalOrder::fence(OrderedThread& t) {
  t.known.join(t.seen);
  t.fenced = release(t);
}

void GlobalOrder::synchronize(OrderedThread& t, std::uint64_t address, const MemoryOrder& order, bool reads,
                              bool writes) {
  if (reads)
    if (const auto at = released_.find(address); at != released_.end())
      (order.acquires ? t.known : t.seen).join(at->second);
  if (!writes) return;
  if (!reads) released_.erase(address);  // a store ends what was released to the flag; an atomic adds to it
  if (order.releases) released_[address].join(release(t));
  else if (order.is_strong && !t.fenced.is_empty()) released_[address].join(t.fenced);
}

std::uint32_t GlobalOrder::event_of(OrderedThread& t, bool is_strong) {
  std::uint32_t& event = t.event[is_strong ? 1 : 0];
  if (event == 0) {
    event = static_cast<std::uint32_t>(events_.size());
    events_.push_back({t.block, t.thread, t.barriers, t.releases, is_strong});
  }
  return event;
}

std::string GlobalOrder::touch(OrderedThread& t, std::uint64_t address, std::size_t bytes, const MemoryOrder& order,
                               bool reads, bool writes) {
  if (order.is_strong) synchronize(t, address, order, reads, writes);
  else if (writes && !released_.empty()) released_.erase(address);
  // An access is aligned to its size, so that it lies in one page.
  auto at = pages_.find(address / kPage);
  if (at == pages_.end() && !writes) return "";
  if (at == pages_.end()) at = pages_.emplace(address / kPage, std::make_unique<Page>()).first;
  const auto begin = at->second->begin() + static_cast<std::ptrdiff_t>(address % kPage);
  std::uint32_t checked = 0;
  for (auto byte = begin; byte != begin + static_cast<std::ptrdiff_t>(bytes); ++byte) {
    if (*byte == checked) continue;
    checked = *byte;
    if (checked == 0) continue;
    if (std::string wrong = check(t, checked, order); !wrong.empty()) return wrong;
  }
  if (writes) std::fill_n(begin, bytes, event_of(t, order.is_strong));
  return "";
}

}  // namespace nibble::cuda_ptx
