// Blocks that wait for each other, and what is said when they wait for ever; atomics; who shares a word of shared
// memory.
#include <utility>

#include "tests/cuda_ptx/test_kernel.h"

namespace nibble::cuda_ptx {
namespace {

/// Waits until the word at %out is %r1.
const std::string kWait =
    "$WAIT: ld.acquire.gpu.global.b32 %r2, [%out]; setp.eq.s32 %p1, %r2, %r1; @%p1 bra $GO; nanosleep.u32 20; "
    "bra.uni $WAIT; $GO: ";

/// Block b waits for the b blocks before it (or behind it): all orders of blocks come to the same.
TEST(PtxLocks, BlocksWaitForEachOther) {
  const std::string add = "red.release.gpu.global.add.s32 [%out], 1; ";
  // Appends its number to the word after the lock.
  const std::string append =
      "ld.global.u64 %rd1, [%out+8]; shl.b64 %rd1, %rd1, 4; cvt.u64.u32 %rd2, %r1; or.b64 %rd1, %rd1, %rd2; "
      "st.global.u64 [%out+8], %rd1; ";
  for (const char* rank : {"mov.u32 %r1, %ctaid.x; ", "mov.u32 %r3, %ctaid.x; sub.s32 %r1, 4, %r3; "})
    for (unsigned seed = 0; seed < 6; ++seed) {
      const Outcome o = run_on({0, 0}, kernel(rank + kWait + append + add), 1, seed, 5);
      EXPECT_EQ(o.fault, "");
      EXPECT_EQ(o.out[0], 5u);
      EXPECT_EQ(o.out[1], 0x01234u);
    }
}

/// Thread 0 waits for the lock while its block waits for thread 0.
TEST(PtxLocks, ABarrierHoldsTheRestOfTheBlock) {
  const std::string body = "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p2, %tid, 0; @%p2 bra $READY; " + kWait +
                           "$READY: bar.sync 0; shl.b32 %r3, %tid, 3; cvt.u64.u32 %rd1, %r3; add.s64 %rd1, %rd1, %out; "
                           "ld.global.u32 %r4, [%rd1+8]; mad.lo.s32 %r4, %r4, 2, %r1; st.global.u32 [%rd1+8], %r4; "
                           "bar.sync 0; @%p2 ret; red.release.gpu.global.add.s32 [%out], 1; ";
  for (unsigned seed = 0; seed < 4; ++seed) {
    const Outcome o = run_on(std::vector<std::uint64_t>(65), kernel(body), 64, seed, 4);
    ASSERT_EQ(o.fault, "");
    for (unsigned t = 0; t < 64; ++t) EXPECT_EQ(o.out[1 + t], ((0u * 2 + 1) * 2 + 2) * 2 + 3);
  }
}

/// Block 0 writes the word after the flag at %out and sets the flag; block 1 waits for it and reads the word.
Outcome hand_over(const std::string& set, const std::string& poll, const std::string& read = "ld.global.u32 %r4, ") {
  const std::string body = "setp.ne.u32 %p2, %r1, 0; @%p2 bra $READER; st.global.u32 [%out+8], 7; " + set +
                           " ret; $READER: " + poll + read + "[%out+8]; st.global.u32 [%out+12], %r4; ";
  return run_on({0, 0}, kernel("mov.u32 %r1, %ctaid.x; " + body), 1, 0, 2);
}
/// A loop that loads the flag by `load` until it is set.
std::string polled_by(const std::string& load, const std::string& after = "") {
  return "$WAIT: " + load + " %r2, [%out]; setp.ne.s32 %p1, %r2, 0; @%p1 bra $GO; nanosleep.u32 20; bra.uni $WAIT; " +
         "$GO: " + after + " ";
}

/// A flag orders what lies around it only if both sides say so, at the scope of the device.
TEST(PtxLocks, WhatAnotherBlockWroteNeedsAReleaseAndAnAcquire) {
  const std::string release = "red.release.gpu.global.add.s32 [%out], 1;", fence = "fence.acq_rel.gpu;";
  const std::string acquire = polled_by("ld.acquire.gpu.global.b32"), relaxed = polled_by("ld.relaxed.gpu.global.b32");
  const std::string with_fence = polled_by("ld.relaxed.gpu.global.b32", fence);
  const std::pair<std::string, std::string> ordered[] = {
      {release, acquire},
      {"st.release.gpu.global.b32 [%out], 1;", acquire},
      {"atom.acq_rel.gpu.global.add.u32 %r5, [%out], 1;", acquire},
      {"red.release.sys.global.add.s32 [%out], 1;", acquire},
      {fence + "red.relaxed.gpu.global.add.s32 [%out], 1;", acquire},
      {"membar.gl; st.volatile.global.u32 [%out], 1;", polled_by("ld.volatile.global.u32", "membar.gl;")},
      {release, with_fence},
      {release,
       "$WAIT: atom.acquire.gpu.global.add.u32 %r2, [%out], 0; setp.ne.s32 %p1, %r2, 0; @%p1 bra $GO; "
       "nanosleep.u32 20; bra.uni $WAIT; $GO: "},
  };
  for (const auto& [set, poll] : ordered) {
    const Outcome o = hand_over(set, poll);
    EXPECT_EQ(o.fault, "") << set << poll;
    EXPECT_EQ(o.out[1], 0x700000007u);
  }
  const std::pair<std::string, std::string> races[] = {
      {release, relaxed},
      {"red.relaxed.gpu.global.add.s32 [%out], 1;", acquire},
      {"red.global.add.s32 [%out], 1;", acquire},
      {"red.release.cta.global.add.s32 [%out], 1;", acquire},
      {release, polled_by("ld.acquire.cta.global.b32")},
      {release, polled_by("ld.global.b32")},
      {"st.global.u32 [%out], 1;", acquire},
      {"st.release.gpu.global.b32 [%out], 1;", polled_by("ld.volatile.global.u32")},
      {"membar.cta; red.relaxed.gpu.global.add.s32 [%out], 1;", acquire},
      {"red.relaxed.gpu.global.add.s32 [%out], 1;" + fence, acquire},  // too late
      {release, polled_by("ld.relaxed.gpu.global.b32", "membar.cta;")},
  };
  for (const auto& [set, poll] : races)
    EXPECT_TRUE(hand_over(set, poll).blames("block 0 wrote, with no release there and acquire here in between"))
        << set << poll << hand_over(set, poll).fault;
  EXPECT_TRUE(hand_over(release, acquire, "ld.global.nc.u32 %r4, ").blames("read-only cache"));
}

/// What a thread releases are its block's writes before a barrier, and what it acquires the block knows after one.
TEST(PtxLocks, BarriersCarryTheOrderToTheBlock) {
  const auto pass = [](const char* before, const char* after) {
    // Thread 5 of block 0 writes, thread 0 releases; thread 0 of block 1 acquires, thread 9 reads.
    const std::string body =
        "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p2, %r1, 0; setp.ne.u32 %p3, %tid, 0; @%p2 bra $READER; "
        "setp.eq.u32 %p4, %tid, 5; @%p4 st.global.u32 [%out+8], 7; " +
        std::string(before) + " @%p3 ret; red.release.gpu.global.add.s32 [%out], 1; ret; $READER: @%p3 bra $GO; " +
        "$WAIT: ld.acquire.gpu.global.b32 %r2, [%out]; setp.ne.s32 %p1, %r2, 0; @%p1 bra $GO; nanosleep.u32 20; " +
        "bra.uni $WAIT; $GO: " + after + " setp.eq.u32 %p4, %tid, 9; @%p4 ld.global.u32 %r4, [%out+8]; ";
    return run_on({0, 0}, kernel(body), 32, 1, 2).fault + run_on({0, 0}, kernel(body), 32, 0, 2).fault;
  };
  EXPECT_EQ(pass("bar.sync 0;", "bar.sync 0;"), "");
  EXPECT_NE(pass("", "bar.sync 0;").find("block 0 wrote"), std::string::npos);
  EXPECT_NE(pass("bar.sync 0;", "").find("block 0 wrote"), std::string::npos);
}

TEST(PtxLocks, BlocksMayNotWriteTheSameBytesUnordered) {
  EXPECT_TRUE(run_on({0}, kernel("st.global.u32 [%out], 1;"), 1, 0, 2).blames("block 0 wrote"));
  const std::string first = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0; @%p1 ";
  EXPECT_TRUE(
      run_on({0}, kernel(first + "atom.global.add.u32 %r2, [%out], 1; @!%p1 ld.global.u32 %r2, [%out];"), 1, 0, 2)
          .blames("block 0 wrote"));
  EXPECT_EQ(run_on({0}, kernel("atom.global.max.u32 %r1, [%out], 1;"), 1, 0, 2).fault, "");
  const std::string own = "mov.u32 %r1, %ctaid.x; cvt.u64.u32 %rd1, %r1; add.s64 %rd1, %rd1, %out; ";
  EXPECT_EQ(run_on({0}, kernel(own + "st.global.u8 [%rd1], %r1; ld.global.u8 %r2, [%rd1];"), 1, 0, 8).fault, "");
  EXPECT_TRUE(run_on({0}, kernel(own + "st.global.u8 [%rd1], %r1; ld.global.u8 %r2, [%out];"), 1, 0, 2)
                  .blames("block 0 wrote"));
}

TEST(PtxLocks, WaitingForEverIsNamed) {
  const auto waits = [](const std::string& body, unsigned blocks) { return run_on({0}, kernel(body), 1, 0, blocks); };
  const Outcome o = waits("mov.u32 %r1, 7; " + kWait + " red.release.gpu.global.add.s32 [%out], 1;", 3);
  EXPECT_TRUE(o.blames("k, block (0,0,0), thread 0: waits for ever, as do all 3 blocks that have begun")) << o.fault;
  // A lock that is polled by an exchange, which changes nothing.
  const std::string exchange =
      "$L: atom.global.cas.b32 %r2, [%out], 1, 2; setp.eq.s32 %p1, %r2, 1; @%p1 bra $E; nanosleep.u32 20; bra $L; $E:";
  EXPECT_TRUE(waits(exchange, 2).blames("waits for ever"));
  // Every block waits for the last: in ascending order they are more than run at once, as on a device.
  const std::string for_last = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p2, %r1, 99; @%p2 bra $SET; mov.u32 %r1, 1; " +
                               kWait + "ret; $SET: red.release.gpu.global.add.s32 [%out], 1;";
  EXPECT_TRUE(waits(for_last, 100).blames("waits for ever"));
  EXPECT_EQ(run_on({0}, kernel(for_last), 1, 1, 100).fault, "");  // descending: the last comes first
}

TEST(PtxLocks, ExchangesExcludeOthers) {
  // Each thread of each block takes the lock, reads, yields its turn and adds to what it read.
  const std::string body =
      "$L: atom.acquire.gpu.global.cas.b32 %r2, [%out], 0, 1; setp.ne.s32 %p1, %r2, 0; @!%p1 bra $IN; nanosleep.u32 "
      "20; "
      "bra.uni $L; $IN: ld.global.u32 %r3, [%out+8]; nanosleep.u32 20; add.s32 %r3, %r3, 1; "
      "st.global.u32 [%out+8], %r3; atom.release.gpu.global.exch.b32 %r4, [%out], 0;";
  for (unsigned seed = 0; seed < 4; ++seed) {
    const Outcome o = run_on({0, 0}, kernel(body), 8, seed, 6);
    EXPECT_EQ(o.fault, "");
    EXPECT_EQ(o.out[1], 48u);
  }
}

TEST(PtxLocks, HaveCheckedAddresses) {
  for (const char* access : {"red.release.gpu.global.add.s32 [%out+", "atom.global.add.u32 %r1, [%out+",
                             "ld.acquire.gpu.global.b32 %r1, [%out+"}) {
    const std::string end = std::string(access).starts_with("ld") ? "];" : "], 1;";
    EXPECT_EQ(run(kernel(access + ("4" + end))).fault, "");
    EXPECT_TRUE(run(kernel(access + ("8" + end))).blames("outside every buffer"));
    EXPECT_TRUE(run(kernel(access + ("2" + end))).blames("misaligned"));
  }
}

TEST(PtxLocks, AtomicsCompute) {
  const auto after = [](const std::string& instruction) {
    const Outcome o = run_on({0xfffffff000000005}, kernel(instruction + " st.global.u32 [%out+4], %r1;"), 1);
    EXPECT_EQ(o.fault, "") << instruction;
    return o.out[0];
  };
  EXPECT_EQ(after("atom.global.add.u32 %r1, [%out], 3;"), 0x0000000500000008u);
  EXPECT_EQ(after("atom.global.max.s32 %r1, [%out], -3;"), 0x0000000500000005u);
  EXPECT_EQ(after("atom.global.max.u32 %r1, [%out], -3;"), 0x00000005fffffffdu);
  EXPECT_EQ(after("atom.global.min.s32 %r1, [%out], -3;"), 0x00000005fffffffdu);
  EXPECT_EQ(after("atom.global.exch.b32 %r1, [%out], 9;"), 0x0000000500000009u);
  EXPECT_EQ(after("atom.global.cas.b32 %r1, [%out], 5, 9;"), 0x0000000500000009u);
  EXPECT_EQ(after("atom.global.cas.b32 %r1, [%out], 6, 9;"), 0x0000000500000005u);
  EXPECT_EQ(after("atom.global.and.b32 %r1, [%out], 4;"), 0x0000000500000004u);
  EXPECT_EQ(after("atom.global.or.b32 %r1, [%out], 8;"), 0x000000050000000du);
  EXPECT_EQ(after("atom.global.xor.b32 %r1, [%out], 1;"), 0x0000000500000004u);
}

/// Neighbouring bytes of a word are no race; the same byte is one, also of a wider access.
TEST(PtxLocks, RacesAreOfBytes) {
  const std::string tile = ".shared .align 4 .b8 tile[64];\n";
  const std::string byte = "mov.u32 %r1, tile; add.s32 %at, %r1, %tid; st.shared.u8 [%at], %tid; ";
  EXPECT_EQ(run(kernel(byte, tile), 64).fault, "");
  EXPECT_EQ(
      run(kernel("mov.u32 %r1, tile; shl.b32 %at, %tid, 1; add.s32 %at, %at, %r1; st.shared.u16 [%at], %tid;", tile),
          32)
          .fault,
      "");
  EXPECT_TRUE(run(kernel(byte + "ld.shared.u8 %r2, [%r1+63];", tile), 64).blames("race"));
  EXPECT_TRUE(run(kernel(byte + "shr.u32 %r2, %tid, 2; shl.b32 %r2, %r2, 2; add.s32 %r2, %r2, %r1; "
                                "ld.shared.u32 %r3, [%r2];",
                         tile),
                  64)
                  .blames("race"));
  // A word, then after a barrier its bytes, then after a barrier the word.
  const std::string word = "setp.eq.u32 %p1, %tid, 0; mov.u32 %r1, tile; @%p1 st.shared.u32 [%r1], 0; ";
  EXPECT_EQ(run(kernel(word + "bar.sync 0; " + byte + "bar.sync 0; " + word, tile), 64).fault, "");
  EXPECT_TRUE(run(kernel(word + byte + "bar.sync 0; " + word, tile), 64).blames("race"));
  EXPECT_TRUE(run(kernel(word + "bar.sync 0; " + byte + word, tile), 64).blames("race"));
}

}  // namespace
}  // namespace nibble::cuda_ptx
