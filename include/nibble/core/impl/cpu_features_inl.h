// What core/cpu_features.h declares.
#pragma once

#include "nibble/core/cpu_features.h"

#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace nibble::inline NIBBLE_ABI {

#if defined(__x86_64__)
namespace detail {

/// Tile registers are state that Linux keeps only for processes which asked.
inline bool allow_tiles() {
#if defined(__linux__)
  constexpr long arch_req_xcomp_perm = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace detail
#endif

namespace detail {

inline CpuFeatures read_cpu_features() {
  CpuFeatures f;
#if defined(__x86_64__)
  __builtin_cpu_init();
  f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx");
  // Leaf 7, subleaf 1, EAX bit 4; the compilers' own query does not know it everywhere.
  unsigned a = 0, b = 0, c = 0, d = 0;
  f.avx_vnni = f.avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 16u) != 0;
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  f.avx512_vnni = f.avx512 && __builtin_cpu_supports("avx512vnni");
  // Leaf 7, EDX bits 24 and 25.
  f.amx_int8 =
      f.avx512_vnni && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 3u) == 3 && detail::allow_tiles();
#elif defined(__aarch64__) && defined(__linux__)
  f.neon_dot = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
  f.neon_dot = true;
#endif
  return f;
}

/// As one word, which two threads that ask at once both write, to the same value.
struct alignas(8) KnownFeatures {
  bool known = false;
  CpuFeatures features;
};
inline constinit std::atomic<KnownFeatures> known_features{};
static_assert(std::atomic<KnownFeatures>::is_always_lock_free);

}  // namespace detail

NIBBLE_INLINE CpuFeatures cpu_features() noexcept {
  detail::KnownFeatures now = detail::known_features.load(std::memory_order_relaxed);
  if (!now.known) {
    now = {true, detail::read_cpu_features()};
    detail::known_features.store(now, std::memory_order_relaxed);
  }
  return now.features;
}

}  // namespace nibble::inline NIBBLE_ABI
