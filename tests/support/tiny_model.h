// A Llama-like model of a few thousand random weights, whose tokens are bytes.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "nibble/core/float_types.h"
#include "nibble/format/safetensors.h"
#include "tests/support/random_data.h"

namespace nibble::testing_support {

/// Two layers, 64 hidden values, bf16.
inline void write_tiny_model(const std::filesystem::path& folder) {
  constexpr std::size_t hidden = 64, intermediate = 96, kv = 32, vocab = 256;
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json")
      << R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 128,
"rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "bfloat16"})";
  std::ofstream(folder / "tokenizer_config.json") << R"({"tokenizer_class": "ByteTokenizer"})";
  std::vector<TensorInfo> tensors;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape) {
    tensors.push_back({name + ".weight", DType::bf16, std::move(shape), 0, 0});
  };
  add("model.embed_tokens", {vocab, hidden});
  for (int i = 0; i < 2; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm", {hidden});
    add(layer + "post_attention_layernorm", {hidden});
    add(layer + "self_attn.q_proj", {hidden, hidden});
    add(layer + "self_attn.k_proj", {kv, hidden});
    add(layer + "self_attn.v_proj", {kv, hidden});
    add(layer + "self_attn.o_proj", {hidden, hidden});
    add(layer + "mlp.gate_proj", {intermediate, hidden});
    add(layer + "mlp.up_proj", {intermediate, hidden});
    add(layer + "mlp.down_proj", {hidden, intermediate});
  }
  add("model.norm", {hidden});
  add("lm_head", {vocab, hidden});
  SafetensorsWriter writer(folder / "model.safetensors", tensors, {{"format", "pt"}});
  unsigned seed = 1;
  for (const TensorInfo& t : tensors) {
    std::size_t count = 1;
    for (const std::size_t d : t.shape) count *= d;
    std::vector<bf16> values;
    for (const float v : normal(count, seed++)) values.push_back(bf16(0.1f * v + (t.shape.size() == 1 ? 1.0f : 0.0f)));
    writer.write(t.name, std::as_bytes(std::span(values)));
  }
  writer.finish();
}

}  // namespace nibble::testing_support
