// Shuffles, votes, atomics and arithmetic against their definitions in the CUDA C++ Programming Guide.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda_emulation/emulation.h"
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_emulation::for_each_order;

constexpr unsigned kAll = 0xffffffffu;

struct Shuffled {
  int from_five, rotated_in_eights, crossed, down, up;
  double wide;
};
NIBBLE_KERNEL(64, 1)
void shuffle_kernel(Shuffled* out) {
  const int mine = static_cast<int>(threadIdx.x);
  const int lane = mine % 32;
  Shuffled& s = out[threadIdx.x];
  s.from_five = __shfl_sync(kAll, mine, 5);
  s.rotated_in_eights = __shfl_sync(kAll, mine, lane + 1, 8);
  s.crossed = __shfl_xor_sync(kAll, mine, 16);
  s.down = __shfl_down_sync(kAll, mine, 3, 16);
  s.up = __shfl_up_sync(kAll, mine, 2);
  s.wide = __shfl_sync(kAll, mine + 0.5, 31);
}

TEST(Language, Shuffles) {
  for_each_order([] {
    std::vector<Shuffled> out(64);
    ASSERT_EQ(launch(shuffle_kernel, dim3(1), dim3(64), 0, nullptr, out.data()), cudaSuccess);
    for (int i = 0; i < 64; ++i) {
      const Shuffled& s = out[static_cast<std::size_t>(i)];
      const int warp = i / 32 * 32, lane = i % 32;
      EXPECT_EQ(s.from_five, warp + 5);
      EXPECT_EQ(s.rotated_in_eights, i / 8 * 8 + (i + 1) % 8);
      EXPECT_EQ(s.crossed, warp + (lane ^ 16));
      EXPECT_EQ(s.down, lane % 16 + 3 < 16 ? i + 3 : i);
      EXPECT_EQ(s.up, lane >= 2 ? i - 2 : i);
      EXPECT_EQ(s.wide, warp + 31.5);
    }
  });
}

struct Votes {
  unsigned ballot;
  int any, all, any_of_none, all_of_all;
};
NIBBLE_KERNEL(32, 1)
void vote_kernel(Votes* out) {
  const unsigned lane = threadIdx.x;
  const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  Votes& v = out[lane];
  v.ballot = __ballot_sync(mask, lane % 3 == 0);
  v.any = __any_sync(mask, lane == 20);
  v.all = __all_sync(mask, lane != 20);
  v.any_of_none = __any_sync(mask, 0);
  v.all_of_all = __all_sync(mask, 7);
}

TEST(Language, VotesOfHalfWarps) {
  for_each_order([] {
    std::vector<Votes> out(32);
    ASSERT_EQ(launch(vote_kernel, dim3(1), dim3(32), 0, nullptr, out.data()), cudaSuccess);
    for (unsigned i = 0; i < 32; ++i) {
      EXPECT_EQ(out[i].ballot, i < 16 ? 0x00009249u : 0x49240000u);
      EXPECT_EQ(out[i].any, i >= 16);
      EXPECT_EQ(out[i].all, i < 16);
      EXPECT_EQ(out[i].any_of_none, 0);
      EXPECT_EQ(out[i].all_of_all, 1);
    }
  });
}

struct Counters {
  int sum = 0, most = -1, least = 1000, last = 0, claimed = 0;
  unsigned unsigned_sum = 0;
  unsigned long long long_sum = 0;
  float float_sum = 0;
};
NIBBLE_KERNEL(64, 1)
void atomic_kernel(Counters* c, int* tickets) {
  const int mine = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  tickets[mine] = atomicAdd(&c->sum, 1);
  atomicMax(&c->most, mine);
  atomicMin(&c->least, mine);
  atomicAdd(&c->unsigned_sum, 2u);
  atomicAdd(&c->long_sum, 3);
  atomicAdd(&c->float_sum, 0.5f);
  atomicExch(&c->last, 7);
  if (atomicCAS(&c->claimed, 0, 1) == 0) atomicAdd(&c->sum, 1000);
}

TEST(Language, Atomics) {
  for_each_order([] {
    Counters c;
    std::vector<int> tickets(192);
    ASSERT_EQ(launch(atomic_kernel, dim3(3), dim3(64), 0, nullptr, &c, tickets.data()), cudaSuccess);
    EXPECT_EQ(c.sum, 1192);
    EXPECT_EQ(c.most, 191);
    EXPECT_EQ(c.least, 0);
    EXPECT_EQ(c.unsigned_sum, 384u);
    EXPECT_EQ(c.long_sum, 576u);
    EXPECT_EQ(c.float_sum, 96.0f);
    EXPECT_EQ(c.last, 7);
    std::sort(tickets.begin(), tickets.end());
    EXPECT_EQ(std::adjacent_find(tickets.begin(), tickets.end()), tickets.end());
  });
}

