// Text generation: greedy or sampled, token by token, with the caller able to stop.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <vector>

#include "nibble/engine/model.h"

namespace nibble::inline NIBBLE_ABI::engine {

struct SamplerOptions {
  float temperature = 0;   ///< 0: always the most likely token. Otherwise logits are divided by it.
  std::size_t top_k = 0;   ///< Keep the k most likely; 0: all.
  float top_p = 1;         ///< Keep the fewest tokens whose probabilities reach p (Holtzman et al. 2020); 1: all.
  std::uint64_t seed = 1;  ///< The same seed gives the same text on every machine.
};

/// Draws tokens from logits.
class Sampler {
 public:
  /// Error{invalid_argument} for a negative or non-finite temperature, or top_p outside (0, 1].
  explicit Sampler(const SamplerOptions& options = {});
  /// Error{non_finite} if a logit is NaN or +infinity. Ties go to the lower id.
  std::int32_t next(std::span<const float> logits);

 private:
  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<std::pair<float, std::int32_t>> candidates_;
};

/// Feeds `prompt` and then draws up to `max_tokens`, giving each to `on_token`, which returns false to stop. Stops at
/// the model's eos too, and when the cache is full. Returns the drawn tokens.
std::vector<std::int32_t> generate(const Model& model, KvCache& cache, std::span<const std::int32_t> prompt,
                                   std::size_t max_tokens, Sampler& sampler,
                                   const std::function<bool(std::int32_t)>& on_token = {});

}  // namespace nibble::inline NIBBLE_ABI::engine
