// The table that matmul() looks its tier up in (src/backend/cuda/tier_table.inc), and what each tier of the CUDA matmul
// would take on a device by a model of three limits: bytes from memory, tensor-core products, instructions issued. Not
// a measurement: it says where one tier overtakes another.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backend/cuda/tier_table.h"

namespace nibble::bench {

/// A device's limits by its data sheet, all a second.
struct DeviceLimits {
  const char* name;
  int compute_capability;
  double bytes;
  double tensor_products;  ///< Multiply-adds of fp16 summed in fp32, dense.
  double fp32_products;    ///< Multiply-adds outside the tensor cores.
  double instructions;     ///< Of single lanes: multiprocessors × 128 × clock.
};
std::span<const DeviceLimits> known_devices();

/// Seconds for each weight of a large matrix, times the matrix's weights; launches cost nothing.
enum class ModelTier { gemv, tensor_core, blas };
double modelled_seconds(const DeviceLimits& device, cuda::TierFamily family, ModelTier tier, std::size_t tokens);

/// Where the tiers change, if `seconds` says what each takes. A tier is kept while it takes at most kKeep times what
/// the next one does: it needs less workspace, and its results hang on less.
inline constexpr double kKeep = 1.1;
inline constexpr std::size_t kMaxTableTokens = 4096;
using Seconds = std::function<double(ModelTier, std::size_t tokens)>;
/// Looks at the numbers of tokens in `tokens`, ascending. A limit is the last of them before the tier is left.
cuda::TierLimits find_limits(const Seconds& seconds, std::span<const std::size_t> tokens);

/// The model's rows for every known device.
std::vector<cuda::TierRow> modelled_table();

/// A device whose rows were measured.
struct Measured {
  int compute_capability = 0;  ///< 0: none was.
  std::string device;          ///< Its name.
};
/// The text of tier_table.inc; rows of the measured device say so.
std::string table_text(std::span<const cuda::TierRow> rows, const Measured& measured = {});

}  // namespace nibble::bench
