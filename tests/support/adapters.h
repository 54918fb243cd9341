// Adapters for tests, of the golden model gqa_tied.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "nibble/model/adapter.h"

namespace nibble::testing_support {

inline const std::string kQuery = "model.layers.0.self_attn.q_proj";

/// hidden 64, intermediate 112, 4 heads of 16, 2 of keys, 2 blocks.
inline model::Config tiny() { return model::Config::load(NIBBLE_TEST_DATA "/golden/gqa_tied"); }

/// As tests/golden/make_adapter_golden.py makes the values of a tensor.
inline std::vector<float> golden_values(const std::string& tensor, std::size_t count) {
  const std::uint64_t salt = std::accumulate(tensor.begin(), tensor.end(), std::uint64_t{0},
                                             [](std::uint64_t s, char c) { return s + static_cast<unsigned char>(c); });
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t mixed = ((i + 1) * 2654435761u + salt * 40503u) & 0xffffffffu;
    out[i] = static_cast<float>(mixed >> 16) / 32768.0f - 1.0f;
  }
  return out;
}

inline void expect_equal(const model::Adapter& a, const model::Adapter& b) {
  EXPECT_EQ(a.base_model, b.base_model);
  EXPECT_EQ(a.dropout, b.dropout);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    const model::AdapterLayer &x = a.layers[i], &y = b.layers[i];
    EXPECT_EQ(x.name, y.name);
    EXPECT_EQ(std::tie(x.in, x.out, x.rank, x.alpha, x.rslora), std::tie(y.in, y.out, y.rank, y.alpha, y.rslora))
        << x.name;
    EXPECT_EQ(x.a, y.a) << x.name;
    EXPECT_EQ(x.b, y.b) << x.name;
    EXPECT_EQ(x.magnitude, y.magnitude) << x.name;
  }
}

/// With a B that is not zero, and a base model's name that YAML and JSON must quote.
inline model::Adapter filled(const model::AdapterOptions& options) {
  model::Adapter out = model::Adapter::make(tiny(), options);
  out.base_model = "some \"model\": of mine";
  for (model::AdapterLayer& l : out.layers) {
    l.b = golden_values(l.name, l.b.size());
    l.magnitude = golden_values(l.name + "m", l.magnitude.size());
  }
  return out;
}

}  // namespace nibble::testing_support
