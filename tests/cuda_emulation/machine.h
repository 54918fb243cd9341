// What the emulated device functions ask of the machine that runs them. Internal: the emulation's atoms call it.
//
// The machine's own code is compiled without instrumentation, once for all modes. Whatever a kernel reads or writes is
// therefore read and written in the headers, inlined into the kernel, where the sanitizers see it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

namespace nibble::cuda_emulation {

/// A line of kernel code, for messages. As a default argument, here() is the caller's line.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

inline constexpr unsigned kWarpSize = 32;

/// Throws Fault(message, line, running thread): out of the kernel, whose thread it ends, and then out of the launch.
[[noreturn]] void fail(const std::string& message, Site site);

/// The running thread's lane.
unsigned lane();

/// Runs `body` in each thread of the grid; returns when all are done. Errors of the configuration are CUDA's own.
cudaError_t run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

// Barriers are told apart by where in the compiled kernel they are called, so the compiler may neither merge two calls
// nor copy one into the branches before it. (GCC has no attribute for that; CMakeLists.txt chooses its flags
// accordingly.)
#if defined(__clang__)
#define NIBBLE_ONE_PLACE [[clang::nomerge]] __attribute__((convergent))
#else
#define NIBBLE_ONE_PLACE
#endif

/// __syncthreads(). Fails if another thread of the block waits in a barrier that was called from another place.
NIBBLE_ONE_PLACE void barrier(Site site);
/// Lets the others run; the thread waits for what another thread is to write.
void spin(Site site);

// ---- Collectives of a warp ------------------------------------------------------------------------------------------

enum class Collective { syncwarp, shuffle, vote, matrix_load, matrix_product };

/// What each lane brought. Valid until the thread's next collective.
class Contributions {
 public:
  static constexpr std::size_t kMaxBytes = 64;
  explicit Contributions(const unsigned char* bytes) : bytes_(bytes) {}
  template <class T>
  [[nodiscard]] T of(unsigned from_lane) const {
    static_assert(sizeof(T) <= kMaxBytes);
    T value;
    std::memcpy(static_cast<void*>(&value), bytes_ + kMaxBytes * from_lane, sizeof(T));
    return value;
  }

 private:
  const unsigned char* bytes_;
};

/// Waits until every lane of the mask has come to the same collective (on the same line) with the same mask.
Contributions meet(Collective what, std::uint32_t mask, const void* mine, std::size_t bytes, Site site);

// ---- Shared memory and asynchronous copies --------------------------------------------------------------------------

/// The block's array of this key, made of NaN bits by whoever comes first.
void* static_shared(const void* key, std::size_t bytes);
/// The launch's dynamic shared memory.
void* dynamic_shared();
/// Fails unless 16 aligned bytes at p lie in the block's shared memory.
void require_shared_16(const void* p, const char* what, Site site);

/// Sixteen bytes as one access, of whatever type they are.
using Sixteen = std::uint32_t __attribute__((vector_size(16), may_alias));
struct Copy {
  void* target;
  std::uint32_t data[4];
};
void begin_copy(const Copy& copy);
void commit_copies();
/// Takes a copy out of the groups that are older than the `newest` newest ones; false when there is none.
bool next_finished_copy(int newest, Copy& copy);

// ---- Matrix units ---------------------------------------------------------------------------------------------------

/// Counts a load of `matrices` 8×8 matrices whose rows' addresses the lanes brought.
void count_matrix_load(const Contributions& rows, unsigned matrices);

/// The registers of a lane for a product: 4 of a, 2 of b.
struct Fragments {
  std::uint32_t a[4], b[2];
};
void multiply_half(float (&c)[4], const Contributions& fragments, unsigned lane);
void multiply_bfloat16(float (&c)[4], const Contributions& fragments, unsigned lane);
void multiply_int8(int (&c)[4], const Contributions& fragments, unsigned lane);

}  // namespace nibble::cuda_emulation
