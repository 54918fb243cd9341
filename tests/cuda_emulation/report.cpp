// Who is meant: threads by name, for messages.
#include <ostream>
#include <sstream>

#include "cuda_emulation/block.h"

namespace nibble::cuda_emulation {

namespace {

std::ostream& operator<<(std::ostream& out, uint3 index) {
  return out << '(' << index.x << ',' << index.y << ',' << index.z << ')';
}

/// "thread 4", "threads 0-30, 32".
void print_threads(std::ostream& out, const std::vector<unsigned>& threads) {
  out << (threads.size() == 1 ? "thread " : "threads ");
  for (std::size_t first = 0, last = 0; first < threads.size(); first = last + 1) {
    for (last = first; last + 1 < threads.size() && threads[last + 1] == threads[last] + 1;) ++last;
    out << (first == 0 ? "" : ", ") << threads[first];
    if (last > first) out << '-' << threads[last];
  }
}

}  // namespace

std::string name_of(const Thread& thread) {
  std::ostringstream out;
  out << "block " << thread.block->index << " thread " << thread.index;
  return out.str();
}

std::string describe_waiting(const std::vector<std::unique_ptr<Block>>& blocks) {
  std::ostringstream out;
  for (const auto& block : blocks) {
    std::map<std::string, std::vector<unsigned>> threads_at;
    for (const Thread& thread : block->threads) {
      if (thread.state == Thread::State::done) continue;
      std::ostringstream where;
      where << thread.waits_in << " at " << thread.site.file << ':' << thread.site.line;
      threads_at[where.str()].push_back(thread.linear);
    }
    for (const auto& [where, threads] : threads_at) {
      out << " Block " << block->index << ": ";
      print_threads(out, threads);
      out << " in " << where << '.';
    }
  }
  return out.str();
}

}  // namespace nibble::cuda_emulation
