// A CUDA device made of fibers: kernels compiled by a host compiler run on it from their own source, in many orders,
// and what the programming model forbids is reported. This header is what a test sees of it.
//
// Each CUDA thread is a fiber. It runs until it waits (a barrier, a collective of its warp, a spin_hint()) and then the
// next one runs, in the order that options() asks for; blocks run one after another, or a few at once. So a test is the
// same in every run, and repeats itself under each order:
//
//   for_each_order([] { EXPECT_EQ(gemm(…), cudaSuccess); compare(…); });
//
// A launch throws Fault when the kernel
//   - reaches different __syncthreads() in one block, or different collectives in one warp;
//   - names a lane outside its mask;
//   - waits for ever: the message names every thread that waits, and where;
//   - writes beyond an array of shared memory;
//   - gives a matrix load or an asynchronous copy a bad or misaligned address.
// Shared memory begins as NaN bits. The target of an asynchronous copy holds NaN bits until the copy is waited for, so
// that a read too early and a write too early both show in the results.
//
// With -fsanitize=address,undefined every access outside an array is found, from the first byte on; with
// -fsanitize=thread every race: there each CUDA thread is a thread of the race detector, and nothing but barriers,
// __syncwarp() and load_acquire/add_release orders two of them. (Shuffles, votes and matrix products order no memory,
// as on the device.)
//
// Not modelled: preemption between two waits, memory orders weaker than these, the sums' order within a matrix product
// (which is exact here, and rounded once; compare within bounds), and time.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace nibble::cuda_emulation {

enum class ThreadOrder { ascending, descending, random };

/// How the next launches run; for the whole process.
struct Options {
  ThreadOrder order = ThreadOrder::ascending;
  std::uint64_t seed = 1;   ///< Of the random order.
  int resident_blocks = 1;  ///< Blocks that run at once: more than 1 where blocks wait for each other.
  /// Blocks begin by ascending index, as devices start them, whatever the order of threads. Where blocks wait only for
  /// those of lower index, this needs no more than one resident block; other waits end in a Fault.
  bool blocks_in_order = false;
  /// Of the grid only blocks first_block … end_block − 1 run, by linear index, as if the others had nothing to do: the
  /// far end of a grid that nobody could wait for.
  std::uint64_t first_block = 0, end_block = ~std::uint64_t{0};
};
Options& options();

/// What launches did since reset_statistics().
struct Statistics {
  std::uint64_t blocks = 0;
  std::uint64_t barriers = 0;             ///< __syncthreads() that a whole block passed.
  std::uint64_t matrix_products = 0;      ///< By warps.
  std::uint64_t asynchronous_copies = 0;  ///< By threads, 16 bytes each.
  /// Matrix loads by warps, and the passes through shared memory that they take. Each 8×8 matrix takes one pass if its
  /// eight rows lie in different banks; so a ldmatrix_x4 without conflicts takes four.
  std::uint64_t matrix_loads = 0, matrix_load_passes = 0, matrix_load_ideal_passes = 0;

  /// 1.0 without bank conflicts, up to 8.
  [[nodiscard]] double bank_conflict_ratio() const {
    return matrix_load_ideal_passes == 0
               ? 1.0
               : static_cast<double>(matrix_load_passes) / static_cast<double>(matrix_load_ideal_passes);
  }
};
const Statistics& statistics();
void reset_statistics();

/// A kernel broke a rule. The message tells which, the source line, the block and the thread.
class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Calls `body` under some options, and sets them back.
template <class Body>
void with_options(const Options& some, const Body& body) {
  const Options before = options();
  struct Restore {
    const Options& options_before;
    ~Restore() { options() = options_before; }
  } restore{before};
  options() = some;
  body();
}

/// Calls `body` under each order: ascending, descending, and random ones from a few seeds, with `resident_blocks`
/// blocks at once; and if those are several, which is for blocks that wait for each other, also as a device with room
/// for fewer would run them: in order, one and two at once. Sets the options back.
template <class Body>
void for_each_order(const Body& body, int resident_blocks = 1, int random_seeds = 2) {
  with_options({ThreadOrder::ascending, 1, resident_blocks}, body);
  with_options({ThreadOrder::descending, 1, resident_blocks}, body);
  for (int seed = 1; seed <= random_seeds; ++seed)
    with_options({ThreadOrder::random, static_cast<std::uint64_t>(seed), resident_blocks}, body);
  if (resident_blocks == 1) return;
  with_options({ThreadOrder::descending, 1, 1, true}, body);
  with_options({ThreadOrder::random, 1, 2, true}, body);
}

}  // namespace nibble::cuda_emulation
