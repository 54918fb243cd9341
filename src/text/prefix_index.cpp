#include "prefix_index.h"

#include <algorithm>

namespace nibble::inline NIBBLE_ABI::text {

namespace {

unsigned char byte_at(const std::pair<std::string_view, std::uint32_t>& entry, std::size_t place) {
  return static_cast<unsigned char>(entry.first[place]);
}

}  // namespace

PrefixIndex::PrefixIndex(std::vector<std::pair<std::string_view, std::uint32_t>> entries)
    : entries_(std::move(entries)) {
  std::erase_if(entries_, [](const auto& e) { return e.first.empty(); });
  // char_traits compares bytes without their sign, which is the order that narrow() needs.
  std::stable_sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  const auto last =
      std::unique(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  entries_.erase(last, entries_.end());
  for (const auto& e : entries_) ++begin_[byte_at(e, 0) + 1u];
  for (std::size_t b = 0; b < 256; ++b) begin_[b + 1] += begin_[b];
}

void PrefixIndex::narrow(std::size_t& low, std::size_t& high, std::size_t depth, unsigned char byte) const {
  const auto at = [&](std::size_t i) { return entries_.begin() + static_cast<std::ptrdiff_t>(i); };
  const auto from =
      std::lower_bound(at(low), at(high), byte, [&](const auto& e, unsigned char b) { return byte_at(e, depth) < b; });
  const auto to =
      std::upper_bound(from, at(high), byte, [&](unsigned char b, const auto& e) { return b < byte_at(e, depth); });
  low = static_cast<std::size_t>(from - entries_.begin());
  high = static_cast<std::size_t>(to - entries_.begin());
}

std::uint32_t PrefixIndex::find(std::string_view text) const {
  const auto it =
      std::lower_bound(entries_.begin(), entries_.end(), text, [](const auto& e, auto t) { return e.first < t; });
  return it == entries_.end() || it->first != text ? kNone : it->second;
}

}  // namespace nibble::inline NIBBLE_ABI::text
