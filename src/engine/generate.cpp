#include "nibble/engine/generate.h"

#include <algorithm>
#include <cmath>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::engine {

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature))
    throw Error(ErrorCode::invalid_argument,
                "the temperature is " + std::to_string(options.temperature) + "; it must be 0 or more");
  if (!(options.top_p > 0 && options.top_p <= 1))
    throw Error(ErrorCode::invalid_argument,
                "top_p is " + std::to_string(options.top_p) + "; it must be above 0 and at most 1");
}

std::int32_t Sampler::next(std::span<const float> logits) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY)
      throw Error(ErrorCode::non_finite, "logit " + std::to_string(i) + " is " +
                                             (std::isnan(logits[i]) ? "NaN" : "infinite") +
                                             "; `nibble eval` says where in the model that begins");
    candidates_.emplace_back(logits[i], static_cast<std::int32_t>(i));
  }
  const auto likelier = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  if (options_.temperature == 0) return std::min_element(candidates_.begin(), candidates_.end(), likelier)->second;
  std::sort(candidates_.begin(), candidates_.end(), likelier);
  if (options_.top_k > 0) candidates_.resize(std::min(options_.top_k, candidates_.size()));

  const float most = candidates_[0].first;
  double total = 0;
  std::vector<double> cumulative;
  for (const auto& [logit, id] : candidates_)
    cumulative.push_back(total += std::exp(static_cast<double>((logit - most) / options_.temperature)));
  // The first candidates that reach top_p of the mass; always at least one.
  const auto kept = std::lower_bound(cumulative.begin(), cumulative.end(), total * static_cast<double>(options_.top_p));
  const double mass = kept == cumulative.end() ? total : *kept;
  // 53 random bits as a fraction: unlike std's distributions, the same everywhere.
  const double drawn = static_cast<double>(random_() >> 11) * 0x1p-53 * mass;
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), drawn);
  return candidates_[std::min(static_cast<std::size_t>(chosen - cumulative.begin()), candidates_.size() - 1)].second;
}

std::vector<std::int32_t> generate(const Model& model, KvCache& cache, std::span<const std::int32_t> prompt,
                                   std::size_t max_tokens, Sampler& sampler,
                                   const std::function<bool(std::int32_t)>& on_token) {
  const auto& eos = model.config().eos;
  std::vector<std::int32_t> out;
  std::vector<float> logits = model.forward(prompt, cache, true);
  while (out.size() < max_tokens) {
    const std::int32_t token = sampler.next(logits);
    if (std::find(eos.begin(), eos.end(), token) != eos.end()) break;
    out.push_back(token);
    if ((on_token && !on_token(token)) || cache.size() == cache.capacity()) break;
    logits = model.forward(std::span(&token, 1), cache, true);
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
