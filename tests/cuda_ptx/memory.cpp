// Loads, stores, atomics and asynchronous copies.
#include <algorithm>
#include <array>

#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

Space space_of(const Instruction& i) {
  for (const std::string& word : i.words) {
    if (word == "global" || word == "const") return Space::global;
    if (word.starts_with("shared")) return Space::shared;
    if (word == "local") return Space::local;
    if (word.starts_with("param")) return Space::parameter;
  }
  return Space::generic;
}

/// An access without one of these words is weak; an atomic is relaxed at the device's scope unless it says otherwise.
MemoryOrder order_of(const Instruction& i) {
  const bool is_atomic = i.words[0] == "atom" || i.words[0] == "red", is_acq_rel = i.has("acq_rel");
  MemoryOrder order;
  order.is_read_only = i.has("nc");
  if (i.has("cta")) return order;  // for threads of one block
  order.is_strong = is_atomic || i.has("relaxed") || i.has("volatile") || i.has("acquire") || i.has("release");
  order.acquires = i.has("acquire") || is_acq_rel;
  order.releases = i.has("release") || is_acq_rel;
  return order;
}

/// Notes an access to global memory, and faults where blocks are not ordered.
void keep_order(Thread& t, const Instruction& i, std::uint64_t address, std::size_t bytes, SharedMemory::Access kind) {
  Run& run = *t.block->run;
  if (run.launch->grid.count() == 1) return;
  const std::string wrong = run.order.touch(t.order, address, bytes, i.order, kind != SharedMemory::Access::write,
                                            kind != SharedMemory::Access::read);
  if (!wrong.empty()) fault(t, i, wrong);
}

/// A register or a vector of them, as a list.
struct Registers {
  const Operand* first;
  std::size_t count;
};
Registers registers_of(const Operand& o) {
  if (o.kind == Operand::vector) return {o.parts.data(), o.parts.size()};
  return {&o, 1};
}

void load(Thread& t, const Instruction& i) {
  const Registers to = registers_of(i.operands[0]);
  const std::size_t width = i.type.bytes();
  const std::byte* from = access(t, i, static_cast<Space>(i.detail), address_of(t, i.operands[1]), width * to.count,
                                 SharedMemory::Access::read);
  const int unused = 64 - static_cast<int>(8 * width);
  for (std::size_t k = 0; k < to.count; ++k) {
    std::uint64_t value = 0;
    std::memcpy(&value, from + k * width, width);
    if (i.type.kind == 's') value = static_cast<std::uint64_t>(static_cast<std::int64_t>(value << unused) >> unused);
    write(t, to.first[k], value);
  }
}
/// Writes the first bytes of a value.
template <class T>
void put(const Thread& t, std::byte* to, T value, std::size_t bytes) {
  t.block->run->has_changed |= std::memcmp(to, &value, bytes) != 0;
  std::memcpy(to, &value, bytes);
}
void store(Thread& t, const Instruction& i) {
  const Registers from = registers_of(i.operands[1]);
  const std::size_t width = i.type.bytes();
  std::byte* to = access(t, i, static_cast<Space>(i.detail), address_of(t, i.operands[0]), width * from.count,
                         SharedMemory::Access::write);
  for (std::size_t k = 0; k < from.count; ++k) {
    put(t, to + k * width, bits(t, from.first[k]), width);
  }
}

template <class T>
T combine(const Instruction& i, T old, T operand, T third) {
  if (i.has("add")) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<std::uint64_t>(old) + static_cast<std::uint64_t>(operand));
    else return old + operand;
  }
  if (i.has("max")) return std::max(old, operand);
  if (i.has("min")) return std::min(old, operand);
  if (i.has("exch")) return operand;
  if (i.has("cas")) return old == operand ? third : old;
  if constexpr (std::is_integral_v<T>) {
    if (i.has("and")) return old & operand;
    if (i.has("or")) return old | operand;
    if (i.has("xor")) return old ^ operand;
  }
  return old;
}
bool is_known_atomic(const Instruction& i) {
  for (const char* word : {"add", "max", "min", "exch", "cas", "and", "or", "xor"})
    if (i.has(word)) return !i.type.is_float() || i.has("add") || i.has("exch");
  return false;
}
template <class T>
void atomic(Thread& t, const Instruction& i) {
  const bool returns = i.words[0] == "atom";
  const std::size_t first = returns ? 1 : 0;
  std::byte* at = access(t, i, static_cast<Space>(i.detail), address_of(t, i.operands[first]), sizeof(T),
                         SharedMemory::Access::atomic);
  T old;
  std::memcpy(&old, at, sizeof(T));
  const T third = i.operands.size() > first + 2 ? read<T>(t, i.operands[first + 2]) : T{};
  const T value = combine(i, old, read<T>(t, i.operands[first + 1]), third);
  put(t, at, value, sizeof(T));
  if (returns) write(t, i.operands[0], old);
}
Execute find_atomic(const Instruction& i) {
  if (!is_known_atomic(i)) return nullptr;
  if (i.type.is_float()) return i.type.bits == 32 ? atomic<float> : i.type.bits == 64 ? atomic<double> : nullptr;
  const bool is_signed = i.type.kind == 's';
  if (i.type.bits == 32) return is_signed ? atomic<std::int32_t> : atomic<std::uint32_t>;
  if (i.type.bits == 64) return is_signed ? atomic<std::int64_t> : atomic<std::uint64_t>;
  return nullptr;
}

