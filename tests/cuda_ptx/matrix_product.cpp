// mma: products of small matrices, whose elements the lanes of a warp hold.
//
// Fragments are written down as the PTX ISA defines them, element by element: which lane holds which element where
// ("Matrix Fragments for mma.m16n8k16 with floating point type", "… for mma.m16n8k32" and their neighbours).
#include <array>

#include "tests/cuda_ptx/number_formats.h"
#include "tests/cuda_ptx/thread.h"

namespace nibble::cuda_ptx {

namespace {

using Lanes = std::vector<Thread*>;

/// Where a lane's element of a fragment lies in its matrix.
struct Position {
  std::size_t row, column;
};

/// A product d = a·b + c of one shape. Elements of a and b are packed in 32-bit registers.
template <std::size_t M, std::size_t K, std::size_t ElementBits>
struct Shape {
  static constexpr std::size_t m = M, n = 8, k = K, element_bits = ElementBits, per_register = 32 / ElementBits;
  static constexpr std::size_t a_elements = m * k / 32, b_elements = n * k / 32, c_elements = m * n / 32;
  /// "groupID" and "threadID_in_group" of the PTX ISA: a run of one register's elements lies along k. Registers of a
  /// go down the rows first, then along k; those of b along k.
  static constexpr Position a(std::size_t lane, std::size_t e) {
    const std::size_t reg = e / per_register, rows = m / 8;
    return {lane / 4 + 8 * (reg % rows), lane % 4 * per_register + e % per_register + 4 * per_register * (reg / rows)};
  }
  static constexpr Position b(std::size_t lane, std::size_t e) {
    return {lane % 4 * per_register + e % per_register + 4 * per_register * (e / per_register), lane / 4};
  }
  static constexpr Position c(std::size_t lane, std::size_t e) {
    return {lane / 4 + 8 * (e / 2), lane % 4 * 2 + e % 2};
  }
};

const Operand& register_of(const Operand& o, std::size_t k) { return o.kind == Operand::vector ? o.parts[k] : o; }

/// What elements are: how they are upcast, summed and delivered.
struct Half {
  using Sum = double;
  using Result = float;
  static double upcast(std::uint32_t bits_of) { return value_of(static_cast<std::uint16_t>(bits_of), f16_format); }
};
struct Brain {
  using Sum = double;
  using Result = float;
  static double upcast(std::uint32_t bits_of) { return value_of(static_cast<std::uint16_t>(bits_of), bf16_format); }
};
struct SignedByte {
  using Sum = std::uint32_t;  // wraps around, as .s32 without .satfinite
  using Result = std::uint32_t;
  static std::uint32_t upcast(std::uint32_t bits_of) {
    return static_cast<std::uint32_t>(std::int32_t{static_cast<std::int8_t>(bits_of)});
  }
};

template <class Element, class S>
void multiply(const Lanes& lanes, const Instruction& i) {
  using Sum = typename Element::Sum;
  using Result = typename Element::Result;
  std::array<std::array<Sum, S::k>, S::m> a;
  std::array<std::array<Sum, S::n>, S::k> b;
  std::array<std::array<Sum, S::n>, S::m> d;
  const auto element = [&](const Thread& t, const Operand& o, std::size_t e) {
    const auto word = read<std::uint32_t>(t, register_of(o, e / S::per_register));
    return Element::upcast(word >> (S::element_bits * (e % S::per_register)));
  };
  for (const Thread* t : lanes) {
    const auto self = static_cast<std::size_t>(t->lane);
    for (std::size_t e = 0; e < S::a_elements; ++e)
      a[S::a(self, e).row][S::a(self, e).column] = element(*t, i.operands[1], e);
    for (std::size_t e = 0; e < S::b_elements; ++e)
      b[S::b(self, e).row][S::b(self, e).column] = element(*t, i.operands[2], e);
    for (std::size_t e = 0; e < S::c_elements; ++e)
      d[S::c(self, e).row][S::c(self, e).column] = static_cast<Sum>(read<Result>(*t, register_of(i.operands[3], e)));
  }
  for (std::size_t row = 0; row < S::m; ++row)
    for (std::size_t k = 0; k < S::k; ++k)
      for (std::size_t column = 0; column < S::n; ++column) d[row][column] += a[row][k] * b[k][column];
  for (Thread* t : lanes)
    for (std::size_t e = 0; e < S::c_elements; ++e) {
      const Position p = S::c(static_cast<std::size_t>(t->lane), e);
      write(*t, register_of(i.operands[0], e), static_cast<Result>(d[p.row][p.column]));
    }
}

struct Entry {
  const char* shape_and_types;
  ExecuteWarp execute;
};
constexpr Entry products[] = {{"m16n8k16.row.col.f32.f16.f16.f32", multiply<Half, Shape<16, 16, 16>>},
                              {"m16n8k8.row.col.f32.f16.f16.f32", multiply<Half, Shape<16, 8, 16>>},
                              {"m16n8k16.row.col.f32.bf16.bf16.f32", multiply<Brain, Shape<16, 16, 16>>},
                              {"m16n8k8.row.col.f32.bf16.bf16.f32", multiply<Brain, Shape<16, 8, 16>>},
                              {"m16n8k32.row.col.s32.s8.s8.s32", multiply<SignedByte, Shape<16, 32, 8>>},
                              {"m16n8k16.row.col.s32.s8.s8.s32", multiply<SignedByte, Shape<16, 16, 8>>},
                              {"m8n8k16.row.col.s32.s8.s8.s32", multiply<SignedByte, Shape<8, 16, 8>>}};

}  // namespace

ExecuteWarp find_matrix_product(const Instruction& i) {
  for (const Entry& e : products)
    if (i.opcode == std::string("mma.sync.aligned.") + e.shape_and_types) return e.execute;
  return nullptr;
}

}  // namespace nibble::cuda_ptx
