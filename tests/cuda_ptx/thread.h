// The state of a running block, and how instructions reach it.
#pragma once

#include <array>
#include <cstring>
#include <type_traits>

#include "tests/cuda_ptx/bank_traffic.h"
#include "tests/cuda_ptx/global_order.h"
#include "tests/cuda_ptx/program.h"
#include "tests/cuda_ptx/shared_memory.h"

namespace nibble::cuda_ptx {

struct Block;

/// An asynchronous copy under way: where to, and what (read at the issue).
struct PendingCopy {
  std::uint64_t target;  ///< An offset in shared memory.
  std::size_t bytes;
  std::array<std::byte, 16> data;
};

struct Thread {
  enum State { running, at_barrier, at_warp, done };
  Block* block = nullptr;
  int id = 0, lane = 0, warp = 0;
  int pc = 0;
  State state = running;
  bool yields = false;                 ///< Has met an instruction of a waiting loop: others go first.
  std::uint64_t* registers = nullptr;  ///< Of the function, in the block's list of them.
  std::vector<std::byte> local;
  std::vector<PendingCopy> open;                 ///< Copies of the group that is not yet committed.
  std::vector<std::vector<PendingCopy>> groups;  ///< Oldest first.
  OrderedThread order;
};

/// What all blocks of a launch share.
struct Run {
  const Function* function;
  const Launch* launch;
  const MemoryMap* memory;
  const Program* program;
  Statistics* statistics;
  std::vector<std::uint64_t> counts;          ///< By Instruction::statistic.
  std::vector<MemoryMap::Hint> buffer_hints;  ///< By Instruction::number.
  bool has_changed = false;                   ///< Memory, since this was last set back.
  GlobalOrder order;                          ///< Among blocks, where there are several.
};

struct Block {
  Run* run = nullptr;
  Dim index;
  std::vector<Thread> threads;
  SharedMemory shared;
  BankTraffic banks;
  int live = 0;
  bool finished = false;
};

/// Throws Fault, saying which thread of which block did it with which instruction.
[[noreturn]] void fault(const Thread& t, const Instruction& i, const std::string& what);

std::uint64_t special_value(const Thread& t, int index);

/// The bits of an operand, in the low part.
inline std::uint64_t bits(const Thread& t, const Operand& o) {
  if (o.kind == Operand::reg) {
    const std::uint64_t value = t.registers[static_cast<std::size_t>(o.index)];
    return o.negated ? static_cast<std::uint64_t>(value == 0) : value;
  }
  return o.kind == Operand::special ? special_value(t, o.index) : o.value;
}
template <class T>
T read(const Thread& t, const Operand& o) {
  const std::uint64_t raw = bits(t, o);
  T value;
  std::memcpy(&value, &raw, sizeof(T));
  return value;
}
/// Signed integers are extended, so that a wider register of the same signedness may be the target.
template <class T>
void write(Thread& t, const Operand& o, T value) {
  if (o.kind != Operand::reg) return;
  std::uint64_t raw = 0;
  if constexpr (std::is_integral_v<T> && std::is_signed_v<T>)
    raw = static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
  else std::memcpy(&raw, &value, sizeof(T));
  t.registers[static_cast<std::size_t>(o.index)] = raw;
}

enum class Space { global, shared, local, parameter, generic };
/// The bytes that an access may touch; faults where it may not. `kind` matters for shared memory only.
std::byte* access(Thread& t, const Instruction& i, Space space, std::uint64_t address, std::size_t bytes,
                  SharedMemory::Access kind);
inline std::uint64_t address_of(const Thread& t, const Operand& o) {
  return (o.index >= 0 ? t.registers[static_cast<std::size_t>(o.index)] : 0) + o.value;
}

/// The lanes that must be at a warp-wide instruction together.
inline std::uint32_t lanes_of(const Thread& t, const Instruction& i) {
  return i.names_lanes ? read<std::uint32_t>(t, i.operands.back()) : 0xffffffff;
}

/// The parts of the instruction table; each returns null for what it does not know.
Execute find_integer(Instruction& i);
Execute find_float(Instruction& i);
Execute find_conversion(Instruction& i);
Execute find_memory(Instruction& i);
ExecuteWarp find_matrix_product(const Instruction& i);
/// Null for what is none of the whole warp's, or unknown.
ExecuteWarp find_warp(Instruction& i);
/// Sets `kind` where the instruction is one of control or of the whole warp.
bool find_control(Instruction& i);

}  // namespace nibble::cuda_ptx
