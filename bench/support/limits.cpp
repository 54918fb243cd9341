#include "bench/support/limits.h"

// GCC 12 warns about its own _mm512_undefined_epi32() wherever an intrinsic is inlined (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "nibble/core/buffer.h"

namespace nibble::bench {

namespace {

volatile std::int64_t sink;

/// The best of `passes` timings of `work(thread)` on all threads at once, in seconds.
double best_seconds(int threads, int passes, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
    work(0);
    for (auto& t : others) t.join();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

__attribute__((target("avx512f"))) std::int64_t read_512(const std::byte* p, std::size_t n) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (std::size_t i = 0; i < n; i += 256) {
    // Ahead into the second level, past the end at last: faster than what the hardware does by itself.
    for (std::size_t line = 0; line < 256; line += 64) _mm_prefetch(p + i + 4096 + line, _MM_HINT_T1);
    a = _mm512_add_epi64(a, _mm512_load_si512(p + i));
    b = _mm512_add_epi64(b, _mm512_load_si512(p + i + 64));
    c = _mm512_add_epi64(c, _mm512_load_si512(p + i + 128));
    d = _mm512_add_epi64(d, _mm512_load_si512(p + i + 192));
  }
  return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d)));
}

__attribute__((target("avx2"))) std::int64_t read_256(const std::byte* p, std::size_t n) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (std::size_t i = 0; i < n; i += 64) {
    _mm_prefetch(p + i + 4096, _MM_HINT_T1);
    a = _mm256_add_epi64(a, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i)));
    b = _mm256_add_epi64(b, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32)));
  }
  a = _mm256_add_epi64(a, b);
  return _mm256_extract_epi64(a, 0) + _mm256_extract_epi64(a, 1) + _mm256_extract_epi64(a, 2) +
         _mm256_extract_epi64(a, 3);
}

void read_bytes(const std::byte* p, std::size_t n) {
  sink = __builtin_cpu_supports("avx512f") ? read_512(p, n) : read_256(p, n);
}

// Twelve named accumulators: in an array the compiler may spill them, and then the "peak" is that of the stack.
#define NIBBLE_TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

__attribute__((target("avx512f"))) double fma_512(std::size_t rounds) {
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
#define NIBBLE_DECLARE(i) __m512 a##i = _mm512_set1_ps(static_cast<float>(i));
#define NIBBLE_STEP(i) a##i = _mm512_fmadd_ps(a##i, x, y);
#define NIBBLE_SUM(i) +_mm512_reduce_add_ps(a##i)
  NIBBLE_TWELVE(NIBBLE_DECLARE)
  for (std::size_t r = 0; r < rounds; ++r) {
    NIBBLE_TWELVE(NIBBLE_STEP)
  }
  sink = static_cast<std::int64_t>(0.0f NIBBLE_TWELVE(NIBBLE_SUM));
#undef NIBBLE_DECLARE
#undef NIBBLE_STEP
#undef NIBBLE_SUM
  return static_cast<double>(rounds) * 12 * 32;
}

__attribute__((target("avx2,fma"))) double fma_256(std::size_t rounds) {
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
#define NIBBLE_DECLARE(i) __m256 a##i = _mm256_set1_ps(static_cast<float>(i));
#define NIBBLE_STEP(i) a##i = _mm256_fmadd_ps(a##i, x, y);
#define NIBBLE_SUM(i) +_mm256_cvtss_f32(a##i)
  NIBBLE_TWELVE(NIBBLE_DECLARE)
  for (std::size_t r = 0; r < rounds; ++r) {
    NIBBLE_TWELVE(NIBBLE_STEP)
  }
  sink = static_cast<std::int64_t>(0.0f NIBBLE_TWELVE(NIBBLE_SUM));
#undef NIBBLE_DECLARE
#undef NIBBLE_STEP
#undef NIBBLE_SUM
  return static_cast<double>(rounds) * 12 * 16;
}

__attribute__((target("avx512f,avx512vnni"))) double vnni_512(std::size_t rounds) {
  const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(-2);
#define NIBBLE_DECLARE(i) __m512i a##i = _mm512_set1_epi32(i);
// Not the intrinsic: the compiler would see that x·y never changes.
#define NIBBLE_STEP(i) asm volatile("vpdpbusd %2, %1, %0" : "+v"(a##i) : "v"(x), "v"(y));
#define NIBBLE_SUM(i) +_mm512_reduce_add_epi32(a##i)
  NIBBLE_TWELVE(NIBBLE_DECLARE)
  for (std::size_t r = 0; r < rounds; ++r) {
    NIBBLE_TWELVE(NIBBLE_STEP)
  }
  sink = 0 NIBBLE_TWELVE(NIBBLE_SUM);
#undef NIBBLE_DECLARE
#undef NIBBLE_STEP
#undef NIBBLE_SUM
  return static_cast<double>(rounds) * 12 * 128;
}
#undef NIBBLE_TWELVE

/// As the library's own weights lie: in huge pages where the system grants them.
Buffer written(std::size_t n) {
  Buffer buffer = Buffer::allocate(n);
  std::memset(buffer.writable<std::byte>(), 1, n);
  return buffer;
}

}  // namespace

double streaming_read(int threads) {
  const std::size_t size = std::size_t{512} << 20, part = size / static_cast<std::size_t>(threads) / 256 * 256;
  static const Buffer bytes = written(size);
  return static_cast<double>(part) * threads /
         best_seconds(threads, 3, [&](int t) { read_bytes(bytes.data() + part * static_cast<std::size_t>(t), part); });
}

double resident_read(std::size_t bytes) {
  const std::size_t size = bytes / 256 * 256, rounds = 1 + (std::size_t{64} << 20) / size;
  const Buffer buffer = written(size);
  return static_cast<double>(size * rounds) / best_seconds(1, 5, [&](int) {
           for (std::size_t r = 0; r < rounds; ++r) read_bytes(buffer.data(), size);
         });
}

double share_in_huge_pages() {
  double all = 0, huge = 0;
  std::ifstream smaps("/proc/self/smaps_rollup");
  for (std::string line; std::getline(smaps, line);) {
    if (line.starts_with("Anonymous:")) all = std::stod(line.substr(10));
    if (line.starts_with("AnonHugePages:")) huge = std::stod(line.substr(14));
  }
  return all > 0 ? huge / all : 0;
}

double streaming_copy() {
  const std::size_t size = std::size_t{256} << 20;
  static const Buffer from = written(size), to = written(size);
  return static_cast<double>(size) /
         best_seconds(1, 3, [&](int) { std::memcpy(to.writable<std::byte>(), from.data(), size); });
}

namespace {

/// Operations per second of `work(rounds)`, which returns how many it did.
double peak(int threads, double (*work)(std::size_t)) {
  constexpr std::size_t rounds = 2'000'000;
  double operations = 0;
  const double seconds = best_seconds(threads, 5, [&](int t) {
    const double done = work(rounds);
    if (t == 0) operations = done;
  });
  return operations * threads / seconds;
}

}  // namespace

double fma_peak(int threads, bool wide) {
  return peak(threads, wide && __builtin_cpu_supports("avx512f") ? fma_512 : fma_256);
}

double vnni_peak(int threads) { return __builtin_cpu_supports("avx512vnni") ? peak(threads, vnni_512) : 0; }

}  // namespace nibble::bench
