// Any text as a quantization_config, and its rules asked of a few layers: an answer that a layer can have, or
// nibble::Error.
#include "input.h"
#include "nibble/core/error.h"
#include "nibble/format/quantization_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nibble;
  try {
    const auto config = QuantizationConfig::parse(fuzz::text_of(data, size), "config.json");
    if (!config) return 0;
    for (const char* layer : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj", "lm_head"}) {
      const LayerQuantization& q = config->of_layer(layer);
      if (q.bits < 2 || q.bits > 8) __builtin_trap();
    }
  } catch (const Error&) {
  }
  return 0;
}
