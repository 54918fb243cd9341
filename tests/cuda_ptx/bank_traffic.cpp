#include "tests/cuda_ptx/bank_traffic.h"

#include <algorithm>

namespace nibble::cuda_ptx {

std::size_t bank_passes(std::span<const std::uint32_t> offsets, std::size_t bytes) {
  constexpr std::uint32_t word = 4, banks = 32;
  std::array<std::array<std::uint32_t, banks>, banks> met;  // the words that each bank serves
  std::array<std::size_t, banks> count{};
  for (const std::uint32_t offset : offsets)
    for (std::uint32_t at = offset / word; at * word < offset + bytes; ++at) {
      auto& words = met[at % banks];
      std::size_t& n = count[at % banks];
      if (std::find(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(n), at) ==
          words.begin() + static_cast<std::ptrdiff_t>(n))
        words[n++] = at;
    }
  return *std::max_element(count.begin(), count.end());
}

void BankTraffic::note(int thread, int instruction, std::size_t offset, std::size_t bytes) {
  const auto warp = static_cast<std::size_t>(thread / warp_size), lane = static_cast<std::size_t>(thread % warp_size);
  const auto number = static_cast<std::size_t>(instruction);
  if (sites_.size() <= warp) sites_.resize(warp + 1);
  if (sites_[warp].size() <= number) sites_[warp].resize(number + 1);
  Site& site = sites_[warp][number];
  site.bytes = bytes;
  const std::size_t at = site.times[lane]++ - site.closed;
  if (site.open.size() <= at) site.open.resize(at + 1);
  site.open[at].offset[lane] = static_cast<std::uint32_t>(offset);
  site.open[at].lanes |= 1u << lane;
  while (!site.open.empty() && site.open.front().lanes == ~0u) {
    count(site.open.front(), bytes);
    site.open.pop_front();
    ++site.closed;
  }
}

void BankTraffic::note_matrix(const std::array<std::uint32_t, 8>& rows) {
  passes_ += bank_passes(rows, 16);
  ++ideal_;
}

void BankTraffic::count(const Access& access, std::size_t bytes) {
  const std::size_t together = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
  for (std::size_t first = 0; first < warp_size; first += together) {
    std::array<std::uint32_t, warp_size> offsets;
    std::size_t n = 0;
    for (std::size_t lane = first; lane < first + together; ++lane)
      if ((access.lanes >> lane & 1) != 0) offsets[n++] = access.offset[lane];
    if (n == 0) continue;
    passes_ += bank_passes({offsets.data(), n}, bytes);
    ++ideal_;
  }
}

void BankTraffic::finish(Statistics& statistics) {
  for (auto& warp : sites_)
    for (Site& site : warp) {
      for (const Access& access : site.open) count(access, site.bytes);
      site.open.clear();
    }
  statistics.shared_passes += passes_;
  statistics.shared_ideal_passes += ideal_;
  passes_ = ideal_ = 0;
}

}  // namespace nibble::cuda_ptx
