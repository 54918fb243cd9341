// Asynchronous copies: what arrives, when it may be touched, and what is blamed.
#include "tests/cuda_ptx/test_kernel.h"

namespace nibble::cuda_ptx {
namespace {

const std::string kTile = ".shared .align 16 .b8 tile[64];\n";
/// %at: 16 bytes of shared memory for each thread, %mine: 16 bytes of global memory.
const std::string kPlaces = "mov.u32 %r1, tile; shl.b32 %r2, %tid, 4; add.s32 %at, %r1, %r2; ";
const std::string kCopy = "cp.async.cg.shared.global [%at], [%mine], 16; ";
const std::string kCommit = "cp.async.commit_group; ";
const std::string kRead =
    "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%at]; st.global.v4.u32 [%mine], {%r4, %r5, %r6, %r7};";

const std::vector<std::uint64_t> kBefore{0x1111111122222222, 0x3333333344444444, 0x5555555566666666,
                                         0x7777777788888888};

Outcome copy(const std::string& body, unsigned threads = 1, unsigned seed = 0) {
  return run_on(kBefore, kernel(kPlaces + body, kTile, 2), threads, seed);
}

TEST(PtxCopies, ArriveWithTheirGroups) {
  for (const char* wait : {"cp.async.wait_group 0; ", "cp.async.wait_all; "}) {
    const Outcome o = copy(kCopy + kCommit + wait + kRead, 2);
    EXPECT_EQ(o.fault, "");
    EXPECT_EQ(o.out, kBefore);
  }
  // wait_all needs no group.
  EXPECT_EQ(copy(kCopy + "cp.async.wait_all; " + kRead).fault, "");
  // The older of two groups, the younger still under way.
  const std::string two = "cp.async.cg.shared.global [%at+16], [%mine], 16; " + kCommit + kCopy + kCommit;
  const std::string older = "ld.shared.u32 %r4, [%at+16]; st.global.u32 [%mine+16], %r4; ";
  const Outcome o = copy(two + "cp.async.wait_group 1; " + older + "cp.async.wait_group 0; " + kRead);
  EXPECT_EQ(o.fault, "");
  EXPECT_EQ(o.out[2], 0x5555555522222222u);
  // An empty group counts.
  EXPECT_TRUE(copy(kCopy + kCommit + "cp.async.wait_group 1; " + kRead).blames("touched while a copy"));
  EXPECT_EQ(copy(kCopy + kCommit + kCommit + "cp.async.wait_group 1; " + kRead).fault, "");
}

TEST(PtxCopies, FillUpWithZeros) {
  for (const unsigned bytes : {0u, 4u, 12u, 16u}) {
    const Outcome o = copy("mov.u32 %r3, " + std::to_string(bytes) +
                           "; cp.async.cg.shared.global [%at], [%mine], 16, %r3; cp.async.wait_all; " + kRead);
    EXPECT_EQ(o.fault, "");
    const auto kept = [&](std::size_t word) {
      const std::size_t given = bytes > 8 * word ? std::min<std::size_t>(bytes - 8 * word, 8) : 0;
      return given == 8 ? kBefore[word] : kBefore[word] & ((std::uint64_t{1} << (8 * given)) - 1);
    };
    EXPECT_EQ(o.out[0], kept(0));
    EXPECT_EQ(o.out[1], kept(1));
  }
  EXPECT_TRUE(copy("cp.async.cg.shared.global [%at], [%mine], 16, 20;").blames("reads more than it copies"));
  // What is not read need not be there.
  EXPECT_EQ(copy("cp.async.cg.shared.global [%at], [%mine+1024], 16, 0; cp.async.wait_all;").fault, "");
}

/// A cache policy is an operand that changes no value; it must not be taken for the bytes to read.
TEST(PtxCopies, TakeACachePolicy) {
  const std::string policy = ".reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0; ";
  for (const char* bytes : {"16, policy", "16, 16, policy"}) {
    const Outcome o = copy("{ " + policy + "cp.async.cg.shared.global.L2::cache_hint [%at], [%mine], " + bytes +
                           "; } cp.async.wait_all; " + kRead);
    EXPECT_EQ(o.fault, "") << bytes;
    EXPECT_EQ(o.out, kBefore);
  }
  const Outcome none = copy("{ " + policy +
                            "cp.async.cg.shared.global.L2::cache_hint [%at], [%mine], 16, 0, policy; } "
                            "cp.async.wait_all; " +
                            kRead);
  EXPECT_EQ(none.out[0], 0u);
}

TEST(PtxCopies, KeepOthersFromTheirTarget) {
  const std::string begin = kCopy + kCommit, wait = "cp.async.wait_group 0; ";
  EXPECT_TRUE(copy(begin + kRead).blames("touched while a copy"));                              // no wait
  EXPECT_TRUE(copy(begin + "cp.async.wait_group 1; " + kRead).blames("touched while a copy"));  // of a younger group
  EXPECT_TRUE(copy(kCopy + wait + kRead).blames("touched while a copy"));                       // of no group
  EXPECT_TRUE(copy(begin + "st.shared.u32 [%at+12], 0;").blames("touched while a copy"));       // overwritten
  EXPECT_TRUE(copy(begin + "st.shared.u8 [%at+15], 0;").blames("touched while a copy"));        // a byte of it
  EXPECT_TRUE(copy(begin + kCopy).blames("touched while a copy"));                              // by a second copy
  EXPECT_TRUE(copy(begin).blames("ends with a copy under way"));
  EXPECT_TRUE(copy(kCopy).blames("ends with a copy under way"));
  EXPECT_EQ(copy(begin + wait + "st.shared.u32 [%at], 0; " + begin + wait + kRead).fault, "");
  // Source and target are read and written while nobody else may: what a stage's readers still read.
  EXPECT_TRUE(copy("xor.b32 %r3, %at, 16; ld.shared.u32 %r4, [%r3]; " + begin + wait, 2).blames("race"));
}

/// The copying thread's wait is no barrier: others see the copy after one.
TEST(PtxCopies, ReachOtherThreadsByABarrier) {
  const std::string begin = kCopy + kCommit, wait = "cp.async.wait_group 0; ";
  const std::string other = "xor.b32 %at, %at, 16; " + kRead;
  for (unsigned seed = 0; seed < 4; ++seed) {
    const Outcome right = copy(begin + wait + "bar.sync 0; " + other, 2, seed);
    EXPECT_EQ(right.fault, "");
    EXPECT_EQ(right.out, (std::vector<std::uint64_t>{kBefore[2], kBefore[3], kBefore[0], kBefore[1]}));
    EXPECT_NE(copy(begin + wait + other, 2, seed).fault, "");                                   // no barrier
    EXPECT_TRUE(copy(begin + "bar.sync 0; " + other, 2, seed).blames("touched while a copy"));  // no wait
    EXPECT_NE(copy(begin + "bar.sync 0; " + wait + other, 2, seed).fault, "");                  // in the wrong order
  }
}

/// The end of a copy is a write at the time of the wait, whenever the copy began.
TEST(PtxCopies, EndWithTheWait) {
  const std::string first = "setp.ne.u32 %p1, %tid, 0; mov.u32 %r1, tile; ";
  const std::string begin = "@!%p1 cp.async.cg.shared.global [%r1], [%out], 16; bar.sync 0; ";
  const std::string read = "@%p1 ld.shared.u32 %r4, [%r1]; ";
  EXPECT_EQ(copy(first + begin + "cp.async.wait_all; bar.sync 0; " + read, 2).fault, "");
  EXPECT_TRUE(copy(first + begin + "cp.async.wait_all; " + read, 2).blames("race with thread 0"));
  EXPECT_TRUE(copy(first + begin + "cp.async.wait_all; " + read, 2, 1).blames("touched while a copy"));
}

TEST(PtxCopies, HaveCheckedAddresses) {
  EXPECT_TRUE(copy("cp.async.cg.shared.global [%at+8], [%mine], 16;").blames("misaligned"));
  EXPECT_TRUE(copy("cp.async.cg.shared.global [%at], [%mine+8], 16;").blames("misaligned"));
  EXPECT_TRUE(copy("cp.async.cg.shared.global [%at+64], [%mine], 16;").blames("outside shared"));
  EXPECT_TRUE(copy("cp.async.cg.shared.global [%at], [%mine+32], 16;").blames("outside every buffer"));
  EXPECT_TRUE(copy("cp.async.ca.shared.global [%at], [%mine], 2;").blames("4, 8 or 16 bytes"));
}

}  // namespace
}  // namespace nibble::cuda_ptx
