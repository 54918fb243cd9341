// The reference engine on the CUDA backend: what an engine asks of a backend, in its order, gives the logits that the
// CPU's backends give.
#include <cmath>

#include "nibble/engine/lora_model.h"
#include "tests/cuda/backend_support.h"

namespace nibble {
namespace {

using namespace cuda_test;
using engine::KvCache;
using engine::LoadOptions;
using engine::Model;

const std::vector<std::int32_t> kIds{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};

/// Logits of kIds, and then of two more tokens, one by one.
std::vector<float> logits(const char* model, const LoadOptions& options) {
  const Model m = Model::load(std::string(NIBBLE_TEST_DATA "/golden/") + model, options);
  KvCache cache(m.config(), kIds.size() + 2);
  std::vector<float> out = m.forward(kIds, cache);
  for (const std::int32_t id : {7, 8}) {
    const auto row = m.forward(std::span(&id, 1), cache);
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

/// As near as the CPU's logits must be to those of transformers (tests/engine/model_test.cpp); rounded activations may
/// fall on the other side of a tie where what they were made of differs in the last place.
void check(const char* model, const char* spec, bool int8_activations, float tolerance) {
  LoadOptions options;
  options.executor = &serial_executor();
  options.int8_activations = int8_activations;
  if (spec != nullptr) options.quantize = QuantSpec::parse(spec);
  const auto expected = logits(model, options);
  options.backend = &backend();
  const auto actual = logits(model, options);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * std::max(1.0f, std::abs(expected[i])))
        << model << ", " << (spec == nullptr ? "as it is" : spec) << ": logit " << i;
}

TEST(CudaEngine, PredictsWhatTheCpuPredicts) {
  power_on();
  for (const char* model : {"gqa_tied", "bias", "mistral"}) check(model, nullptr, false, 1e-4f);
  for (const char* spec : {"int4-g32-asym", "int3-g32-sym", "int8", "nf4-b64-dq", "fp4-b32"})
    check("gqa_tied", spec, false, 1e-4f);
  check("gqa_tied", "llm-int8", false, 1e-2f);
  check("gqa_tied", "int8", true, 1e-2f);
  expect_clean();
}

/// The gradients of an adapter of rank 2 on every layer, behind one another.
std::vector<float> gradients(const char* spec, const Backend* on) {
  LoadOptions options;
  options.executor = &serial_executor();
  options.backend = on;
  if (spec != nullptr) options.quantize = QuantSpec::parse(spec);
  const Model m = Model::load(NIBBLE_TEST_DATA "/golden/gqa_tied", options);
  model::Adapter adapter = model::Adapter::make(m.config(), {.rank = 2, .dropout = 0.25});
  for (model::AdapterLayer& layer : adapter.layers)
    for (std::size_t i = 0; i < layer.b.size(); ++i) layer.b[i] = 0.01f * static_cast<float>(i % 7) - 0.03f;
  engine::LoraModel lora(m, adapter);
  train::Row row;
  row.append(train::Sample{kIds, std::vector<std::uint8_t>(kIds.size(), 1)});
  (void)lora.add_gradients(row, 0);
  std::vector<float> out;
  for (const train::Parameter& p : lora.parameters()) out.insert(out.end(), p.gradient.begin(), p.gradient.end());
  return out;
}

TEST(CudaEngine, TrainsAsTheCpuTrains) {
  power_on();
  for (const char* spec : {static_cast<const char*>(nullptr), "nf4-b64-dq", "int4-g32-asym"}) {
    const std::vector<float> expected = gradients(spec, nullptr), actual = gradients(spec, &backend());
    ASSERT_EQ(actual.size(), expected.size());
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double d = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
      difference += d * d;
      size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    }
    EXPECT_GT(size, 0);
    EXPECT_LT(std::sqrt(difference / size), 1e-4) << (spec == nullptr ? "as it is" : spec);
  }
  expect_clean();
}

}  // namespace
}  // namespace nibble
