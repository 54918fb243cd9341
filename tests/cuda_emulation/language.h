// The CUDA language's functions: barriers, shuffles, votes, atomics, cached loads, and integer arithmetic (CUDA C++
// Programming Guide, chapter "C++ Language Extensions"). Names and signatures are CUDA's.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "cuda_emulation/machine.h"

using std::max;
using std::min;

#define NIBBLE_EMULATED inline __attribute__((always_inline))  // so that a barrier's return address is in the kernel

// ---- Barriers and fences --------------------------------------------------------------------------------------------

NIBBLE_EMULATED void __syncthreads(nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  nibble::cuda_emulation::barrier(site);
}
NIBBLE_EMULATED void __syncwarp(unsigned mask = 0xffffffffu,
                                nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  nibble::cuda_emulation::meet(nibble::cuda_emulation::Collective::syncwarp, mask, nullptr, 0, site);
}
/// A fence orders nothing for another thread by itself, so to the race detector it is nothing.
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Shuffles and votes ---------------------------------------------------------------------------------------------

namespace nibble::cuda_emulation {

/// The value of lane `from`; a thread's own where that is outside its section of `width` lanes.
template <class T>
T shuffle(unsigned mask, const T& value, int from, int width, Site site) {
  const int mine = static_cast<int>(lane()), first = mine / width * width;
  const Contributions all = meet(Collective::shuffle, mask, &value, sizeof(T), site);
  if (from < first || from >= first + width) return value;
  if ((mask >> from & 1) == 0)
    fail("a shuffle reads lane " + std::to_string(from) + ", which is not in its mask", site);
  return all.of<T>(static_cast<unsigned>(from));
}

inline unsigned ballot(unsigned mask, int predicate, Site site) {
  const Contributions all = meet(Collective::vote, mask, &predicate, sizeof predicate, site);
  unsigned votes = 0;
  for (unsigned i = 0; i < kWarpSize; ++i)
    if ((mask >> i & 1) != 0 && all.of<int>(i) != 0) votes |= 1u << i;
  return votes;
}

}  // namespace nibble::cuda_emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32,
              nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  const int first = static_cast<int>(nibble::cuda_emulation::lane()) / width * width;
  return nibble::cuda_emulation::shuffle(mask, value, first + (from & (width - 1)), width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  const int from = static_cast<int>(nibble::cuda_emulation::lane()) ^ lane_mask;
  return nibble::cuda_emulation::shuffle(mask, value, from, width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  const int from = static_cast<int>(nibble::cuda_emulation::lane() + delta);
  return nibble::cuda_emulation::shuffle(mask, value, from, width, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  const int from = static_cast<int>(nibble::cuda_emulation::lane()) - static_cast<int>(delta);
  return nibble::cuda_emulation::shuffle(mask, value, from, width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  return nibble::cuda_emulation::ballot(mask, predicate, site);
}
inline int __any_sync(unsigned mask, int predicate,
                      nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  return nibble::cuda_emulation::ballot(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      nibble::cuda_emulation::Site site = nibble::cuda_emulation::Site::here()) {
  return nibble::cuda_emulation::ballot(mask, predicate == 0, site) == 0;
}

// ---- Atomics: relaxed, so that they order nothing else --------------------------------------------------------------

namespace nibble::cuda_emulation {

/// Puts change(old) in the place of old, which is returned.
template <class T, class Change>
T exchange_atomically(T* p, Change change) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  auto* const bits = reinterpret_cast<Bits*>(p);
  Bits seen = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &seen, std::bit_cast<Bits>(change(std::bit_cast<T>(seen))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<T>(seen);
}

}  // namespace nibble::cuda_emulation

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return nibble::cuda_emulation::exchange_atomically(p, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return nibble::cuda_emulation::exchange_atomically(p, [&](T old) { return std::max(old, value); });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return nibble::cuda_emulation::exchange_atomically(p, [&](T old) { return std::min(old, value); });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  return nibble::cuda_emulation::exchange_atomically(p, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return nibble::cuda_emulation::exchange_atomically(p, [&](T old) { return old == expected ? value : old; });
}

// ---- Loads with a caching hint --------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> value) {
  *p = value;
}

// ---- Integers -------------------------------------------------------------------------------------------------------

/// c plus the products of four signed bytes.
inline int __dp4a(int a, int b, int c) {
  auto sum = static_cast<unsigned>(c);
  for (int i = 0; i < 32; i += 8) {
    const int product = static_cast<std::int8_t>(a >> i) * static_cast<std::int8_t>(b >> i);
    sum += static_cast<unsigned>(product);
  }
  return static_cast<int>(sum);
}
/// c plus the products of four unsigned bytes.
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xff) * (b >> i & 0xff);
  return c;
}
/// Four bytes chosen from the eight of b:a by the selector's nibbles. A nibble's top bit repeats the byte's sign.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t both = std::uint64_t{b} << 32 | a;
  unsigned chosen = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> 4 * i & 15;
    auto byte = static_cast<unsigned>(both >> 8 * (nibble & 7) & 0xff);
    if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    chosen |= byte << 8 * i;
  }
  return chosen;
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }

// ---- Floats ---------------------------------------------------------------------------------------------------------

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
/// Half to even; out of range saturates and NaN is 0, as cvt.rni does.
inline int __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0f) return 2147483647;
  if (x < -2147483648.0f) return -2147483647 - 1;
  return static_cast<int>(std::nearbyint(x));
}
