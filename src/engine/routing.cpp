#include "nibble/engine/routing.h"

#include <algorithm>
#include <string>

#include "nibble/core/error.h"
#include "nibble/core/exponential.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

/// In place, in fp32 as transformers has it, whatever the type of the weights.
void softmax(std::span<float> x) {
  const float most = *std::ranges::max_element(x);
  float sum = 0;
  for (float& value : x) sum += value = exponential(value - most);
  for (float& value : x) value /= sum;
}

/// The places of the `count` largest, the largest first. It holds of NaNs that the places differ.
void choose(std::span<const float> values, std::size_t count, std::vector<std::size_t>& out) {
  out.clear();
  while (out.size() < count) {
    std::size_t best = values.size();
    for (std::size_t i = 0; i < values.size(); ++i)
      if (std::ranges::find(out, i) == out.end() && (best == values.size() || values[i] > values[best])) best = i;
    out.push_back(best);
  }
}

}  // namespace

Routing route(MatrixView<const float> logits, std::size_t per_token, bool normalizes) {
  const std::size_t experts = logits.cols;
  if (per_token == 0 || per_token > experts)
    throw Error(ErrorCode::invalid_argument,
                "route: " + std::to_string(per_token) + " of " + std::to_string(experts) + " experts a token");
  std::vector<std::size_t> chosen, all;
  std::vector<float> given(experts), weights;
  Routing out{.begins = std::vector<std::size_t>(experts + 1), .tokens = {}, .weights = {}};
  for (std::size_t t = 0; t < logits.rows; ++t) {
    std::ranges::copy(logits.row(t), given.begin());
    softmax(given);
    choose(given, per_token, chosen);
    float sum = 0;
    for (const std::size_t expert : chosen) sum += given[expert];
    for (const std::size_t expert : chosen) {
      all.push_back(expert);
      weights.push_back(normalizes ? given[expert] / sum : given[expert]);
      ++out.begins[expert + 1];
    }
  }
  for (std::size_t e = 0; e < experts; ++e) out.begins[e + 1] += out.begins[e];
  out.tokens.resize(all.size());
  out.weights.resize(all.size());
  std::vector<std::size_t> next(out.begins.begin(), out.begins.end() - 1);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::size_t place = next[all[i]]++;
    out.tokens[place] = i / per_token;
    out.weights[place] = weights[i];
  }
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::engine
