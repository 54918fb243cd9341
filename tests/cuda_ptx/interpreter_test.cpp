// The interpreter itself: what instructions compute, and that each kind of wrong kernel is found.
#include "tests/cuda_ptx/interpreter.h"

#include <bit>
#include <cmath>

#include "tests/cuda_ptx/number_formats.h"
#include "tests/cuda_ptx/test_kernel.h"

namespace nibble::cuda_ptx {
namespace {

/// The low 32 bits that one thread leaves in %r0.
std::uint32_t result(const std::string& body) {
  const Outcome o = run(kernel(body + " st.global.u32 [%mine], %r0;"));
  EXPECT_EQ(o.fault, "") << body;
  return static_cast<std::uint32_t>(o.out[0]);
}
std::string immediate(float f) {
  char text[16];
  std::snprintf(text, sizeof(text), "0f%08X", std::bit_cast<std::uint32_t>(f));
  return text;
}

TEST(PtxInterpreter, ComputesIntegers) {
  EXPECT_EQ(result("mov.u32 %r1, 7; mad.lo.s32 %r0, %r1, -3, 1;"), static_cast<std::uint32_t>(-20));
  EXPECT_EQ(result("mov.u32 %r1, -7; div.s32 %r0, %r1, 2;"), static_cast<std::uint32_t>(-3));
  EXPECT_EQ(result("mov.u32 %r1, -7; rem.s32 %r0, %r1, 2;"), static_cast<std::uint32_t>(-1));
  EXPECT_EQ(result("mov.u32 %r1, -16; shr.s32 %r0, %r1, 2;"), static_cast<std::uint32_t>(-4));
  EXPECT_EQ(result("mov.u32 %r1, -16; shr.u32 %r0, %r1, 28;"), 15u);
  EXPECT_EQ(result("mov.u32 %r1, 1; shl.b32 %r0, %r1, 32;"), 0u);
  EXPECT_EQ(result("mov.u32 %r1, 0x80000000; mul.hi.u32 %r0, %r1, 6;"), 3u);
  EXPECT_EQ(result("mov.u32 %r1, 0x00f0f00f; bfe.u32 %r0, %r1, 12, 8;"), 0x0fu);
  EXPECT_EQ(result("mov.u32 %r1, 0xff; mov.u32 %r2, 0; bfi.b32 %r0, %r1, %r2, 4, 4;"), 0xf0u);
  EXPECT_EQ(result("mov.u32 %r1, 0x12345678; mov.u32 %r2, 0x9abcdef0; prmt.b32 %r0, %r1, %r2, 0x7410;"), 0x9af05678u);
  EXPECT_EQ(result("mov.u32 %r1, 0x80; prmt.b32 %r0, %r1, %r1, 0x0008;"), 0x808080ffu);
  EXPECT_EQ(result("mov.u32 %r1, 0x12345678; mov.u32 %r2, 0x9abcdef0; shf.l.wrap.b32 %r0, %r1, %r2, 8;"), 0xbcdef012u);
  EXPECT_EQ(
      result("mov.u32 %r1, 0x0102ff04; mov.u32 %r2, 0x01010101; mov.u32 %r3, 10; dp4a.s32.s32 %r0, %r1, %r2, %r3;"),
      16u);
  EXPECT_EQ(result("mov.u64 %rd1, -1; cvt.u32.u64 %r1, %rd1; popc.b32 %r0, %r1;"), 32u);
}

TEST(PtxInterpreter, ComputesIntegersOfOtherWidths) {
  const auto wide = [](const std::string& body) {
    const Outcome o = run(kernel(body + " st.global.u64 [%mine], %rd0;"));
    EXPECT_EQ(o.fault, "") << body;
    return o.out[0];
  };
  const std::string large = "mov.u64 %rd1, 0x123456789abcdef0; mov.u64 %rd2, 1000000007; ";
  EXPECT_EQ(wide(large + "div.u64 %rd0, %rd1, %rd2;"), 0x123456789abcdef0u / 1000000007u);
  EXPECT_EQ(wide(large + "rem.u64 %rd0, %rd1, %rd2;"), 0x123456789abcdef0u % 1000000007u);
  EXPECT_EQ(wide(large + "mul.lo.s64 %rd0, %rd1, %rd2;"), 0x123456789abcdef0u * 1000000007u);
  EXPECT_EQ(wide(large + "neg.s64 %rd1, %rd1; min.u64 %rd0, %rd1, %rd2;"), 1000000007u);
  EXPECT_EQ(wide(large + "neg.s64 %rd1, %rd1; max.s64 %rd0, %rd1, %rd2;"), 1000000007u);
  EXPECT_EQ(wide("mov.u32 %r1, -5; cvt.s64.s32 %rd0, %r1;"), static_cast<std::uint64_t>(-5));
  EXPECT_EQ(wide("mov.u32 %r1, -5; cvt.u64.u32 %rd0, %r1;"), 0xfffffffbu);
  EXPECT_EQ(result("mov.u16 %h1, 60000; mul.wide.u16 %r0, %h1, 7;"), 420000u);
  EXPECT_EQ(result("mov.u32 %r1, 0x1ff80; cvt.u16.u32 %h1, %r1; shr.u16 %h2, %h1, 7; cvt.u32.u16 %r0, %h2;"), 0x1ffu);
  EXPECT_EQ(result("mov.u32 %r1, 0x80; cvt.u16.u32 %h1, %r1; cvt.s16.s8 %h2, %h1; cvt.rn.f32.s16 %f1, %h2; "
                   "mov.b32 %r0, %f1;"),
            0xc3000000u);  // -128
  EXPECT_NE(run(kernel("mov.u64 %rd1, 5; mov.u64 %rd2, 0; div.u64 %rd0, %rd1, %rd2;")).fault.find("division by zero"),
            std::string::npos);
}

TEST(PtxInterpreter, ComputesDoubles) {
  const Outcome o = run(kernel("mov.f32 %f1, " + immediate(1.1f) +
                               "; cvt.f64.f32 %d1, %f1; mul.rn.f64 %d2, %d1, %d1; add.rn.f64 %d3, %d2, %d1; "
                               "st.global.f64 [%mine], %d3;"));
  ASSERT_EQ(o.fault, "");
  EXPECT_EQ(std::bit_cast<double>(o.out[0]), 1.1f * static_cast<double>(1.1f) + static_cast<double>(1.1f));
}

TEST(PtxInterpreter, ComparesWhatIsUnordered) {
  const auto holds = [](const char* comparison, float a, float b) {
    return result("mov.f32 %f1, " + immediate(a) + "; mov.f32 %f2, " + immediate(b) + "; setp." + comparison +
                  ".f32 %p1, %f1, %f2; selp.b32 %r0, 1, 0, %p1;") != 0;
  };
  EXPECT_TRUE(holds("nan", NAN, 1));
  EXPECT_FALSE(holds("nan", 2, 1));
  EXPECT_TRUE(holds("neu", NAN, 1));
  EXPECT_FALSE(holds("ne", NAN, 1));
  EXPECT_TRUE(holds("ltu", 1, NAN));
  EXPECT_FALSE(holds("lt", 1, NAN));
  EXPECT_TRUE(holds("num", 1, 1));
}

TEST(PtxInterpreter, ComputesEveryLop3) {
  for (unsigned lut = 0; lut < 256; ++lut)
    EXPECT_EQ(result("mov.u32 %r1, 0xf0; mov.u32 %r2, 0xcc; mov.u32 %r3, 0xaa; lop3.b32 %r4, %r1, %r2, %r3, " +
                     std::to_string(lut) + "; and.b32 %r0, %r4, 255;"),
              lut);
}

TEST(PtxInterpreter, RoundsFloatsOnce) {
  const auto binary = [](const char* operation, float a, float b) {
    return std::bit_cast<float>(result("mov.f32 %f1, " + immediate(a) + "; mov.f32 %f2, " + immediate(b) + "; " +
                                       operation + ".f32 %f3, %f1, %f2; mov.b32 %r0, %f3;"));
  };
  EXPECT_EQ(binary("div.rn", 1.0f, 3.0f), 1.0f / 3.0f);
  EXPECT_EQ(binary("add.rn", 1.0f, 0x1p-24f), 1.0f);
  EXPECT_EQ(binary("max", NAN, 2.0f), 2.0f);
  EXPECT_TRUE(std::signbit(binary("min", 0.0f, -0.0f)));
  EXPECT_EQ(result("mov.f32 %f1, " + immediate(0x1.001p0f) + "; fma.rn.f32 %f2, %f1, %f1, " + immediate(-0x1.002p0f) +
                   "; mov.b32 %r0, %f2;"),
            std::bit_cast<std::uint32_t>(0x1p-24f));
  // f16x2: 2048 + 1 is a tie, to even; 2050 + 1 is the next one, away from it.
  EXPECT_EQ(result("mov.u32 %r1, 0x68016800; mov.u32 %r2, 0x3c003c00; add.f16x2 %r0, %r1, %r2;"), 0x68026800u);
  // bfloat16: 256 + 1 stays; times 1 + 2^-7 plus a bit does not.
  EXPECT_EQ(result("mov.u32 %r1, 0x43804380; mov.u32 %r2, 0x3f803f80; fma.rn.bf16x2 %r0, %r2, %r2, %r1;"), 0x43804380u);
  EXPECT_EQ(result("mov.u32 %r1, 0x3c003c00; neg.f16x2 %r0, %r1;"), 0xbc00bc00u);
}

TEST(PtxInterpreter, Converts) {
  const auto convert = [](const std::string& how, float x) {
    return result("mov.f32 %f1, " + immediate(x) + "; " + how + " %r0, %f1;");
  };
  EXPECT_EQ(convert("cvt.rni.s32.f32", 2.5f), 2u);
  EXPECT_EQ(convert("cvt.rzi.s32.f32", -2.9f), static_cast<std::uint32_t>(-2));
  EXPECT_EQ(convert("cvt.rpi.s32.f32", 2.1f), 3u);
  EXPECT_EQ(convert("cvt.rni.s32.f32", 1e20f), 0x7fffffffu);
  EXPECT_EQ(convert("cvt.rni.s32.f32", NAN), 0u);
  EXPECT_EQ(convert("cvt.rzi.u32.f32", -5.0f), 0u);
  EXPECT_EQ(result("mov.f32 %f1, " + immediate(1.0f) + "; mov.f32 %f2, " + immediate(-2.0f) +
                   "; cvt.rn.f16x2.f32 %r0, %f1, %f2;"),
            0x3c00c000u);
  EXPECT_EQ(result("mov.f32 %f1, " + immediate(1.0f) + "; mov.f32 %f2, " + immediate(-2.0f) +
                   "; cvt.rn.bf16x2.f32 %r0, %f1, %f2;"),
            0x3f80c000u);
  EXPECT_EQ(result("mov.u32 %r1, 0x1ff; cvt.s32.s8 %r0, %r1;"), 0xffffffffu);
}

TEST(PtxInterpreter, NarrowAndWidenAreInverse) {
  for (const Format format : {f16_format, bf16_format})
    for (std::uint32_t code = 0; code < 0x10000; ++code) {
      const double value = upcast(static_cast<std::uint16_t>(code), format);
      if (!std::isnan(value)) ASSERT_EQ(downcast(value, format), code);
    }
  EXPECT_EQ(downcast(65519.99, f16_format), 0x7bff);
  EXPECT_EQ(downcast(65520, f16_format), 0x7c00);
  EXPECT_EQ(downcast(0x1p-25, f16_format), 0);
  EXPECT_EQ(downcast(0x1.8p-25, f16_format), 1);
}

TEST(PtxInterpreter, ShufflesAndVotes) {
  const Outcome o = run(kernel("shfl.sync.bfly.b32 %r1|%p1, %tid, 1, 31, -1; shfl.sync.up.b32 %r2|%p2, %tid, 1, 0, -1;"
                               "setp.lt.u32 %p3, %tid, 5; vote.sync.ballot.b32 %r3, %p3, -1;"
                               "shl.b32 %r2, %r2, 8; or.b32 %r1, %r1, %r2;"
                               "st.global.v2.u32 [%mine], {%r1, %r3};"),
                        32);
  ASSERT_EQ(o.fault, "");
  for (unsigned lane = 0; lane < 32; ++lane)
    EXPECT_EQ(o.out[lane], (lane ^ 1) | (lane == 0 ? 0 : lane - 1) << 8 | std::uint64_t{31} << 32);
}

const char* const kPass = "mov.u32 %r1, tile; shl.b32 %r2, %tid, 2; add.s32 %at, %r1, %r2; st.shared.u32 [%at], %tid;";
const std::string kTile = ".shared .align 16 .b8 tile[512];\n";

TEST(PtxInterpreter, FindsRacesBetweenBarriers) {
  const std::string read_next = " xor.b32 %r3, %r2, 4; add.s32 %r3, %r1, %r3; ld.shared.u32 %r4, [%r3];";
  const std::string read_far = " xor.b32 %r3, %r2, 128; add.s32 %r3, %r1, %r3; ld.shared.u32 %r4, [%r3];";
  for (unsigned seed = 0; seed < 4; ++seed) {
    EXPECT_NE(run(kernel(kPass + read_next, kTile), 64, seed).fault.find("race"), std::string::npos);
    EXPECT_EQ(run(kernel(kPass + (" bar.sync 0;" + read_next), kTile), 64, seed).fault, "");
    EXPECT_EQ(run(kernel(kPass + (" bar.warp.sync -1;" + read_next), kTile), 64, seed).fault, "");
    EXPECT_NE(run(kernel(kPass + (" bar.warp.sync -1;" + read_far), kTile), 64, seed).fault.find("race"),
              std::string::npos);
    // Read by all, then written without a barrier.
    EXPECT_NE(run(kernel(kPass + (" bar.sync 0;" + read_far + " st.shared.u32 [%at], %r4;"), kTile), 64, seed)
                  .fault.find("race"),
              std::string::npos);
  }
  EXPECT_EQ(
      run(kernel("mov.u32 %r1, tile; setp.eq.u32 %p1, %tid, 0; @%p1 st.shared.u32 [%r1], 0; bar.sync 0;"
                 "atom.shared.add.u32 %r2, [%r1], 1; bar.sync 0; ld.shared.u32 %r3, [%r1]; st.global.u32 [%mine], %r3;",
                 kTile),
          64)
          .out[0],
      64u);
}

TEST(PtxInterpreter, FindsBadAddresses) {
  EXPECT_NE(run(kernel("st.global.u32 [%mine+8], 0;")).fault.find("outside every buffer"), std::string::npos);
  EXPECT_NE(run(kernel("st.global.u32 [%mine+2], 0;")).fault.find("misaligned"), std::string::npos);
  EXPECT_NE(run(kernel("mov.u32 %r1, tile; ld.shared.u32 %r2, [%r1+512];", kTile)).fault.find("outside shared"),
            std::string::npos);
  EXPECT_NE(run(kernel("mov.u64 %rd1, here; ld.local.u32 %r2, [%rd1+8];", ".local .align 4 .b8 here[8];"))
                .fault.find("outside local"),
            std::string::npos);
}

TEST(PtxInterpreter, KeepsLocalMemoryApart) {
  const Outcome o = run(kernel("mov.u64 %rd1, here; cvta.local.u64 %rd2, %rd1; st.u32 [%rd2+4], %tid; bar.sync 0;"
                               "ld.local.u32 %r1, [%rd1+4]; st.global.u32 [%mine], %r1;",
                               ".local .align 4 .b8 here[8];"),
                        40);
  ASSERT_EQ(o.fault, "");
  for (unsigned t = 0; t < 40; ++t) EXPECT_EQ(o.out[t], t);
}

TEST(PtxInterpreter, FindsWhatNeverMeets) {
  const std::string half = "setp.lt.u32 %p1, %tid, 16; ";
  EXPECT_NE(run(kernel(half + "@%p1 bra $L; bar.sync 0; bra.uni $E; $L: bar.sync 0; $E:"), 32)
                .fault.find("different barriers"),
            std::string::npos);
  EXPECT_NE(run(kernel(half + "@%p1 ret; shfl.sync.bfly.b32 %r1, %tid, 1, 31, -1;"), 32).fault.find("has ended"),
            std::string::npos);
  EXPECT_NE(run(kernel(half + "@!%p1 bra $E; shfl.sync.bfly.b32 %r1, %tid, 16, 31, 0xffff; $E:"), 32)
                .fault.find("does not take part"),
            std::string::npos);
  EXPECT_NE(run(kernel("$L: ld.acquire.gpu.global.b32 %r1, [%out]; setp.eq.s32 %p1, %r1, 1; @%p1 bra $E; nanosleep.u32 "
                       "20; bra $L; $E:"))
                .fault.find("waits"),
            std::string::npos);
}

TEST(PtxInterpreter, AnUnknownInstructionIsAnErrorOnlyIfExecuted) {
  EXPECT_EQ(run(kernel("setp.ne.u32 %p1, %tid, 0; @%p1 frobnicate.b32 %r1, %r2;")).fault, "");
  EXPECT_NE(run(kernel("frobnicate.b32 %r1, %r2;")).fault.find("unsupported instruction: frobnicate.b32"),
            std::string::npos);
  EXPECT_THROW(Module("nonsense"), Fault);
  EXPECT_THROW(Module(kernel("add.s32 %r1, %undeclared, 1;")), Fault);
  EXPECT_THROW(Module(kernel("bra $nowhere;")), Fault);
}

TEST(PtxInterpreter, ScopesHaveRegistersOfTheirOwn) {
  EXPECT_EQ(result("mov.u32 %r0, 1; { .reg .b32 %r0; mov.u32 %r0, 2; }"), 1u);
}

}  // namespace
}  // namespace nibble::cuda_ptx
