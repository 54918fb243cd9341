#include <cstdio>

#include "nibble/model/config.h"

int main() {
  const auto config = nibble::model::Config::parse(
      R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
          "num_attention_heads": 4, "vocab_size": 256})",
      "config.json");
  std::printf("the models: %zu layers\n", config.layers);
  return config.layers == 2 ? 0 : 1;
}
