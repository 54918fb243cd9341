#include "bench/cuda/tier_model.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <string_view>

#include "kernels/cuda/gemm_w4a16.h"
#include "kernels/cuda/gemv.h"

namespace nibble::bench {

namespace {

using cuda::TierFamily;
using cuda::TierLimits;

// Data sheets: T4, A100 80 GB SXM, A10, RTX 4090, H100 SXM.
constexpr DeviceLimits kDevices[] = {{"T4", 75, 320e9, 32.5e12, 4.05e12, 8.1e12},
                                     {"A100", 80, 2039e9, 156e12, 9.75e12, 19.5e12},
                                     {"A10", 86, 600e9, 62.5e12, 15.6e12, 15.6e12},
                                     {"RTX 4090", 89, 1008e9, 82.6e12, 41.3e12, 41.3e12},
                                     {"H100", 90, 3350e9, 494.7e12, 33.5e12, 33.5e12}};

// 4 bits, and a scale of 16 bits for 128 columns.
constexpr double kWeightBytes = 0.5 + 2.0 / 128;
// What decoding a weight takes in instructions of one lane, as the kernels are written: gemv converts a code and
// fetches its activations from shared memory; gemm_w4a16 decodes 8 codes in about 12 (affine) or 22 (look-up)
// instructions, and spends about as many again on fragments, scales and the products' own issue.
constexpr double kGemvInstructions[] = {3, 4};
constexpr double kGemmInstructions[] = {3, 4.25};
/// Row warps of the larger tiles decode the same codes, each for its own tokens.
double decodes_of_tile(unsigned tokens) { return tokens >= 64 ? 2 : 1; }
// The share of the tensor cores' peak that is reached by cuBLAS, and by kernels of mma.sync. From compute capability
// 9.0 on, the peak is that of wgmma, of which mma.sync gets little more than half.
constexpr double kBlasShare = 0.85, kMmaShare = 0.7, kMmaShareOfWgmma = 0.5;

std::size_t index(TierFamily family) { return family == TierFamily::codebook4 ? 1 : 0; }

double gemv_seconds(const DeviceLimits& d, TierFamily family, double tokens) {
  return std::max(
      {kWeightBytes / d.bytes, tokens / d.fp32_products, (tokens + kGemvInstructions[index(family)]) / d.instructions});
}

double tensor_core_seconds(const DeviceLimits& d, TierFamily family, std::size_t tokens) {
  const unsigned tile = cuda::w4a16_tile_tokens(tokens);
  const double tiles = static_cast<double>((tokens + tile - 1) / tile);
  const double share = d.compute_capability >= 90 ? kMmaShareOfWgmma : kMmaShare;
  return std::max({kWeightBytes / d.bytes, tiles * tile / (share * d.tensor_products),
                   tiles * decodes_of_tile(tile) * kGemmInstructions[index(family)] / d.instructions});
}

/// Decoding writes two bytes a weight, which the product reads.
double blas_seconds(const DeviceLimits& d, std::size_t tokens) {
  return (kWeightBytes + 2) / d.bytes +
         std::max(2 / d.bytes, static_cast<double>(tokens) / (kBlasShare * d.tensor_products));
}

std::string_view name_of(TierFamily family) { return family == TierFamily::codebook4 ? "codebook4" : "affine4"; }

}  // namespace

std::span<const DeviceLimits> known_devices() { return kDevices; }

double modelled_seconds(const DeviceLimits& device, TierFamily family, ModelTier tier, std::size_t tokens) {
  switch (tier) {
    case ModelTier::gemv: return gemv_seconds(device, family, static_cast<double>(tokens));
    case ModelTier::tensor_core: return tensor_core_seconds(device, family, tokens);
    case ModelTier::blas: break;
  }
  return blas_seconds(device, tokens);
}

TierLimits find_limits(const Seconds& seconds, std::span<const std::size_t> tokens) {
  TierLimits limits;
  for (const std::size_t n : tokens) {
    if (n > cuda::kMaxGemvTokens || seconds(ModelTier::gemv, n) > kKeep * seconds(ModelTier::tensor_core, n)) break;
    limits.gemv = n;
  }
  for (const std::size_t n : tokens) {
    if (seconds(ModelTier::tensor_core, n) > kKeep * seconds(ModelTier::blas, n)) break;
    limits.tensor_core = n;
  }
  return limits;
}

std::vector<cuda::TierRow> modelled_table() {
  std::vector<std::size_t> tokens(kMaxTableTokens);
  std::iota(tokens.begin(), tokens.end(), std::size_t{1});
  std::vector<cuda::TierRow> rows;
  for (const DeviceLimits& device : kDevices)
    for (const TierFamily family : {TierFamily::affine4, TierFamily::codebook4}) {
      const auto seconds = [&](ModelTier tier, std::size_t n) { return modelled_seconds(device, family, tier, n); };
      rows.push_back({device.compute_capability, family, find_limits(seconds, tokens)});
    }
  return rows;
}

std::string table_text(std::span<const cuda::TierRow> rows, const Measured& measured) {
  std::ostringstream out;
  out << "// Made by cuda_tier_table (bench/cuda): a model of the devices, no measurement but where a line says so"
      << "\n// {compute capability, family, {most tokens of gemv, of tensor cores}}\n";
  for (const cuda::TierRow& row : rows) {
    out << "{" << row.compute_capability << ", TierFamily::" << name_of(row.family) << ", {" << row.limits.gemv << ", "
        << row.limits.tensor_core << "}},";
    if (row.compute_capability == measured.compute_capability) out << "  // measured on " << measured.device;
    out << "\n";
  }
  return out.str();
}

}  // namespace nibble::bench
