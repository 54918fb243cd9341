// The atoms against what the PTX ISA says of them: matrix loads, matrix products, asynchronous copies.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cuda_emulation/emulation.h"
#include "kernels/cuda/device.h"
#include "nibble/core/abi.h"

namespace nibble::inline NIBBLE_ABI::cuda {
namespace {

using cuda_emulation::for_each_order;
using cuda_emulation::statistics;

// ---- Matrix loads
// -----------------------------------------------------------------------------------------------------

/// Four 8×8 matrices in rows of `pitch` bytes; element (matrix, row, col) is 64·matrix + 8·row + col.
NIBBLE_KERNEL(32, 1)
void load_kernel(unsigned pitch, std::uint32_t* plain, std::uint32_t* transposed, std::uint32_t* two) {
  NIBBLE_DYNAMIC_SHARED(shared);
  for (unsigned i = threadIdx.x; i < 256; i += 32)
    *reinterpret_cast<std::uint16_t*>(shared + i / 8 * pitch + i % 8 * 2) = static_cast<std::uint16_t>(i);
  __syncthreads();
  std::uint32_t r[4], t[4], h[2];
  const unsigned char* const row = shared + threadIdx.x * pitch;
  ldmatrix_x4(r, row);
  ldmatrix_x4_trans(t, row);
  ldmatrix_x2(h, threadIdx.x < 16 ? row : nullptr);
  for (unsigned i = 0; i < 4; ++i) plain[threadIdx.x * 4 + i] = r[i];
  for (unsigned i = 0; i < 4; ++i) transposed[threadIdx.x * 4 + i] = t[i];
  for (unsigned i = 0; i < 2; ++i) two[threadIdx.x * 2 + i] = h[i];
}

TEST(Atoms, MatrixLoads) {
  for_each_order([] {
    std::vector<std::uint32_t> plain(128), transposed(128), two(64);
    ASSERT_EQ(launch(load_kernel, dim3(1), dim3(32), 32 * 16, nullptr, 16, plain.data(), transposed.data(), two.data()),
              cudaSuccess);
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned m = 0; m < 4; ++m) {
        const unsigned line = lane / 4, pair = lane % 4 * 2;
        const unsigned along_row = 64 * m + 8 * line + pair, along_column = 64 * m + 8 * pair + line;
        EXPECT_EQ(plain[lane * 4 + m], along_row | (along_row + 1) << 16);
        EXPECT_EQ(transposed[lane * 4 + m], along_column | (along_column + 8) << 16);
        if (m < 2) {
          EXPECT_EQ(two[lane * 2 + m], plain[lane * 4 + m]);
        }
      }
  });
}

TEST(Atoms, MatrixLoadsCountBankConflicts) {
  const auto ratio = [](unsigned pitch) {
    std::vector<std::uint32_t> a(128), b(128), c(64);
    cuda_emulation::reset_statistics();
    EXPECT_EQ(launch(load_kernel, dim3(1), dim3(32), 32 * pitch, nullptr, pitch, a.data(), b.data(), c.data()),
              cudaSuccess);
    EXPECT_EQ(statistics().matrix_loads, 3u);
    EXPECT_EQ(statistics().matrix_load_ideal_passes, 10u);
    return statistics().bank_conflict_ratio();
  };
  EXPECT_EQ(ratio(16), 1.0);
  EXPECT_EQ(ratio(144), 1.0) << "padded rows";
  EXPECT_EQ(ratio(32), 2.0);
  EXPECT_EQ(ratio(128), 8.0) << "every row in the same banks";
}

// ---- Matrix products
// --------------------------------------------------------------------------------------------------

/// Element numbers of a lane's fragments, as the PTX ISA's section "Matrix Fragments for mma.m16n8k16 with floating
/// point type" (and, with twice as many elements a register, "…m16n8k32") gives row and column by lane and index.
struct Fragment {
  static unsigned group(unsigned lane) { return lane >> 2; }
  static unsigned in_group(unsigned lane) { return lane % 4; }
  static unsigned a_row_16(unsigned lane, unsigned i) {
    return i < 2 || (i >= 4 && i < 6) ? group(lane) : group(lane) + 8;
  }
  static unsigned a_col_16(unsigned lane, unsigned i) { return in_group(lane) * 2 + (i & 1) + (i < 4 ? 0 : 8); }
  static unsigned b_row_16(unsigned lane, unsigned i) { return in_group(lane) * 2 + (i & 1) + (i < 2 ? 0 : 8); }
  static unsigned a_row_32(unsigned lane, unsigned i) {
    return i < 4 || (i >= 8 && i < 12) ? group(lane) : group(lane) + 8;
  }
  static unsigned a_col_32(unsigned lane, unsigned i) { return in_group(lane) * 4 + (i & 3) + (i < 8 ? 0 : 16); }
  static unsigned b_row_32(unsigned lane, unsigned i) { return in_group(lane) * 4 + (i & 3) + (i < 4 ? 0 : 16); }
  static unsigned c_row(unsigned lane, unsigned i) { return i < 2 ? group(lane) : group(lane) + 8; }
  static unsigned c_col(unsigned lane, unsigned i) { return in_group(lane) * 2 + (i & 1); }
};

template <class T>
NIBBLE_KERNEL(32, 1)
void product_kernel(const T* a, const T* b, float* c) {
  const unsigned lane = threadIdx.x;
  T a_values[8], b_values[4];
  for (unsigned i = 0; i < 8; ++i) a_values[i] = a[Fragment::a_row_16(lane, i) * 16 + Fragment::a_col_16(lane, i)];
  for (unsigned i = 0; i < 4; ++i) b_values[i] = b[Fragment::b_row_16(lane, i) * 8 + Fragment::group(lane)];
  std::uint32_t a_words[4], b_words[2];
  std::memcpy(a_words, a_values, sizeof a_words);
  std::memcpy(b_words, b_values, sizeof b_words);
  float sums[4];
  for (unsigned i = 0; i < 4; ++i) sums[i] = c[Fragment::c_row(lane, i) * 8 + Fragment::c_col(lane, i)];
  mma(sums, a_words, b_words, T{});
  for (unsigned i = 0; i < 4; ++i) c[Fragment::c_row(lane, i) * 8 + Fragment::c_col(lane, i)] = sums[i];
}

template <class T>
void check_products() {
  std::mt19937 random(5);
  std::uniform_int_distribution<int> small(-40, 40);
  std::vector<T> a(16 * 16), b(16 * 8);
  for (T& v : a) v = T(static_cast<float>(small(random)) / 4);
  for (T& v : b) v = T(static_cast<float>(small(random)) / 8);
  for_each_order([&] {
    std::vector<float> c(16 * 8, 0.5f);
    ASSERT_EQ(launch(product_kernel<T>, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), c.data()), cudaSuccess);
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned col = 0; col < 8; ++col) {
        float exact = 0.5f;  // every term is a small multiple of 1/32
        for (unsigned k = 0; k < 16; ++k)
          exact += static_cast<float>(a[row * 16 + k]) * static_cast<float>(b[k * 8 + col]);
        EXPECT_EQ(c[row * 8 + col], exact) << row << ", " << col;
      }
  });
}

