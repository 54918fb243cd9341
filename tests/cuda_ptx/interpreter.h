// An interpreter of PTX: runs on the CPU, instruction by instruction, what nvcc wrote for a kernel, inline assembly
// included. It is the second execution of each kernel, and shares nothing with the emulation but the kernel's source.
//
// It checks what a GPU does not tell:
//   - every access lies in one registered buffer (the block's shared memory, the thread's local memory) and is aligned
//   - between two barriers no two threads of a block touch the same byte of shared memory, one of them writing
//   - nobody touches the target of an asynchronous copy before the copying thread has waited for it
//   - all lanes that a warp-wide instruction names arrive at it, and at the same one; a barrier is the same for all
//   - what a block writes to global memory, another touches only after a release there and an acquire here, and never
//     through the read-only cache
//   - blocks that wait for each other come to an end: loops that poll with nanosleep and change no memory any more are
//     named
// Shared memory, local memory and registers begin as noise (NaN bits). An instruction that it does not know is an error
// when it is executed, not before. Memory is sequentially consistent; a thread runs until it meets a barrier, an
// instruction of the whole warp or a waiting loop, then the next one does. So a race in global memory within a block
// shows in results only, and only if it spans such a point; among blocks global_order.h finds it.
//
// Floating point is IEEE, each operation rounded once. Matrix products are summed in double and rounded once, where
// hardware rounds in an order of its own: compare them with a tolerance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cuda_ptx {

/// What the kernel did wrong, where (kernel, block, thread, the instruction's text), or why it cannot be run.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Dim {
  unsigned x = 1, y = 1, z = 1;
  [[nodiscard]] std::size_t count() const { return std::size_t{x} * y * z; }
};

/// The global memory that a kernel may touch: buffers of the host, by address.
class MemoryMap {
 public:
  void add(const void* data, std::size_t bytes);
  void remove(const void* data) { buffers_.erase(reinterpret_cast<std::uint64_t>(data)); }
  /// A buffer that was met before: [begin, end).
  struct Hint {
    std::uint64_t begin = 0, end = 0;
  };
  /// Whether [address, address + bytes) lies in one buffer. Looks into the hint first, and leaves there what it finds.
  [[nodiscard]] bool contains(std::uint64_t address, std::size_t bytes, Hint& hint) const;

 private:
  std::map<std::uint64_t, std::size_t> buffers_;
};

/// One launch. Parameters are the bytes of the kernel's parameters, each at a multiple of its alignment, as in a
/// struct.
struct Launch {
  Dim grid, block;
  std::size_t shared_bytes = 0;  ///< Dynamic shared memory.
  std::vector<std::byte> parameters;
  unsigned seed = 0;  ///< The order of warps and blocks: 0 ascending, 1 descending, others random.
};

/// What was executed.
struct Statistics {
  std::uint64_t instructions = 0, barriers = 0;
  std::map<std::string, std::uint64_t> opcodes;  ///< Of each opcode, by threads; warp-wide ones count once a warp.
  /// Passes through the banks of shared memory by all accesses (loads, stores, matrix loads, asynchronous copies), and
  /// as many as they would be if no two lanes of an access met in one bank.
  std::uint64_t shared_passes = 0, shared_ideal_passes = 0;

  /// 1.0 without bank conflicts, up to 32.
  [[nodiscard]] double bank_conflict_ratio() const {
    return shared_ideal_passes == 0 ? 1.0
                                    : static_cast<double>(shared_passes) / static_cast<double>(shared_ideal_passes);
  }
};

struct Program;

/// The kernels of one PTX text.
class Module {
 public:
  explicit Module(std::string_view text);  ///< Throws Fault where the text is not understood.
  ~Module();
  Module(Module&&) noexcept;
  Module& operator=(Module&&) noexcept;

  [[nodiscard]] std::vector<std::string> kernels() const;  ///< Mangled names.
  /// Whether there is a kernel of exactly this mangled name.
  [[nodiscard]] bool has(const std::string& kernel) const;
  /// Runs it to its end. Throws Fault.
  Statistics run(const std::string& kernel, const Launch& launch, const MemoryMap& memory) const;

 private:
  std::unique_ptr<Program> program_;
};

}  // namespace nibble::cuda_ptx
