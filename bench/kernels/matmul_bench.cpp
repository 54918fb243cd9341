// matmul/<spec>/<activation>/<rows>x<columns>/n<tokens>/t<threads>: y = x·Wᵀ through the library, and beside it, in the
// same process, what one would do without it: Eigen's sgemm, and dequantizing first. <spec> may be a type of GGUF's.
//
// of_limit: for few tokens the bytes of weights read against the streaming read of this process; for many the
// operations against its FMA or VNNI peak. The label says which; each limit is measured just before its case. One token
// rotates over copies of the matrix that no cache holds (huge_pages: how much of them, and of what the streaming read
// reads, lies in huge pages), or (cache/…) reads one that a cache does. avx2/… and scalar/… are those backends, the
// former against the FMA peak of 256 bits. pack/… is packing, against a copy of memory.
#include <benchmark/benchmark.h>

#include <Eigen/Dense>
#include <chrono>
#include <map>
#include <set>

#include "bench/kernels/peers.h"
#include "bench/support/limits.h"
#include "bench/support/random.h"
#include "nibble/matrix/block_matrix.h"
#include "nibble/quantize/quantize.h"

namespace nibble {
namespace {

struct Shape {
  std::size_t rows, cols;
};

/// The quantized matrix of a case, made once: quantizing takes longer than multiplying.
const QuantizedMatrix& quantized(const std::string& spec, Shape s) {
  static std::map<std::string, QuantizedMatrix> known;
  const std::string key = spec + std::to_string(s.rows) + "x" + std::to_string(s.cols);
  if (const auto it = known.find(key); it != known.end()) return it->second;
  const auto w = bench::random(s.rows * s.cols, 1);
  return known.emplace(key, quantize(MatrixView<const float>(w.data(), s.rows, s.cols), spec)).first->second;
}

/// Blocks of any type, of random bytes whose every pair is an ordinary number as f16: what they multiply to takes no
/// part in the time.
BlockMatrix random_blocks(BlockType type, Shape s) {
  BlockMatrix m = BlockMatrix::allocate(type, s.rows, s.cols);
  const auto values = bench::random(m.blocks.size(), 1);
  auto* bytes = m.blocks.writable<std::uint8_t>();
  for (std::size_t i = 0; i < values.size(); ++i)
    bytes[i] = static_cast<std::uint8_t>(static_cast<int>(values[i] * 64) % 8 + (i % 2 == 0 ? 0x20 : 0x28));
  return m;
}

PackedMatrixPtr pack(const Backend& backend, const std::string& spec, Shape s) {
  if (const auto type = parse_block_type(spec)) return backend.pack(random_blocks(*type, s));
  return backend.pack(quantized(spec, s));
}

/// Packed copies of a matrix, of `bytes` in all at least: for one token more than any cache holds. Those of the last
/// matrix are kept, since packing takes longer than multiplying.
const std::vector<PackedMatrixPtr>& packed_copies(const Backend& backend, const std::string& spec, Shape s,
                                                  std::size_t bytes) {
  static std::vector<PackedMatrixPtr> copies;
  static std::string of;
  const std::string key = std::string(backend.name()) + spec + std::to_string(s.rows) + "x" + std::to_string(s.cols);
  if (key != of) copies.clear();
  of = key;
  while (copies.empty() || copies.size() * copies[0]->storage_bytes() < bytes) copies.push_back(pack(backend, spec, s));
  return copies;
}

/// The time an iteration took, for counters whose rate Google Benchmark would take from the CPU time.
class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// What a case is compared with, measured just before it.
struct Limits {
  const char* memory_name;
  double memory, arithmetic;
  const char* arithmetic_name;
};

Limits limits(int threads, bool integer, bool wide, std::size_t resident_bytes = 0) {
  return {resident_bytes == 0 ? "limit: streaming read" : "limit: read in cache",
          resident_bytes == 0 ? bench::streaming_read(threads) : bench::resident_read(resident_bytes),
          integer ? bench::vnni_peak(threads) : bench::fma_peak(threads, wide),
          integer ? "limit: VNNI peak" : "limit: FMA peak"};
}

void count(benchmark::State& state, Shape s, std::size_t tokens, double weight_bytes, double seconds,
           const Limits& limit) {
  const double per_call = seconds / static_cast<double>(state.iterations());
  const double operations = 2.0 * static_cast<double>(s.rows * s.cols * tokens);
  state.counters["gflops"] = operations / per_call / 1e9;
  state.counters["gbps"] = weight_bytes / per_call / 1e9;
  const double memory = weight_bytes / per_call / limit.memory;
  const double arithmetic = limit.arithmetic > 0 ? operations / per_call / limit.arithmetic : 0;
  // The limit that binds is the one that is nearer.
  state.counters["of_limit"] = std::max(memory, arithmetic);
  state.SetLabel(memory > arithmetic ? limit.memory_name : limit.arithmetic_name);
}

/// One case of the library's: how weights and activations meet, on what.
struct Case {
  std::string backend, spec;  ///< No backend: the default.
  bool int8;
  Shape shape;
  std::size_t tokens;
  int threads;
  bool in_cache = false;  ///< One copy of the weights, read again and again.
};

void run_nibble(benchmark::State& state, const Case& c) {
  Executor& executor = c.threads == 1 ? serial_executor() : default_executor();
  const Backend& backend = c.backend.empty() ? default_backend() : find_backend(c.backend);
  const auto& copies = packed_copies(backend, c.spec, c.shape, c.tokens == 1 && !c.in_cache ? std::size_t{1} << 30 : 1);
  const std::size_t turns = c.in_cache ? 1 : copies.size(), bytes = copies[0]->storage_bytes();
  const auto x = bench::random(c.tokens * c.shape.cols, 2);
  std::vector<float> y(c.tokens * c.shape.rows);
  const Limits limit = limits(c.threads, c.int8, backend.name().starts_with("avx512"), c.in_cache ? bytes : 0);
  std::size_t turn = 0;
  const Clock clock;
  for (auto _ : state) {
    const PackedMatrix& w = *copies[turn++ % turns];
    const MatrixView<const float> in(x.data(), c.tokens, c.shape.cols);
    const MatrixView<float> out(y.data(), c.tokens, c.shape.rows);
    if (c.int8) backend.matmul_int8(in, w, out, executor);
    else backend.matmul(in, w, out, executor);
    benchmark::ClobberMemory();
  }
  count(state, c.shape, c.tokens, static_cast<double>(bytes), clock.seconds(), limit);
  if (turns > 1) state.counters["huge_pages"] = bench::share_in_huge_pages();
}

/// Packing, against a copy of memory: bytes of packed weights a second.
void run_pack(benchmark::State& state, const std::string& spec, Shape s, int threads) {
  Executor& executor = threads == 1 ? serial_executor() : default_executor();
  const auto type = parse_block_type(spec);
  const BlockMatrix blocks = type ? random_blocks(*type, s) : BlockMatrix{};
  const auto pack_once = [&] {
    return type ? default_backend().pack(blocks, executor) : default_backend().pack(quantized(spec, s), executor);
  };
  const auto bytes = static_cast<double>(pack_once()->storage_bytes());
  const double copy = bench::streaming_copy();
  const Clock clock;
  for (auto _ : state) benchmark::DoNotOptimize(pack_once());
  const double rate = bytes * static_cast<double>(state.iterations()) / clock.seconds();
  state.counters["gbps"] = rate / 1e9;
  state.counters["of_limit"] = rate / copy;
  state.SetLabel("limit: streaming copy, one thread");
}

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Dequantize, then Eigen, one thread: what an engine without fused kernels does.
void run_eigen(benchmark::State& state, const std::string& spec, Shape s, std::size_t tokens) {
  const QuantizedMatrix& q = quantized(spec, s);
  RowMajor w(s.rows, s.cols), y(tokens, s.rows);
  const auto values = bench::random(tokens * s.cols, 2);
  const Eigen::Map<const RowMajor> x(values.data(), static_cast<Eigen::Index>(tokens),
                                     static_cast<Eigen::Index>(s.cols));
  const Limits limit = limits(1, false, true);
  const Clock clock;
  for (auto _ : state) {
    default_backend().dequantize(q, 0, {w.data(), s.rows, s.cols}, serial_executor());
    y.noalias() = x * w.transpose();
    benchmark::ClobberMemory();
  }
  count(state, s, tokens, static_cast<double>(q.storage_bytes()), clock.seconds(), limit);
}

/// A library's own product on fp32 (OpenBLAS) or 8-bit integers (oneDNN): one thread, weights packed beforehand where
/// the library can.
void run_peer(benchmark::State& state, const peers::Peer& peer, Shape s, std::size_t tokens) {
  const auto multiply = peer.prepare(s.rows, s.cols, tokens, tokens == 1 ? std::size_t{1} << 30 : 1);
  multiply();  // kernels are made at the first call
  const Limits limit = limits(1, peer.weight_bytes == 1, true);
  const Clock clock;
  for (auto _ : state) {
    multiply();
    benchmark::ClobberMemory();
  }
  count(state, s, tokens, static_cast<double>(s.rows * s.cols * peer.weight_bytes), clock.seconds(), limit);
}

bool find_available(std::string_view name) {
  for (const Backend* b : backends())
    if (b->name() == name) return b->available();
  return false;
}

void add(const std::string& name, const Case& c) {
  benchmark::RegisterBenchmark(name.c_str(), run_nibble, c)->Unit(benchmark::kMillisecond)->UseRealTime();
}

std::string name_of(const std::string& operation, const Case& c) {
  return operation + "/" + c.spec + (c.int8 ? "/i8/" : "/f32/") + std::to_string(c.shape.rows) + "x" +
         std::to_string(c.shape.cols) + "/n" + std::to_string(c.tokens) + "/t" + std::to_string(c.threads);
}

/// matmul/…: every spec, shape and count of tokens.
void add_matmul() {
  const Shape shapes[] = {{4096, 4096}, {14336, 4096}, {4096, 14336}};
  for (const Shape s : shapes)
    for (const std::string spec : {"int4-g32-sym", "int4-g128-sym", "int4-channel-sym", "int4-g32-asym", "nf4", "int8",
                                   "int8-g128-asym", "int3-g128-sym", "int2-g32-asym"})
      for (const bool int8 : {false, true}) {
        if (int8 && bench::vnni_peak(1) == 0) continue;
        for (const std::size_t n : {1, 2, 4, 8, 16, 32, 128, 512})
          for (const int threads : std::set<int>{1, default_executor().concurrency()}) {
            const Case c{"", spec, int8, s, n, threads};
            add(name_of("matmul", c), c);
          }
      }
}

/// matmul/…: the other widths, and GGUF's blocks, at one shape.
void add_widths_and_blocks() {
  std::vector<std::string> specs{"int5-g32-sym", "int6-g32-sym", "int7-g32-sym"};
  for (const BlockType type : kBlockTypes)
    if (!is_float(type)) specs.emplace_back(name_of(type));
  for (const std::string& spec : specs)
    for (const bool int8 : {false, true}) {
      if (int8 && bench::vnni_peak(1) == 0) continue;
      for (const std::size_t n : {1, 8, 32, 128}) {
        const Case c{"", spec, int8, {4096, 4096}, n, 1};
        add(name_of("matmul", c), c);
      }
    }
}

/// pack/<spec>/<rows>x<columns>/t<threads>
void add_packing() {
  for (const std::string spec :
       {"int4-g32-sym", "int4-g128-sym", "int8", "int5-g32-sym", "int3-g128-sym", "nf4", "Q4_K", "Q6_K"})
    for (const int threads : std::set<int>{1, default_executor().concurrency()})
      benchmark::RegisterBenchmark(("pack/" + spec + "/4096x4096/t" + std::to_string(threads)).c_str(), run_pack, spec,
                                   Shape{4096, 4096}, threads)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
}

/// cache/…: one token by weights that lie in the third level (4096×4096) or the second (1024×1024).
/// scalar/… and avx2/…: other backends by name.
void add_variants() {
  for (const bool int8 : {false, true}) {
    if (int8 && bench::vnni_peak(1) == 0) continue;
    for (const Shape s : {Shape{4096, 4096}, Shape{1024, 1024}}) {
      const Case c{"", "int4-g32-sym", int8, s, 1, 1, true};
      add(name_of("cache", c), c);
    }
    const Case scalar{"scalar", "int4-g128-sym", int8, {4096, 4096}, 1, 1};
    add(name_of("scalar", scalar), scalar);
  }
  if (!find_available("avx2")) return;
  for (const std::string spec : {"int4-g32-sym", "int4-g128-sym", "nf4", "int8"})
    for (const std::size_t n : {1, 8, 512}) {
      const Case c{"avx2", spec, false, {4096, 4096}, n, 1};
      add(name_of("avx2", c), c);
    }
}

const int registered = [] {
  for (const peers::Peer& peer : peers::all())
    for (const std::size_t n : {1, 8, 32, 512})
      benchmark::RegisterBenchmark(("peer/" + peer.name + "/4096x4096/n" + std::to_string(n) + "/t1").c_str(), run_peer,
                                   peer, Shape{4096, 4096}, n)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
  add_matmul();
  add_widths_and_blocks();
  add_packing();
  add_variants();
  benchmark::AddCustomContext("streaming_read_t1", std::to_string(bench::streaming_read(1)));
  benchmark::AddCustomContext("fma_peak_t1", std::to_string(bench::fma_peak(1)));
  benchmark::AddCustomContext("vnni_peak_t1", std::to_string(bench::vnni_peak(1)));
  benchmark::AddCustomContext("backend", std::string(default_backend().name()));
  for (const std::size_t n : {1, 8, 512})
    benchmark::RegisterBenchmark(
        ("dequantize_then_eigen/int4-g128-sym/f32/4096x4096/n" + std::to_string(n) + "/t1").c_str(), run_eigen,
        "int4-g128-sym", Shape{4096, 4096}, n)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  return 0;
}();

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();
