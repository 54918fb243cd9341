// Which code executes an instruction.
#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

void unsupported(Thread& t, const Instruction& i) { fault(t, i, "unsupported instruction"); }
void trap(Thread& t, const Instruction& i) { fault(t, i, "the kernel trapped"); }
void yield_turn(Thread& t, const Instruction&) { t.yields = true; }

}  // namespace

bool find_control(Instruction& i) {
  const std::string& operation = i.words[0];
  if (operation == "bra") {
    i.kind = Instruction::branch;
  } else if (operation == "ret" || operation == "exit") {
    i.kind = Instruction::leave;
  } else if (i.execute_warp = find_warp(i); i.execute_warp != nullptr) {
    i.kind = Instruction::warp;
  } else if (operation == "bar" || operation == "barrier") {
    // Only the barrier of all threads: __syncthreads().
    if (!i.has("sync") || i.operands.size() != 1 || i.operands[0].value != 0) return false;
    i.kind = Instruction::barrier;
  } else {
    return false;
  }
  return true;
}

void bind(Instruction& i) {
  if (find_control(i)) return;
  if (i.words[0] == "trap" || i.words[0] == "brkpt") {
    i.execute = trap;
    return;
  }
  if (i.words[0] == "nanosleep") {
    i.execute = yield_turn;
    return;
  }
  for (auto* find : {find_conversion, find_memory, find_integer, find_float}) {
    i.detail = 0;
    i.execute = find(i);
    if (i.execute != nullptr) return;
  }
  i.execute = unsupported;
}

}  // namespace nibble::cuda_ptx
