// The reference engine on the CUDA backend: what an engine asks of a backend, in its order, gives the logits that the
// CPU's backends give.
#include <cmath>

#include "nibble/engine/model.h"
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

}  // namespace
}  // namespace nibble