TEST(Language, BytesAndBits) {
  EXPECT_EQ(__dp4a(0x01ff7f80, 0x02fe7f80, 10), 10 + 2 + 2 + 127 * 127 + 128 * 128);
  EXPECT_EQ(__dp4a(0xff01ff01u, 0xff020103u, 1u), 1u + 255 * 255 + 2 + 255 + 3);
  EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7410u), 0x77441100u);
  EXPECT_EQ(__byte_perm(0x00000080u, 0x0000007fu, 0x00c8u) & 0xffffu, 0x00ffu) << "a byte's sign repeated";
  EXPECT_EQ(__popc(0xf0f0u), 8);
  EXPECT_EQ(__clz(1), 31);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ((lop3<0xea>(0xff00ff00u, 0x0ff00ff0u, 0x00000001u)), (0xff00ff00u & 0x0ff00ff0u) | 0x00000001u);
  EXPECT_EQ((lop3<0x96>(0x12345678u, 0x9abcdef0u, 0x0f0f0f0fu)), 0x12345678u ^ 0x9abcdef0u ^ 0x0f0f0f0fu);
}

TEST(Language, RoundsFloatsToIntegers) {
  EXPECT_EQ(__float2int_rn(2.5f), 2);
  EXPECT_EQ(__float2int_rn(3.5f), 4);
  EXPECT_EQ(__float2int_rn(-2.5f), -2);
  EXPECT_EQ(__float2int_rn(3e9f), 2147483647);
  EXPECT_EQ(__float2int_rn(-3e9f), -2147483647 - 1);
  EXPECT_EQ(__float2int_rn(NAN), 0);
}

TEST(Language, FusedHalfRoundsOnce) {
  const auto fused = [](float a, float b, float c) {
    return __half2float(__hfma(__float2half(a), __float2half(b), __float2half(c)));
  };
  EXPECT_EQ(fused(2, 3, 4), 10.0f);
  const float least = 0x1p-24f;  // the least positive half
  EXPECT_EQ(fused(least, least, 1), 1.0f);
  const float one_up = 1 + 0x1p-10f;  // 1 + one unit in the last place
  // 1·2^-11 is half a unit of 1: with nothing else the tie goes to even; any positive remainder, however small,
  // decides.
  EXPECT_EQ(fused(0x1p-6f, 0x1p-5f, 1), 1.0f);
  EXPECT_EQ(fused(0x1p-6f, 0x1p-5f, one_up), 1 + 0x1p-9f);
  EXPECT_EQ(fused(0x1p-6f * one_up, 0x1p-5f, 1), one_up);
  EXPECT_TRUE(std::isinf(fused(60000, 2, 0)));
  EXPECT_TRUE(std::isnan(fused(INFINITY, 0, 1)));
  const half2 pair = __hfma2(__floats2half2_rn(1, 2), __floats2half2_rn(3, 4), __floats2half2_rn(5, 6));
  EXPECT_EQ(__low2float(pair), 8.0f);
  EXPECT_EQ(__high2float(pair), 14.0f);
}

// A product of 2^-48 next to a sum of 2^11 lies beyond a double's 53 bits, yet decides a tie.
TEST(Language, FusedHalfSeesBeyondDoubles) {
  const double tie = 2049, tiny = 0x1p-48;
  const double sum = cuda_emulation::fused_to_odd(0x1p-24, 0x1p-24, tie);
  EXPECT_EQ(__half2float(__double2half(sum)), 2050.0f);
  EXPECT_EQ(__half2float(__double2half(tie + tiny)), 2048.0f) << "the plain sum has lost it";
  EXPECT_EQ(__half2float(__double2half(cuda_emulation::fused_to_odd(-0x1p-24, 0x1p-24, tie))), 2048.0f);
  EXPECT_EQ(__half2float(__double2half(cuda_emulation::fused_to_odd(-0x1p-24, 0x1p-24, 2051))), 2050.0f);
}

TEST(Language, FusedBfloat16RoundsOnce) {
  const auto fused = [](float a, float b, float c) {
    return __bfloat162float(__hfma(__float2bfloat16(a), __float2bfloat16(b), __float2bfloat16(c)));
  };
  EXPECT_EQ(fused(2, 3, 4), 10.0f);
  EXPECT_EQ(fused(0x1p-4f, 0x1p-4f, 1), 1.0f);
  EXPECT_EQ(fused(0x1p-4f * (1 + 0x1p-7f), 0x1p-4f, 1), 1 + 0x1p-7f);
  EXPECT_EQ(fused(0x1p-100f, 0x1p-30f, 1 + 0x1p-7f), 1 + 0x1p-7f);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
