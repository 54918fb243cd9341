// What this machine can do at most, measured in the process that measures the kernels: only ratios to these mean
// anything on a shared machine. Each call measures anew, so that a ratio's two halves are moments apart.
#pragma once

#include <cstddef>

namespace nibble::bench {

/// Bytes per second that `threads` threads read from memory, the best of several passes over 512 MiB.
double streaming_read(int threads);
/// Bytes per second that one thread reads of a buffer that lies in the cache which holds `bytes`.
double resident_read(std::size_t bytes);
/// The share of this process's own memory that the system keeps in huge pages; 0 where it does not say.
double share_in_huge_pages();
/// Bytes per second of payload that memcpy moves between buffers of 256 MiB on one thread.
double streaming_copy();
/// fp32 operations per second (two per fused multiply-add) of `threads` threads, with the widest vectors there are, or
/// with those of AVX2.
double fma_peak(int threads, bool wide = true);
/// int8 operations per second of VNNI's dot product; 0 where the CPU has none.
double vnni_peak(int threads);

}  // namespace nibble::bench