TEST(Atoms, ProductsOfHalves) { check_products<half>(); }
TEST(Atoms, ProductsOfBfloat16) { check_products<__nv_bfloat16>(); }

NIBBLE_KERNEL(32, 1)
void int8_product_kernel(const std::int8_t* a, const std::int8_t* b, int* c) {
  const unsigned lane = threadIdx.x;
  std::int8_t a_values[16], b_values[8];
  for (unsigned i = 0; i < 16; ++i) a_values[i] = a[Fragment::a_row_32(lane, i) * 32 + Fragment::a_col_32(lane, i)];
  for (unsigned i = 0; i < 8; ++i) b_values[i] = b[Fragment::b_row_32(lane, i) * 8 + Fragment::group(lane)];
  std::uint32_t a_words[4], b_words[2];
  std::memcpy(a_words, a_values, sizeof a_words);
  std::memcpy(b_words, b_values, sizeof b_words);
  int sums[4];
  for (unsigned i = 0; i < 4; ++i) sums[i] = c[Fragment::c_row(lane, i) * 8 + Fragment::c_col(lane, i)];
  mma_s8(sums, a_words, b_words);
  for (unsigned i = 0; i < 4; ++i) c[Fragment::c_row(lane, i) * 8 + Fragment::c_col(lane, i)] = sums[i];
}

