// Once warm, a product allocates nothing: the program's operator new counts.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "nibble/quantize/quantize.h"
#include "tests/support/random_data.h"

namespace {
std::atomic<int> allocations{0};
}

// Not inlined: the compiler would pair malloc with delete, and warn.
__attribute__((noinline)) void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace nibble {
namespace {

/// Calls until fifty in a row allocate nothing. Not after the first few: a pool's thread may come late to its first
/// task.
bool settles(const auto& call) {
  for (int calls = 0, quiet = 0; calls < 5000; ++calls) {
    const int before = allocations;
    call();
    quiet = allocations == before ? quiet + 1 : 0;
    if (quiet == 50) return true;
  }
  return false;
}

TEST(Allocation, ThereIsNoneOnceWarm) {
  const auto w = testing_support::normal(256 * 200, 1), x = testing_support::normal(40 * 200, 2);
  std::vector<float> y(40 * 256);
  const Backend& backend = default_backend();  // found once: reading NIBBLE_BACKEND makes strings
  for (const char* spec : {"int4-g40-asym", "nf4", "int8", "llm-int8"}) {
    const auto packed = backend.pack(quantize(MatrixView<const float>(w.data(), 256, 200), spec));
    for (Executor* executor : {&serial_executor(), &default_executor()})
      for (const std::size_t tokens : {std::size_t{1}, std::size_t{40}}) {
        const Projection only{packed.get(), {y.data(), tokens, 256}};
        for (const Activations how : {Activations::fp32, Activations::int8, Activations::int8_group})
          EXPECT_TRUE(settles([&] {
            backend.matmul_fused({x.data(), tokens, 200}, {&only, 1}, how, *executor);
          })) << spec
              << ", " << tokens << " tokens";
      }
  }
}

}  // namespace
}  // namespace nibble
