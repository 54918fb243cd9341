// Instructions of a whole warp: shuffles, votes, matrix loads and products.
//
// Fragments are written down as the PTX ISA defines them, element by element: which lane holds which element where.
#include <array>
#include <bit>
#include <vector>

#include "tests/cuda_ptx/number_formats.h"
#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

using Lanes = std::vector<Thread*>;  // those that take part, ascending

Thread* lane(const Lanes& lanes, int number) {
  for (Thread* t : lanes)
    if (t->lane == number) return t;
  return nullptr;
}

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
    if (i.has("up")) from = self - b, ok = from >= last;
    else if (i.has("down")) from = self + b, ok = from <= last;
    else if (i.has("bfly")) from = self ^ b, ok = from <= last;
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
  for (std::size_t m = 0; m < matrices; ++m) {
    std::array<std::array<std::uint16_t, 8>, 8> matrix{};
    for (std::size_t r = 0; r < 8; ++r) {
      Thread& owner = *lanes[8 * m + r];
      std::memcpy(matrix[r].data(),
                  access(owner, i, Space::shared, address_of(owner, i.operands[1]), 16, SharedMemory::Access::read),
                  16);
    }
    for (Thread* t : lanes) {
      const auto row = static_cast<std::size_t>(t->lane / 4), column = static_cast<std::size_t>(t->lane % 4 * 2);
      const std::uint32_t low = i.has("trans") ? matrix[column][row] : matrix[row][column];
      const std::uint32_t high = i.has("trans") ? matrix[column + 1][row] : matrix[row][column + 1];
      write(*t, to.kind == Operand::vector ? to.parts[m] : to, low | high << 16);
    }
  }
}

/// Where a lane's element of a fragment lies in its matrix.
struct Position {
  std::size_t row, column;
};

/// A product d = a·b + c of one shape. Elements of a and b are `bits` wide and packed in 32-bit registers.
struct Shape {
  std::size_t m, n, k;
  int element_bits;
  [[nodiscard]] std::size_t per_register() const { return 32 / static_cast<std::size_t>(element_bits); }
  [[nodiscard]] std::size_t a_elements() const { return m * k / 32; }
  [[nodiscard]] std::size_t b_elements() const { return n * k / 32; }
  [[nodiscard]] std::size_t c_elements() const { return m * n / 32; }
  /// "groupID" and "threadID_in_group" of the PTX ISA: a run of one register's elements lies along k. Registers of a
  /// go down the rows first, then along k; those of b along k.
  [[nodiscard]] Position a(std::size_t lane, std::size_t e) const {
    const std::size_t run = per_register(), reg = e / run, rows = m / 8;
    return {lane / 4 + 8 * (reg % rows), lane % 4 * run + e % run + 4 * run * (reg / rows)};
  }
  [[nodiscard]] Position b(std::size_t lane, std::size_t e) const {
    const std::size_t run = per_register();
    return {lane % 4 * run + e % run + 4 * run * (e / run), lane / 4};
  }
  [[nodiscard]] Position c(std::size_t lane, std::size_t e) const {
    return {lane / 4 + 8 * (e / 2), lane % 4 * 2 + e % 2};
  }
};

template <class T>
using Matrix = std::array<std::array<T, 32>, 32>;

const Operand& register_of(const Operand& o, std::size_t k) { return o.kind == Operand::vector ? o.parts[k] : o; }