TEST(Atoms, ProductsOfInt8) {
  std::mt19937 random(6);
  std::uniform_int_distribution<int> any(-128, 127);
  std::vector<std::int8_t> a(16 * 32), b(32 * 8);
  for (std::int8_t& v : a) v = static_cast<std::int8_t>(any(random));
  for (std::int8_t& v : b) v = static_cast<std::int8_t>(any(random));
  for_each_order([&] {
    std::vector<int> c(16 * 8, 1000);
    ASSERT_EQ(launch(int8_product_kernel, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), c.data()), cudaSuccess);
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned col = 0; col < 8; ++col) {
        int exact = 1000;
        for (unsigned k = 0; k < 32; ++k) exact += a[row * 32 + k] * b[k * 8 + col];
        EXPECT_EQ(c[row * 8 + col], exact) << row << ", " << col;
      }
  });
  EXPECT_GT(statistics().matrix_products, 0u);
}

// ---- Asynchronous copies
// ----------------------------------------------------------------------------------------------

struct CopyStages {
  uint4 before_wait, after_one, second_before, second, zeros;
};
NIBBLE_KERNEL(1, 1)
void copy_kernel(const uint4* in, CopyStages* out) {
  NIBBLE_SHARED(uint4, target, 3);
  target[0] = target[1] = target[2] = uint4{1, 1, 1, 1};
  cp_async_16(&target[0], &in[0]);
  cp_async_commit();
  cp_async_16(&target[1], &in[1]);
  cp_async_16(&target[2], nullptr, false);
  cp_async_commit();
  out->before_wait = target[0];
  cp_async_wait<1>();
  out->after_one = target[0];
  out->second_before = target[1];
  cp_async_wait<0>();
  out->second = target[1];
  out->zeros = target[2];
}

TEST(Atoms, CopiesArriveWhenWaitedFor) {
  const std::vector<uint4> in{{10, 11, 12, 13}, {20, 21, 22, 23}};
  CopyStages out{};
  ASSERT_EQ(launch(copy_kernel, dim3(1), dim3(1), 0, nullptr, in.data(), &out), cudaSuccess);
  EXPECT_EQ(out.before_wait.x, 0xffffffffu) << "neither what was there nor what is to come";
  EXPECT_EQ(out.after_one.y, 11u);
  EXPECT_EQ(out.second_before.w, 0xffffffffu);
  EXPECT_EQ(out.second.w, 23u);
  EXPECT_EQ(out.zeros.x | out.zeros.y | out.zeros.z | out.zeros.w, 0u);
}

NIBBLE_KERNEL(1, 1)
void overwrite_kernel(const uint4* in, unsigned* out) {
  NIBBLE_SHARED(uint4, target, 1);
  cp_async_16(target, in);
  cp_async_commit();
  target[0].x = 5;
  cp_async_wait<0>();
  *out = target[0].x;
}

TEST(Atoms, CopiesOverwriteWhatIsWrittenMeanwhile) {
  const uint4 in{1, 2, 3, 4};
  unsigned out = 0;
  ASSERT_EQ(launch(overwrite_kernel, dim3(1), dim3(1), 0, nullptr, &in, &out), cudaSuccess);
  EXPECT_EQ(out, 1u);
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::cuda
