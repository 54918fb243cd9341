// Instructions of a whole warp: shuffles, votes, barriers and matrix loads.
#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

using Lanes = std::vector<Thread*>;  // those that take part, ascending

Thread* lane(const Lanes& lanes, int number) {
  if (lanes.size() == 32) return number >= 0 && number < 32 ? lanes[static_cast<std::size_t>(number)] : nullptr;
  for (Thread* t : lanes)
    if (t->lane == number) return t;
  return nullptr;
}

enum ShuffleMode { indexed, up, down, butterfly };

/// shfl.sync.mode.b32 d[|p], a, b, c, mask ("shfl.sync").
void shuffle(const Lanes& lanes, const Instruction& i) {
  std::array<std::uint32_t, 32> result{};
  std::array<bool, 32> valid{};
  for (const Thread* t : lanes) {
    const auto b = static_cast<int>(bits(*t, i.operands[2]) & 31), c = static_cast<int>(bits(*t, i.operands[3]));
    const int segment = c >> 8 & 31, clamp = c & 31, self = t->lane;
    const int last = (self & segment) | (clamp & ~segment), first = self & segment;
    int from = self;
    bool ok = true;
    const auto mode = static_cast<ShuffleMode>(i.detail);
    if (mode == up) from = self - b, ok = from >= last;
    else if (mode == down) from = self + b, ok = from <= last;
    else if (mode == butterfly) from = self ^ b, ok = from <= last;
    else from = first | (b & ~segment), ok = from <= last;
    const Thread* source = lane(lanes, ok ? from : self);
    if (source == nullptr) fault(*t, i, "reads lane " + std::to_string(from) + ", which does not take part");
    result[static_cast<std::size_t>(self)] = read<std::uint32_t>(*source, i.operands[1]);
    valid[static_cast<std::size_t>(self)] = ok;
  }
  for (Thread* t : lanes) {
    const auto self = static_cast<std::size_t>(t->lane);
    const Operand& to = i.operands[0];
    write(*t, to.kind == Operand::vector ? to.parts[0] : to, result[self]);
    if (to.kind == Operand::vector) write<std::uint8_t>(*t, to.parts[1], valid[self]);
  }
}

void vote(const Lanes& lanes, const Instruction& i) {
  std::uint32_t ballot = 0;
  for (const Thread* t : lanes)
    if (bits(*t, i.operands[1]) != 0) ballot |= 1u << t->lane;
  const auto yes = static_cast<std::size_t>(std::popcount(ballot));
  for (Thread* t : lanes) {
    if (i.has("ballot")) write(*t, i.operands[0], ballot);
    else if (i.has("any")) write<std::uint8_t>(*t, i.operands[0], yes > 0);
    else if (i.has("all")) write<std::uint8_t>(*t, i.operands[0], yes == lanes.size());
    else if (i.has("uni")) write<std::uint8_t>(*t, i.operands[0], yes == 0 || yes == lanes.size());
    else fault(*t, i, "unsupported instruction");
  }
}

/// redux.sync.op.type d, a, mask.
void reduce(const Lanes& lanes, const Instruction& i) {
  std::uint32_t all = read<std::uint32_t>(*lanes[0], i.operands[1]);
  const auto less = [&](std::uint32_t a, std::uint32_t b) {
    return i.type.kind == 's' ? static_cast<std::int32_t>(a) < static_cast<std::int32_t>(b) : a < b;
  };
  for (std::size_t k = 1; k < lanes.size(); ++k) {
    const auto a = read<std::uint32_t>(*lanes[k], i.operands[1]);
    if (i.has("add")) all += a;
    else if (i.has("min")) all = less(a, all) ? a : all;
    else if (i.has("max")) all = less(all, a) ? a : all;
    else if (i.has("and")) all &= a;
    else if (i.has("or")) all |= a;
    else if (i.has("xor")) all ^= a;
    else fault(*lanes[k], i, "unsupported instruction");
  }
  for (Thread* t : lanes) write(*t, i.operands[0], all);
}

/// ldmatrix.xN: matrix m's row r begins at the address of lane 8·m + r; a lane gets two elements of each matrix, of row
/// lane/4 (.trans: of column lane/4).
void load_matrices(const Lanes& lanes, const Instruction& i) {
  const std::size_t matrices = i.has("x4") ? 4 : i.has("x2") ? 2 : 1;
  const Operand& to = i.operands[0];
  const bool is_transposed = i.has("trans");
  for (std::size_t m = 0; m < matrices; ++m) {
    std::array<std::array<std::uint16_t, 8>, 8> matrix{};
    std::array<std::uint32_t, 8> rows{};
    for (std::size_t r = 0; r < 8; ++r) {
      Thread& owner = *lanes[8 * m + r];
      const std::byte* row =
          access(owner, i, Space::shared, address_of(owner, i.operands[1]), 16, SharedMemory::Access::read);
      std::memcpy(matrix[r].data(), row, 16);
      rows[r] = static_cast<std::uint32_t>(row - owner.block->shared.data());
    }
    lanes[0]->block->banks.note_matrix(rows);
    for (Thread* t : lanes) {
      const auto row = static_cast<std::size_t>(t->lane / 4), column = static_cast<std::size_t>(t->lane % 4 * 2);
      const std::uint32_t low = is_transposed ? matrix[column][row] : matrix[row][column];
      const std::uint32_t high = is_transposed ? matrix[column + 1][row] : matrix[row][column + 1];
      write(*t, to.kind == Operand::vector ? to.parts[m] : to, low | high << 16);
    }
  }
}

/// bar.warp.sync: orders the memory of the lanes, which is noted where all of them take part.
void synchronize(const Lanes& lanes, const Instruction&) {
  Block& block = *lanes[0]->block;
  const int warp = lanes[0]->warp;
  const auto live = std::count_if(block.threads.begin(), block.threads.end(),
                                  [&](const Thread& t) { return t.warp == warp && t.state != Thread::done; });
  if (lanes.size() == static_cast<std::size_t>(live)) block.shared.warp_barrier(static_cast<std::size_t>(warp));
}

}  // namespace

ExecuteWarp find_warp(Instruction& i) {
  const std::string& operation = i.words[0];
  if (!i.has("sync")) return nullptr;
  if (operation == "mma") return find_matrix_product(i);
  if (operation == "ldmatrix") return i.has("m8n8") && i.has("b16") ? load_matrices : nullptr;
  i.names_lanes = true;
  if (i.opcode == "bar.warp.sync") return synchronize;
  if (operation == "vote") return vote;
  if (operation == "redux") return reduce;
  if (operation != "shfl") return nullptr;
  i.detail = i.has("up") ? up : i.has("down") ? down : i.has("bfly") ? butterfly : indexed;
  return shuffle;
}

}  // namespace nibble::cuda_ptx
