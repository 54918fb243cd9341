// The machine that tests of the host code run on, under names with two meanings: an emulated one, which counts calls
// and keeps account of memory, and with NIBBLE_TEST_ON_GPU the real one. What only an emulated machine can be asked
// (what is said when the driver is missing, what a call that fails leaves behind) has files of its own, which no GPU
// runs.
#pragma once

#include "tests/cuda/support.h"

namespace nibble::cuda_test {

#ifdef NIBBLE_TEST_ON_GPU

inline constexpr bool on_gpu = true;

/// A fresh machine with an A100; the real one is what it is.
inline void power_on() {}

/// All work has been done, and nothing done wrong.
inline void expect_clean() {
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

// Only the emulated machine keeps these accounts.
inline void expect_no_leaks() {}
inline void expect_bytes_in_use(std::size_t) {}
inline void expect_allocations(std::size_t /*calls*/, std::size_t /*peak_bytes*/) {}
inline void expect_calls(const char* /*name*/, std::size_t /*calls*/) {}

/// Calls `body`, which puts work on the stream and must neither allocate, copy to or from the host, nor wait: the work
/// is captured into a graph, which CUDA refuses for the first and the last, and is done when this returns.
template <class Body>
void expect_asynchronous(cudaStream_t stream, const Body& body) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t work = nullptr;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  body();
  require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  require(cudaGraphInstantiateWithFlags(&work, graph, 0), "cudaGraphInstantiateWithFlags");
  require(cudaGraphLaunch(work, stream), "cudaGraphLaunch");
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  require(cudaGraphExecDestroy(work), "cudaGraphExecDestroy");
  require(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

#else

namespace machine = cuda_emulation;

inline constexpr bool on_gpu = false;

inline void power_on() { machine::power_on({13000, {machine::a100()}}); }
inline void expect_clean() { EXPECT_EQ(machine::faults(), ""); }
inline void expect_no_leaks() { EXPECT_EQ(machine::leaks(), ""); }
inline void expect_bytes_in_use(std::size_t bytes) { EXPECT_EQ(machine::bytes_in_use(), bytes); }
/// Since power_on().
inline void expect_allocations(std::size_t calls, std::size_t peak_bytes) {
  EXPECT_EQ(machine::calls_of("cudaMalloc"), calls);
  EXPECT_EQ(machine::peak_bytes(), peak_bytes);
}

inline void expect_calls(const char* name, std::size_t calls) { EXPECT_EQ(machine::calls_of(name), calls) << name; }

template <class Body>
void expect_asynchronous(cudaStream_t stream, const Body& body) {
  const char* const refused[] = {"cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaDeviceSynchronize"};
  std::vector<std::size_t> before;
  for (const char* name : refused) before.push_back(machine::calls_of(name));
  body();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(machine::calls_of(refused[i]), before[i]) << refused[i];
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

#endif

/// A stream for one test.
class Stream {
 public:
  Stream() { require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace nibble::cuda_test
