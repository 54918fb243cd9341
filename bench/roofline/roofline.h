// What a CUDA kernel cannot be faster than: its bytes at the memory's bandwidth, its operations at the units' peak.
//
// Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009. Each byte that must move is counted once, as if caches
// were perfect; so a time here is a floor, and never a promise.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/cuda/gemm_w4a16.h"
#include "tests/cuda_static/cubin.h"

namespace nibble::roofline {

/// The unit that multiplies.
enum class Unit { none, cuda_cores, half_tensor, int8_tensor };

/// One way to multiply a [rows, cols] weight by n tokens, or to stream through a tensor.
struct Tier {
  const char* name;
  Unit unit;
  double weight_bytes;      ///< Of one weight, scales included, over all passes.
  double activation_bytes;  ///< Of one element of the input.
  double result_bytes;      ///< Of one element of the product.
  std::size_t most_tokens;  ///< The tier takes no more; 0: any number.
  double operations = 0;    ///< Of one weight, whatever the number of tokens.
};

/// Products. 4 bits are symmetric, groups of 128 with fp16 scales: 0.5 + 2 / 128 bytes a weight. Dequantizing for
/// cuBLAS reads them, writes fp16 and reads that again.
inline const std::vector<Tier>& products() {
  constexpr double int4 = 0.5 + 2.0 / 128;
  static const std::vector<Tier> all{{"cuBLAS fp16", Unit::half_tensor, 2, 2, 2, 0},
                                     {"GEMV int4-g128", Unit::cuda_cores, int4, 2, 2, 8},
                                     {"W4A16 int4-g128", Unit::half_tensor, int4, 2, 2, 0},
                                     {"W8A8 int8", Unit::int8_tensor, 1, 1, 2, 0},
                                     {"dequantize + cuBLAS", Unit::half_tensor, int4 + 2 + 2, 2, 2, 0}};
  return all;
}

/// Passes over a tensor: weight_bytes is what one element reads and writes.
inline const std::vector<Tier>& streams() {
  constexpr double int4 = 0.5 + 2.0 / 128, nf4 = 0.5 + 4.0 / 64;
  static const std::vector<Tier> all{
      {"quantize fp32 to int4-g128", Unit::none, 4 + int4, 0, 0, 0},
      {"quantize fp32 to nf4", Unit::none, 4 + nf4, 0, 0, 0},
      {"dequantize int4-g128 to fp16", Unit::none, int4 + 2, 0, 0, 0},
      {"dequantize nf4 to fp16", Unit::none, nf4 + 2, 0, 0, 0},
      // Weight and gradient in fp32, two states of a byte and one absmax in 256.
      {"adam8", Unit::none, 8 + 4 + 4 + 2 * 8.0 / 256, 0, 0, 0},
      // Blocks of 128 columns: a weight is read, its code and error are written, scale
      // and zero point one in 128; it changes by its block's other columns, on average
      // half of them before it: a fused multiply-add each.
      {"gptq_update, fp32, blocks of 128", Unit::cuda_cores, 4 + 1 + 4 + 8.0 / 128, 0, 0, 0, 127}};
  return all;
}

/// Operations a second of a unit; a fused multiply-add is two.
inline double peak(const cuda_static::Gpu& gpu, Unit unit) {
  switch (unit) {
    case Unit::cuda_cores: return gpu.float_peak;
    case Unit::half_tensor: return gpu.half_tensor_peak;
    case Unit::int8_tensor: return gpu.int8_tensor_peak;
    case Unit::none: break;
  }
  return 0;
}

struct Floor {
  double bytes = 0, operations = 0;
  double memory_seconds = 0, compute_seconds = 0;
  [[nodiscard]] double seconds() const { return std::max(memory_seconds, compute_seconds); }
  [[nodiscard]] bool is_memory_bound() const { return memory_seconds >= compute_seconds; }
};

inline Floor floor_of(const Tier& tier, const cuda_static::Gpu& gpu, std::size_t rows, std::size_t cols,
                      std::size_t tokens) {
  const auto r = static_cast<double>(rows), c = static_cast<double>(cols), n = static_cast<double>(tokens);
  Floor f;
  f.bytes = tier.weight_bytes * r * c + n * (tier.activation_bytes * c + tier.result_bytes * r);
  f.memory_seconds = f.bytes / gpu.memory_bandwidth;
  if (tier.unit == Unit::none) return f;
  f.operations = r * c * (2 * n + tier.operations);
  f.compute_seconds = f.operations / peak(gpu, tier.unit);
  return f;
}

/// The least number of tokens at which arithmetic takes longer than memory; 0 if that is never so.
inline std::size_t crossover(const Tier& tier, const cuda_static::Gpu& gpu, std::size_t rows, std::size_t cols) {
  const auto r = static_cast<double>(rows), c = static_cast<double>(cols);
  const double compute_a_token = 2 * r * c / peak(gpu, tier.unit);
  const double memory_a_token = (tier.activation_bytes * c + tier.result_bytes * r) / gpu.memory_bandwidth;
  if (compute_a_token <= memory_a_token) return 0;
  const double weights = tier.weight_bytes * r * c / gpu.memory_bandwidth;
  return static_cast<std::size_t>(weights / (compute_a_token - memory_a_token)) + 1;
}

/// The inner loop of a product's kernel, and how often warps run through it.
struct Loop {
  const char* file = nullptr;  ///< Of the kernel; null for products of cuBLAS.
  std::string kernel;          ///< What its mangled name contains.
  const char* operation = "";  ///< What is multiplied with.
  double passes = 0;           ///< By all warps together.
};

/// Of the products with a kernel: fp16 activations, integer codes. A pass is 2 rows × 1024 columns in GEMV, 32 rows ×
/// 64 columns × the warp's tokens in W4A16, 32 × 128 in W8A8.
inline Loop loop_of(const Tier& tier, std::size_t rows, std::size_t cols, std::size_t tokens) {
  const auto up = [](std::size_t n, std::size_t to) { return static_cast<double>((n + to - 1) / to); };
  const std::string name = tier.name;
  if (name.starts_with("GEMV")) {
    const std::size_t most = tokens == 1 ? 1 : tokens <= 4 ? 4 : 8;
    return {"gemv", "gemv_kernelILi4ELb0ELb1ELi" + std::to_string(most) + "EEEv", "FFMA", up(rows, 2) * up(cols, 1024)};
  }
  const bool is_w4 = name.starts_with("W4A16");
  if (!is_w4 && !name.starts_with("W8A8")) return {};
  const std::size_t tile = is_w4 ? cuda::w4a16_tile_tokens(tokens) : tokens <= 32 ? 32 : 128;
  const double row_warps = tile < 64 ? 1 : 2, tiles = up(tokens, tile);
  const std::string of_tile = "TileILj" + std::to_string(tile) + "E";
  if (is_w4)
    return {"gemm_w4a16", "6__halfLb0ENS1_6W4" + of_tile, "HMMA", up(rows, 128) * 4 * row_warps * tiles * up(cols, 64)};
  return {"gemm_w8a8", "Int8" + of_tile, "IMMA", up(rows, 128) * 4 * row_warps * tiles * up(cols, 128)};
}

/// What a loop takes if nothing but the schedulers' one instruction a clock holds it up. Code that few iterations run
/// is among the instructions, so this is above what the issue of instructions costs; it is no floor.
inline double issue_seconds(const Loop& loop, std::size_t instructions, const cuda_static::Gpu& gpu) {
  return loop.passes * static_cast<double>(instructions) / gpu.issue_rate;
}

}  // namespace nibble::roofline
