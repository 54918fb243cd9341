// Bank conflicts of accesses whose passes are known.
#include "tests/cuda_ptx/bank_traffic.h"
#include "tests/cuda_ptx/test_kernel.h"

namespace nibble::cuda_ptx {
namespace {

/// One access by each of 32 lanes, `step` bytes apart.
Outcome access_of(const std::string& instruction, unsigned step) {
  const std::string body = "mul.lo.u32 %at, %tid, " + std::to_string(step) +
                           "; mov.u32 %r0, tile; add.u32 %at, %at, %r0;\n" + instruction + ";\n";
  return run(kernel(body, ".shared .align 16 .b8 tile[4096];\n"), 32);
}
void expect_passes(const char* instruction, unsigned step, std::uint64_t passes, std::uint64_t ideal) {
  const Outcome o = access_of(instruction, step);
  EXPECT_EQ(o.fault, "");
  EXPECT_EQ(o.statistics.shared_passes, passes) << instruction << ", step " << step;
  EXPECT_EQ(o.statistics.shared_ideal_passes, ideal) << instruction << ", step " << step;
}

TEST(PtxBanks, WordsMeetWhereTheyAre32Apart) {
  expect_passes("ld.shared.u32 %r1, [%at]", 4, 1, 1);
  expect_passes("ld.shared.u32 %r1, [%at]", 0, 1, 1);  // one word for all
  expect_passes("ld.shared.u32 %r1, [%at]", 8, 2, 1);
  expect_passes("ld.shared.u32 %r1, [%at]", 128, 32, 1);
  expect_passes("ld.shared.u16 %h1, [%at]", 2, 1, 1);  // two lanes a word
  expect_passes("st.shared.u32 [%at], %r1", 64, 16, 1);
}

TEST(PtxBanks, WideAccessesAreServedInParts) {
  expect_passes("ld.shared.v2.u32 {%r1, %r2}, [%at]", 8, 2, 2);
  expect_passes("ld.shared.v2.u32 {%r1, %r2}, [%at]", 16, 4, 2);
  expect_passes("ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%at]", 16, 4, 4);
  expect_passes("ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%at]", 32, 8, 4);
  expect_passes("ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%at]", 128, 32, 4);
}

TEST(PtxBanks, RowsOfMatricesMeetWhereTheyAre128BytesApart) {
  const char* load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%at]";
  expect_passes(load, 16, 4, 4);
  expect_passes(load, 64, 16, 4);
  expect_passes(load, 128, 32, 4);
}

TEST(PtxBanks, LanesThatComeAtOtherTimesAreCountedTogether) {
  // Two rounds of a loop, the second 128 bytes on; then half of the lanes only.
  const Outcome o = run(kernel("shl.b32 %at, %tid, 3; mov.u32 %r0, tile; add.u32 %at, %at, %r0; mov.u32 %r1, 0;\n"
                               "again:\nld.shared.u32 %r2, [%at]; add.u32 %at, %at, 128; add.u32 %r1, %r1, 1;\n"
                               "setp.lt.u32 %p1, %r1, 2;\n@%p1 bra again;\n"
                               "setp.lt.u32 %p2, %tid, 16;\n@%p2 ld.shared.u32 %r2, [%at];\n",
                               ".shared .align 16 .b8 tile[4096];\n"),
                        32);
  EXPECT_EQ(o.fault, "");
  EXPECT_EQ(o.statistics.shared_passes, 2 + 2 + 1u);
  EXPECT_EQ(o.statistics.shared_ideal_passes, 3u);
  EXPECT_DOUBLE_EQ(o.statistics.bank_conflict_ratio(), 5.0 / 3);
}

}  // namespace
}  // namespace nibble::cuda_ptx