template <class T, class Decode>
void multiply(const Lanes& lanes, const Instruction& i, const Shape& s, Decode decode) {
  using C = std::conditional_t<std::is_same_v<T, double>, float, std::int32_t>;
  Matrix<T> a{}, b{}, d{};
  const auto element = [&](const Thread& t, const Operand& o, std::size_t e) {
    const auto word = read<std::uint32_t>(t, register_of(o, e / s.per_register()));
    return decode(word >> (static_cast<std::size_t>(s.element_bits) * (e % s.per_register())));
  };
  for (const Thread* t : lanes) {
    const auto self = static_cast<std::size_t>(t->lane);
    for (std::size_t e = 0; e < s.a_elements(); ++e)
      a[s.a(self, e).row][s.a(self, e).column] = element(*t, i.operands[1], e);
    for (std::size_t e = 0; e < s.b_elements(); ++e)
      b[s.b(self, e).row][s.b(self, e).column] = element(*t, i.operands[2], e);
    for (std::size_t e = 0; e < s.c_elements(); ++e)
      d[s.c(self, e).row][s.c(self, e).column] = static_cast<T>(read<C>(*t, register_of(i.operands[3], e)));
  }
  for (std::size_t row = 0; row < s.m; ++row)
    for (std::size_t column = 0; column < s.n; ++column)
      for (std::size_t k = 0; k < s.k; ++k) d[row][column] += a[row][k] * b[k][column];
  for (Thread* t : lanes)
    for (std::size_t e = 0; e < s.c_elements(); ++e) {
      const Position p = s.c(static_cast<std::size_t>(t->lane), e);
      write(*t, register_of(i.operands[0], e), static_cast<C>(d[p.row][p.column]));
    }
}

void matrix_product(const Lanes& lanes, const Instruction& i) {
  const std::string& opcode = i.opcode;
  const auto ends_with = [&](const char* end) { return opcode.ends_with(end); };
  const auto half = [](std::uint32_t bits_of) { return widen(static_cast<std::uint16_t>(bits_of), f16_format); };
  const auto brain = [](std::uint32_t bits_of) { return widen(static_cast<std::uint16_t>(bits_of), bf16_format); };
  const auto byte = [](std::uint32_t bits_of) { return std::int64_t{static_cast<std::int8_t>(bits_of)}; };
  if (ends_with(".m16n8k16.row.col.f32.f16.f16.f32")) return multiply<double>(lanes, i, {16, 8, 16, 16}, half);
  if (ends_with(".m16n8k8.row.col.f32.f16.f16.f32")) return multiply<double>(lanes, i, {16, 8, 8, 16}, half);
  if (ends_with(".m16n8k16.row.col.f32.bf16.bf16.f32")) return multiply<double>(lanes, i, {16, 8, 16, 16}, brain);
  if (ends_with(".m16n8k8.row.col.f32.bf16.bf16.f32")) return multiply<double>(lanes, i, {16, 8, 8, 16}, brain);
  if (ends_with(".m16n8k32.row.col.s32.s8.s8.s32")) return multiply<std::int64_t>(lanes, i, {16, 8, 32, 8}, byte);
  if (ends_with(".m16n8k16.row.col.s32.s8.s8.s32")) return multiply<std::int64_t>(lanes, i, {16, 8, 16, 8}, byte);
  if (ends_with(".m8n8k16.row.col.s32.s8.s8.s32")) return multiply<std::int64_t>(lanes, i, {8, 8, 16, 8}, byte);
  fault(*lanes[0], i, "unsupported instruction");
}

}  // namespace

std::uint32_t lanes_of(const Thread& t, const Instruction& i) {
  const std::string& operation = i.words[0];
  if (operation == "mma" || operation == "ldmatrix") return 0xffffffff;
  return read<std::uint32_t>(t, i.operands.back());  // the mask of shfl, vote, redux, bar.warp
}

void execute_warp(Lanes& lanes, const Instruction& i) {
  const std::string& operation = i.words[0];
  if (operation == "shfl") return shuffle(lanes, i);
  if (operation == "vote") return vote(lanes, i);
  if (operation == "redux") return reduce(lanes, i);
  if (operation == "ldmatrix") return load_matrices(lanes, i);
  if (operation == "mma") return matrix_product(lanes, i);
  // bar.warp.sync: orders the memory of the lanes, which is noted where all of them take part.
  Block& block = *lanes[0]->block;
  const auto warp = static_cast<std::size_t>(lanes[0]->warp);
  std::size_t live = 0;
  for (const Thread& t : block.threads) live += t.warp == lanes[0]->warp && t.state != Thread::done;
  if (lanes.size() == live) block.shared.warp_barrier(warp);
}

}  // namespace nibble::cuda_ptx
