// What the parser makes of a PTX text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/cuda_ptx/global_order.h"
#include "tests/cuda_ptx/interpreter.h"

namespace nibble::cuda_ptx {

/// A type of PTX: its letter (b bits, u unsigned, s signed, f float, g bfloat16, p predicate) and its width.
struct Type {
  char kind = 'b';
  int bits = 0;   ///< Of one element; 1 for a predicate.
  int lanes = 1;  ///< 2 for f16x2 and bf16x2.
  [[nodiscard]] bool is_float() const { return kind == 'f' || kind == 'g'; }
  [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(bits * lanes) / 8; }
  bool operator==(const Type&) const = default;
};
/// "f32", "bf16x2" …; bits is 0 where the word is no type.
Type type_of(const std::string& word);

enum class Special { tid, ctaid, ntid, nctaid, laneid, warpid };

struct Operand {
  enum Kind { reg, immediate, special, address, vector } kind = immediate;
  int index = -1;           ///< reg, address: the register's number, or −1. special: 4·Special + axis.
  std::uint64_t value = 0;  ///< immediate; address: what is added to the register.
  std::vector<Operand> parts;
  bool negated = false;  ///< A predicate's "!".
};

struct Thread;
struct Instruction;
using Execute = void (*)(Thread&, const Instruction&);
/// Executes one for the lanes of a warp that are at it together, ascending.
using ExecuteWarp = void (*)(const std::vector<Thread*>&, const Instruction&);

struct Instruction {
  enum Kind { plain, branch, leave, barrier, warp } kind = plain;
  std::string text;                ///< For messages.
  std::string opcode;              ///< "ld.global.v4.u32"
  std::vector<std::string> words;  ///< Its parts.
  std::vector<Operand> operands;
  Type type, from;  ///< The last type among the words, and the one before.
  int guard = -1;   ///< The predicate's register, or −1.
  bool guard_negated = false;
  int target = -1;    ///< Of a branch.
  std::string label;  ///< Of a branch.
  int detail = 0;     ///< What the instruction's table entry keeps for its execution.
  MemoryOrder order;  ///< Of an access to memory.
  Execute execute = nullptr;
  ExecuteWarp execute_warp = nullptr;  ///< Of kind warp.
  bool names_lanes = false;            ///< Of kind warp: the last operand is a mask of lanes; else all take part.
  int statistic = 0;                   ///< The opcode's number.
  int number = 0;                      ///< Its own, in the function.

  [[nodiscard]] bool has(const char* word) const;
};

struct Parameter {
  std::size_t offset, bytes;
};

/// One kernel.
struct Function {
  std::string name;
  std::map<std::string, Parameter> parameters;
  std::size_t parameter_bytes = 0;
  int registers = 0;
  std::size_t local_bytes = 0;
  std::size_t shared_bytes = 0;  ///< Static.
  std::size_t dynamic_shared_offset = 0;
  std::vector<Instruction> code;
};

struct Program {
  std::map<std::string, Function> functions;
  std::vector<std::string> opcodes;                             ///< By Instruction::statistic.
  std::map<std::string, std::vector<std::byte>> global_memory;  ///< Variables of the module.
};

/// Where the address spaces lie. A thread's generic addresses above 2^60 name shared, local and parameter memory.
inline constexpr std::uint64_t shared_window = std::uint64_t{1} << 60;
inline constexpr std::uint64_t local_window = std::uint64_t{2} << 60;
inline constexpr std::uint64_t parameter_window = std::uint64_t{3} << 60;
/// The first address of each space but the global one; not 0, so that a null pointer is out of bounds.
inline constexpr std::uint64_t space_begin = 0x400;

Program parse(std::string_view text);
/// Finds how an instruction is executed; one that is unknown faults by name when it is.
void bind(Instruction& instruction);

}  // namespace nibble::cuda_ptx
