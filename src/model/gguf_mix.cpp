#include "nibble/model/gguf_mix.h"

#include <algorithm>
#include <cctype>

namespace nibble::inline NIBBLE_ABI::model {

namespace {

using enum BlockType;
using enum Role;
using Blocks = MixBlocks;
using Models = MixModels;

constexpr MixRule k4_0[] = {{down, q4_1, Blocks::first_eighth, Models::weighed}};
constexpr MixRule k5_0[] = {{down, q5_1, Blocks::first_eighth, Models::weighed}};
constexpr MixRule k2_k_s[] = {{value, q4_k, Blocks::all, Models::many_queries}, {down, q4_k, Blocks::first_eighth}};
constexpr MixRule k2_k[] = {
    {value, q4_k, Blocks::all, Models::many_queries}, {value, q3_k}, {down, q3_k}, {attention_output, q3_k}};
constexpr MixRule k3_k_m[] = {{value, q5_k, Blocks::first_two},
                              {value, q4_k},
                              {down, q5_k, Blocks::first_sixteenth},
                              {down, q4_k},
                              {attention_output, q4_k}};
constexpr MixRule k3_k_l[] = {{value, q5_k}, {down, q5_k}, {attention_output, q5_k}};
constexpr MixRule k4_k_s[] = {{value, q5_k, Blocks::first_four}, {down, q5_k, Blocks::first_eighth}};
constexpr MixRule k4_k_m[] = {{value, q6_k, Blocks::outer}, {down, q6_k, Blocks::outer}};
constexpr MixRule k5_k_m[] = {{value, q6_k, Blocks::outer}, {down, q6_k, Blocks::outer}};
constexpr MixRule kIq4[] = {{value, q5_k, Blocks::all, Models::many_queries},
                            {down, q5_k, Blocks::first_eighth, Models::unweighed}};

constexpr GgufMix kMixes[] = {
    {"Q2_K_S", q2_k, 21, k2_k_s},
    {"Q2_K", q2_k, 10, k2_k, true},
    {"Q3_K_S", q3_k, 11, {}, true},
    {"Q3_K_M", q3_k, 12, k3_k_m, true},
    {"Q3_K_L", q3_k, 13, k3_k_l},
    {"IQ4_XS", iq4_xs, 30, kIq4, true},
    {"IQ4_NL", iq4_nl, 25, kIq4, true},
    {"Q4_0", q4_0, 2, k4_0},
    {"Q4_1", q4_1, 3},
    {"Q4_K_S", q4_k, 14, k4_k_s, true},
    {"Q4_K_M", q4_k, 15, k4_k_m, true},
    {"Q5_0", q5_0, 8, k5_0},
    {"Q5_1", q5_1, 9},
    {"Q5_K_S", q5_k, 16},
    {"Q5_K_M", q5_k, 17, k5_k_m},
    {"Q6_K", q6_k, 18},
    {"Q8_0", q8_0, 7},
};

bool holds(MixBlocks blocks, std::size_t i, std::size_t n) {
  switch (blocks) {
    case Blocks::all: return true;
    case Blocks::first_two: return i < 2;
    case Blocks::first_four: return i < 4;
    case Blocks::first_sixteenth: return i < n / 16;
    case Blocks::first_eighth: return i < n / 8;
    case Blocks::outer: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
  }
  return false;
}

bool holds(MixModels models, const MixedWeight& w) {
  switch (models) {
    case Models::all: return true;
    case Models::many_queries: return w.queries_per_key >= 4;
    case Models::weighed: return w.has_importance;
    case Models::unweighed: return !w.has_importance;
  }
  return false;
}

/// Values and keys are a small part of a model of eight experts, and so are values of the 80 blocks whose keys are
/// shared by eight queries.
constexpr std::size_t kFewWeights = 8, kManyBlocks = 80;

}  // namespace

BlockType GgufMix::type_of(const MixedWeight& weight) const {
  MixedWeight w = weight;
  if (w.role == query_key_value) w.role = value;  // what the values need
  if (w.experts == kFewWeights) {
    if (w.role == value || w.role == key) return q8_0;
    if (w.role == attention_output) return raises_expert_outputs ? q5_k : base;
  }
  BlockType type = base;
  for (const MixRule& r : rules)
    if (r.role == w.role && holds(r.blocks, w.block, w.blocks) && holds(r.models, w)) {
      type = r.type;
      break;
    }
  if (w.role == value && w.blocks == kManyBlocks && w.queries_per_key > 1 && (type == q3_k || type == q4_k))
    return q5_k;
  return type;
}

BlockType GgufMix::head_type(std::size_t cols) const {
  return base == q8_0 || cols % block_size(base) != 0 ? q8_0 : q6_k;
}

std::span<const GgufMix> gguf_mixes() { return kMixes; }

const GgufMix* find_gguf_mix(std::string_view name) {
  const auto same = [&](const GgufMix& m) {
    return std::ranges::equal(m.name, name, {}, {}, [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  };
  const auto* const found = std::ranges::find_if(kMixes, same);
  return found == std::end(kMixes) ? nullptr : found;
}

}  // namespace nibble::inline NIBBLE_ABI::model