/// cp.async [to], [from], bytes[, bytes that are read][, cache policy]: the rest is zero.
void begin_copy(Thread& t, const Instruction& i) {
  const std::uint64_t to = address_of(t, i.operands[0]), from = address_of(t, i.operands[1]);
  const auto bytes = static_cast<std::size_t>(i.operands[2].value);
  if (bytes != 4 && bytes != 8 && bytes != 16) fault(t, i, "copies of 4, 8 or 16 bytes only");
  const std::size_t given = i.operands.size() - static_cast<std::size_t>(i.detail);
  const std::size_t reads = given > 3 ? read<std::uint32_t>(t, i.operands[3]) : bytes;
  if (reads > bytes) fault(t, i, "reads more than it copies");
  if (to % bytes != 0 || (reads > 0 && from % bytes != 0)) fault(t, i, "misaligned address");
  PendingCopy copy{to - space_begin, bytes, {}};
  if (to < space_begin || copy.target + bytes > t.block->shared.size()) fault(t, i, "outside shared memory");
  if (reads > 0) {
    if (!t.block->run->memory->contains(from, reads, t.block->run->buffer_hints[static_cast<std::size_t>(i.number)]))
      fault(t, i, "outside every buffer");
    keep_order(t, i, from, reads, SharedMemory::Access::read);
    std::memcpy(copy.data.data(), reinterpret_cast<const void*>(from), reads);
  }
  const std::string wrong = t.block->shared.begin_copy(t.id, copy.target, bytes);
  if (!wrong.empty()) fault(t, i, wrong);
  t.block->banks.note(t.id, i.number, copy.target, bytes);
  t.open.push_back(copy);
}
void commit_copies(Thread& t, const Instruction&) {
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}
void finish_oldest(Thread& t) {
  for (const PendingCopy& c : t.groups.front()) t.block->shared.end_copy(c.target, c.data.data(), c.bytes);
  t.groups.erase(t.groups.begin());
}
void wait_for_groups(Thread& t, const Instruction& i) {
  while (t.groups.size() > i.operands[0].value) finish_oldest(t);
}
void wait_for_all(Thread& t, const Instruction& i) {
  commit_copies(t, i);
  while (!t.groups.empty()) finish_oldest(t);
}
Execute find_copy(Instruction& i) {
  if (i.has("commit_group")) return commit_copies;
  if (i.has("wait_group")) return wait_for_groups;
  if (i.has("wait_all")) return wait_for_all;
  const bool is_plain = (i.has("cg") || i.has("ca")) && i.has("global") && !i.has("mbarrier") && !i.has("bulk");
  i.detail = i.has("L2::cache_hint") ? 1 : 0;  // a last operand that is none of ours
  return is_plain ? begin_copy : nullptr;
}

}  // namespace

std::byte* access(Thread& t, const Instruction& i, Space space, std::uint64_t address, std::size_t bytes,
                  SharedMemory::Access kind) {
  if (address % bytes != 0) fault(t, i, "misaligned address");
  if (space == Space::generic) {
    constexpr std::array<Space, 4> spaces{Space::global, Space::shared, Space::local, Space::parameter};
    space = spaces[address >> 60 & 3];
    address &= shared_window - 1;
  }
  if (space == Space::global) {
    Run& run = *t.block->run;
    if (!run.memory->contains(address, bytes, run.buffer_hints[static_cast<std::size_t>(i.number)])) {
      for (const auto& [name, data] : run.program->global_memory) {
        const auto begin = reinterpret_cast<std::uint64_t>(data.data());
        if (address >= begin && address + bytes <= begin + data.size()) return reinterpret_cast<std::byte*>(address);
      }
      fault(t, i, "outside every buffer");
    }
    keep_order(t, i, address, bytes, kind);
    return reinterpret_cast<std::byte*>(address);
  }
  const std::uint64_t offset = address - space_begin;
  const auto require_inside = [&](std::size_t size, const char* what) {
    if (address < space_begin || offset > size || bytes > size - offset) fault(t, i, std::string("outside ") + what);
  };
  if (space == Space::local) {
    require_inside(t.local.size(), "local memory");
    return t.local.data() + offset;
  }
  if (space == Space::parameter) {
    const std::vector<std::byte>& parameters = t.block->run->launch->parameters;
    require_inside(parameters.size(), "the parameters");
    if (kind != SharedMemory::Access::read) fault(t, i, "parameters are constant");
    return const_cast<std::byte*>(parameters.data()) + offset;
  }
  require_inside(t.block->shared.size(), "shared memory");
  const std::string wrong = t.block->shared.touch(t.id, offset, bytes, kind);
  if (!wrong.empty()) fault(t, i, wrong);
  if (i.kind == Instruction::plain) t.block->banks.note(t.id, i.number, offset, bytes);
  return t.block->shared.data() + offset;
}

Execute find_memory(Instruction& i) {
  const std::string& operation = i.words[0];
  i.detail = static_cast<int>(space_of(i));
  i.order = order_of(i);
  if (operation == "ld" || operation == "ldu") return i.type.bits > 0 && i.type.bits <= 64 ? load : nullptr;
  if (operation == "st") return i.type.bits > 0 && i.type.bits <= 64 ? store : nullptr;
  if (operation == "atom" || operation == "red") return find_atomic(i);
  if (operation == "cp" && i.has("async")) return find_copy(i);
  if (operation == "membar" || operation == "fence")
    return [](Thread& t, const Instruction& fence) {
      if (!fence.has("cta")) t.block->run->order.fence(t.order);
    };
  for (const char* no_effect : {"createpolicy", "prefetch", "discard", "applypriority"})
    if (operation == no_effect) return [](Thread&, const Instruction&) {};
  return nullptr;
}

}  // namespace nibble::cuda_ptx
