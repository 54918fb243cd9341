// Matrix loads and products of the interpreter against plain sums. Which lane holds which element is written here as
// the PTX ISA's sections on matrix fragments state it, shape by shape, and not as the interpreter derives it.
#include <bit>
#include <functional>
#include <random>

#include "tests/cuda_ptx/test_kernel.h"

namespace nibble::cuda_ptx {
namespace {

struct Place {
  unsigned row, column;
};
/// Element i of a lane's fragment, by groupID and threadID_in_group.
using Fragment = std::function<Place(unsigned group, unsigned thread, unsigned i)>;

/// A product's shape; its fragments' sizes in registers; how an integer becomes an element.
struct Product {
  const char* name;
  unsigned m, k, a_registers, b_registers, c_registers, element_bits;
  Fragment a, b, c;
  std::uint32_t (*encode)(int);
  bool is_float;
};

std::uint32_t half_of(int n) {
  if (n == 0) return 0;
  const unsigned size = static_cast<unsigned>(std::abs(n));
  const auto exponent = static_cast<unsigned>(std::bit_width(size)) - 1;
  return (n < 0 ? 0x8000u : 0u) | (exponent + 15) << 10 | (size << (10 - exponent) & 0x3ff);
}
std::uint32_t brain_of(int n) { return std::bit_cast<std::uint32_t>(static_cast<float>(n)) >> 16; }
std::uint32_t byte_of(int n) { return static_cast<std::uint8_t>(n); }

Place c_of_16_rows(unsigned group, unsigned thread, unsigned i) {
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}
Place a_of_16_halves(unsigned group, unsigned thread, unsigned i) {
  const bool is_upper = i < 2 || (i >= 4 && i < 6);
  return {is_upper ? group : group + 8, thread * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Place b_of_16_halves(unsigned group, unsigned thread, unsigned i) {
  return {thread * 2 + (i & 1) + (i < 2 ? 0 : 8), group};
}
Place a_of_8_halves(unsigned group, unsigned thread, unsigned i) {
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}
Place b_of_8_halves(unsigned group, unsigned thread, unsigned i) { return {thread * 2 + i, group}; }
Place a_of_32_bytes(unsigned group, unsigned thread, unsigned i) {
  const bool is_upper = i < 4 || (i >= 8 && i < 12);
  return {is_upper ? group : group + 8, thread * 4 + (i & 3) + (i < 8 ? 0 : 16)};
}
Place b_of_32_bytes(unsigned group, unsigned thread, unsigned i) {
  return {thread * 4 + (i & 3) + (i < 4 ? 0 : 16), group};
}
Place a_of_16_bytes(unsigned group, unsigned thread, unsigned i) {
  return {i < 4 ? group : group + 8, thread * 4 + (i & 3)};
}
Place b_of_16_bytes(unsigned group, unsigned thread, unsigned i) { return {thread * 4 + i, group}; }
Place c_of_8_rows(unsigned group, unsigned thread, unsigned i) { return {group, thread * 2 + i}; }

const Product kProducts[] = {
    {"m16n8k16.row.col.f32.f16.f16.f32", 16, 16, 4, 2, 4, 16, a_of_16_halves, b_of_16_halves, c_of_16_rows, half_of,
     true},
    {"m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, 4, 2, 4, 16, a_of_16_halves, b_of_16_halves, c_of_16_rows, brain_of,
     true},
    {"m16n8k8.row.col.f32.f16.f16.f32", 16, 8, 2, 1, 4, 16, a_of_8_halves, b_of_8_halves, c_of_16_rows, half_of, true},
    {"m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, 2, 1, 4, 16, a_of_8_halves, b_of_8_halves, c_of_16_rows, brain_of,
     true},
    {"m16n8k32.row.col.s32.s8.s8.s32", 16, 32, 4, 2, 4, 8, a_of_32_bytes, b_of_32_bytes, c_of_16_rows, byte_of, false},
    {"m16n8k16.row.col.s32.s8.s8.s32", 16, 16, 2, 1, 4, 8, a_of_16_bytes, b_of_16_bytes, c_of_16_rows, byte_of, false},
    {"m8n8k16.row.col.s32.s8.s8.s32", 8, 16, 1, 1, 2, 8,
     [](unsigned g, unsigned t, unsigned i) {
       return Place{g, t * 4 + i};
     },
     b_of_16_bytes, c_of_8_rows, byte_of, false}};

/// Of a lane: a's registers at 0, b's at 4, c's at 8, the result's at 12.
constexpr unsigned kWordsALane = 8;

std::string list(char kind, unsigned first, unsigned count) {
  std::string out;
  for (unsigned i = 0; i < count; ++i)
    out += (i == 0 ? "{%" : ", %") + std::string(1, kind) + std::to_string(first + i);
  return out + "}";
}
std::string multiply(const Product& p) {
  std::string body;
  for (unsigned i = 0; i < 12; ++i)
    body += "ld.global.u32 %r" + std::to_string(i) + ", [%mine+" + std::to_string(4 * i) + "];";
  body += std::string("mma.sync.aligned.") + p.name + " " + list('r', 12, p.c_registers) + ", " +
          list('r', 0, p.a_registers) + ", " + list('r', 4, p.b_registers) + ", " + list('r', 8, p.c_registers) + ";";
  for (unsigned i = 0; i < p.c_registers; ++i)
    body += "st.global.u32 [%mine+" + std::to_string(48 + 4 * i) + "], %r" + std::to_string(12 + i) + ";";
  return kernel(body, "", kWordsALane);
}

struct Matrices {
  std::vector<int> a, b, c;  ///< [m][k], [k][8], [m][8]
  Matrices(const Product& p, unsigned seed) : a(p.m * p.k), b(p.k * 8), c(p.m * 8) {
    std::mt19937 random(seed);
    for (auto* matrix : {&a, &b, &c})
      for (int& v : *matrix) v = static_cast<int>(random() % 241) - 120;
  }
};
std::vector<std::uint64_t> fragments(const Product& p, const Matrices& m) {
  std::vector<std::uint32_t> words(32 * 16);
  const unsigned packed = 32 / p.element_bits;
  for (unsigned lane = 0; lane < 32; ++lane) {
    std::uint32_t* const mine = words.data() + 16 * lane;
    for (unsigned i = 0; i < p.a_registers * packed; ++i) {
      const Place at = p.a(lane >> 2, lane & 3, i);
      mine[i / packed] |= p.encode(m.a[at.row * p.k + at.column]) << (i % packed * p.element_bits);
    }
    for (unsigned i = 0; i < p.b_registers * packed; ++i) {
      const Place at = p.b(lane >> 2, lane & 3, i);
      mine[4 + i / packed] |= p.encode(m.b[at.row * 8 + at.column]) << (i % packed * p.element_bits);
    }
    for (unsigned i = 0; i < p.c_registers; ++i) {
      const Place at = p.c(lane >> 2, lane & 3, i);
      const int value = m.c[at.row * 8 + at.column];
      mine[8 + i] =
          p.is_float ? std::bit_cast<std::uint32_t>(static_cast<float>(value)) : static_cast<std::uint32_t>(value);
    }
  }
  std::vector<std::uint64_t> out(words.size() / 2);
  std::memcpy(out.data(), words.data(), 4 * words.size());
  return out;
}
std::uint32_t result_of(const Outcome& o, unsigned lane, unsigned i) {
  return static_cast<std::uint32_t>(o.out[kWordsALane * lane + 6 + i / 2] >> (32 * (i % 2)));
}

TEST(PtxMatrices, EveryProductOfEveryShape) {
  for (const Product& p : kProducts)
    for (unsigned seed = 0; seed < 3; ++seed) {
      const Matrices m(p, seed);
      const Outcome o = run_on(fragments(p, m), multiply(p), 32, seed);
      ASSERT_EQ(o.fault, "") << p.name;
      for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned i = 0; i < p.c_registers; ++i) {
          const Place at = p.c(lane >> 2, lane & 3, i);
          int sum = m.c[at.row * 8 + at.column];
          for (unsigned k = 0; k < p.k; ++k) sum += m.a[at.row * p.k + k] * m.b[k * 8 + at.column];
          const std::uint32_t bits = result_of(o, lane, i);
          const float actual =
              p.is_float ? std::bit_cast<float>(bits) : static_cast<float>(static_cast<std::int32_t>(bits));
          ASSERT_EQ(actual, static_cast<float>(sum)) << p.name << ", lane " << lane << ", element " << i;
        }
    }
}

TEST(PtxMatrices, IntegerSumsWrapAround) {
  const Product& p = kProducts[4];
  Matrices m(p, 0);
  for (auto* matrix : {&m.a, &m.b}) std::fill(matrix->begin(), matrix->end(), -128);
  std::fill(m.c.begin(), m.c.end(), 0x7fffffff);
  const Outcome o = run_on(fragments(p, m), multiply(p), 32);
  EXPECT_EQ(result_of(o, 7, 3), 0x7fffffffu + 32u * 128u * 128u);
}

TEST(PtxMatrices, FloatSumsAreRoundedOnce) {
  const Product& p = kProducts[0];
  Matrices m(p, 0);
  std::fill(m.a.begin(), m.a.end(), 1);
  std::fill(m.b.begin(), m.b.end(), 1);
  std::fill(m.c.begin(), m.c.end(), 1 << 24);  // to which 1 cannot be added sixteen times in fp32
  const Outcome o = run_on(fragments(p, m), multiply(p), 32);
  EXPECT_EQ(std::bit_cast<float>(result_of(o, 0, 0)), 16777232.0f);
}

TEST(PtxMatrices, ProductsNeedTheWholeWarp) {
  const Product& p = kProducts[1];
  const Matrices m(p, 0);
  std::string text = multiply(p);
  text.insert(text.find("mma.sync"), "setp.eq.u32 %p1, %tid, 5; @%p1 bra $SKIP; ");
  text.insert(text.find("st.global"), "$SKIP: ");
  EXPECT_TRUE(run_on(fragments(p, m), text, 32).blames("which has ended")) << run_on(fragments(p, m), text, 32).fault;
  EXPECT_TRUE(run_on(fragments(p, m), multiply(p), 16).blames("lanes that the block does not have"));
  std::string unknown = multiply(p);
  unknown.replace(unknown.find("m16n8k16"), 8, "m16n8k99");
  EXPECT_TRUE(run_on(fragments(p, m), unknown, 32).blames("unsupported instruction: mma"));
}

// ---- ldmatrix -------------------------------------------------------------------------------------------------------

const std::string kTile = ".shared .align 16 .b8 tile[512];\n";
/// Each lane writes 16 bytes of shared memory, elements 8·lane …, and afterwards %at is where they begin.
const std::string kFill =
    "mov.u32 %r1, tile; shl.b32 %r2, %tid, 4; add.s32 %at, %r1, %r2; shl.b32 %r4, %tid, 3; add.s32 %r5, %r4, 1; "
    "shl.b32 %r5, %r5, 16; or.b32 %r4, %r4, %r5; add.s32 %r5, %r4, 0x20002; add.s32 %r6, %r5, 0x20002; "
    "add.s32 %r7, %r6, 0x20002; st.shared.v4.u32 [%at], {%r4, %r5, %r6, %r7}; ";

Outcome load_matrices(const std::string& instruction, const std::string& between = "bar.sync 0; ") {
  return run_on(
      std::vector<std::uint64_t>(64),
      kernel(kFill + between + instruction + " st.global.v4.u32 [%mine], {%r10, %r11, %r12, %r13};", kTile, 2), 32);
}

TEST(PtxMatrices, LoadsRowsOrColumns) {
  struct Case {
    const char* instruction;
    unsigned matrices;
    bool is_transposed;
  };
  for (const Case& c :
       {Case{"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%at];", 4, false},
        Case{"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r10, %r11, %r12, %r13}, [%at];", 4, true},
        Case{"ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r10, %r11}, [%at];", 2, false},
        Case{"ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r10, %r11}, [%at];", 2, true},
        Case{"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%at];", 1, false}}) {
    const Outcome o = load_matrices(c.instruction);
    ASSERT_EQ(o.fault, "") << c.instruction;
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned i = 0; i < c.matrices; ++i) {
        const auto word = static_cast<std::uint32_t>(o.out[2 * lane + i / 2] >> (32 * (i % 2)));
        const unsigned line = lane / 4, along = lane % 4 * 2;
        const auto element = [&](unsigned k) {  // of the matrix: row by row, after those of the matrices before
          return 64 * i + (c.is_transposed ? 8 * (along + k) + line : 8 * line + along + k);
        };
        ASSERT_EQ(word, element(0) | element(1) << 16) << c.instruction << " lane " << lane << " matrix " << i;
      }
  }
}

TEST(PtxMatrices, LoadsAreChecked) {
  const std::string load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, ";
  EXPECT_TRUE(load_matrices(load + "[%at+8];").blames("misaligned"));
  EXPECT_TRUE(load_matrices(load + "[%at+16];").blames("outside shared"));
  // Each lane reads a row that it wrote: no race. Its neighbour's: one.
  EXPECT_EQ(load_matrices(load + "[%at];", "").fault, "");
  EXPECT_TRUE(load_matrices("xor.b32 %at, %at, 16; " + load + "[%at];", "").blames("race"));
  // Of .x2 only the first 16 lanes' addresses count.
  const std::string two = "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r10, %r11}, ";
  EXPECT_EQ(load_matrices(two + "[%at+256];").fault, "");
  EXPECT_TRUE(load_matrices("setp.lt.u32 %p1, %tid, 8; @%p1 " + load + "[%at];").blames("which has ended"));
}

}  // namespace
}  // namespace nibble::cuda_ptx
