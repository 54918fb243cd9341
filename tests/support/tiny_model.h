// A whole Llama model of random weights, in tensors that a test can change before they become a directory; and files
// laid out as other writers lay them out.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "nibble/core/float_types.h"
#include "nibble/format/tensor_source.h"
#include "tests/support/memory_checkpoint.h"
#include "tests/support/random_data.h"

namespace nibble::testing_support {

struct TinyModel {
  std::size_t layers = 2, hidden = 64, intermediate = 96, heads = 2, kv_heads = 1, vocab = 256;
  DType type = DType::bf16;
  bool tied = false;
};

inline NamedTensor random_tensor(std::string name, DType type, std::vector<std::size_t> shape, unsigned seed,
                                 float middle = 0) {
  std::size_t count = 1;
  for (const std::size_t d : shape) count *= d;
  const auto values = normal(std::min<std::size_t>(count, 65521), seed, 0.1f);  // a large one repeats itself
  NamedTensor t{std::move(name), type, std::move(shape), Buffer::allocate(count * size_of(type))};
  for (std::size_t i = 0; i < count; ++i) {
    const float value = middle + values[i % values.size()];
    if (type == DType::f32) t.bytes.writable<float>()[i] = value;
    else if (type == DType::f16) t.bytes.writable<f16>()[i] = f16(value);
    else t.bytes.writable<bf16>()[i] = bf16(value);
  }
  return t;
}

/// In the order in which Hugging Face's models have them.
inline std::vector<NamedTensor> tensors_of(const TinyModel& m) {
  const std::size_t kv = m.hidden / m.heads * m.kv_heads;
  std::vector<NamedTensor> out;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape, float middle = 0) {
    out.push_back(random_tensor(name, m.type, std::move(shape), static_cast<unsigned>(out.size() + 1), middle));
  };
  add("model.embed_tokens.weight", {m.vocab, m.hidden});
  for (std::size_t i = 0; i < m.layers; ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    add(block + "input_layernorm.weight", {m.hidden}, 1);
    add(block + "self_attn.q_proj.weight", {m.hidden, m.hidden});
    add(block + "self_attn.k_proj.weight", {kv, m.hidden});
    add(block + "self_attn.v_proj.weight", {kv, m.hidden});
    add(block + "self_attn.o_proj.weight", {m.hidden, m.hidden});
    add(block + "post_attention_layernorm.weight", {m.hidden}, 1);
    add(block + "mlp.gate_proj.weight", {m.intermediate, m.hidden});
    add(block + "mlp.up_proj.weight", {m.intermediate, m.hidden});
    add(block + "mlp.down_proj.weight", {m.hidden, m.intermediate});
  }
  add("model.norm.weight", {m.hidden}, 1);
  if (!m.tied) add("lm_head.weight", {m.vocab, m.hidden});
  return out;
}

inline nlohmann::json config_of(const TinyModel& m) {
  return {{"model_type", "llama"},         {"hidden_size", m.hidden},        {"intermediate_size", m.intermediate},
          {"num_hidden_layers", m.layers}, {"num_attention_heads", m.heads}, {"num_key_value_heads", m.kv_heads},
          {"max_position_embeddings", 64}, {"vocab_size", m.vocab},          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},          {"tie_word_embeddings", m.tied}};
}

/// A safetensors file with its tensors in the order given, whatever that does to their alignment, and a header of
/// `spaces` spaces more than a multiple of 8.
inline void write_in_order(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                           std::size_t spaces = 0, const std::map<std::string, std::string>& metadata = {}) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t at = 0;
  for (const NamedTensor& t : tensors) {
    header[t.name] = {{"dtype", name_of(t.type)}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes.size()}}};
    at += t.bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8 + spaces, ' ');
  const std::uint64_t length = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), 8);
  out << text;
  for (const NamedTensor& t : tensors)
    out.write(reinterpret_cast<const char*>(t.bytes.data()), static_cast<std::streamsize>(t.bytes.size()));
}

struct DirectoryOptions {
  std::size_t shards = 1;
  std::size_t spaces = 0;  ///< As write_in_order.
};

/// A model directory: config.json, and the tensors in so many files, dealt out in turn of their order.
inline std::filesystem::path write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                                         const std::vector<NamedTensor>& tensors, const DirectoryOptions& o = {}) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump();
  if (o.shards == 1) {
    write_in_order(folder / "model.safetensors", tensors, o.spaces);
    return folder;
  }
  nlohmann::json map;
  for (std::size_t s = 0; s < o.shards; ++s) {
    const std::string file = "model-" + std::to_string(s + 1) + ".safetensors";
    std::vector<NamedTensor> part;
    for (std::size_t i = tensors.size() * s / o.shards; i < tensors.size() * (s + 1) / o.shards; ++i) {
      part.push_back(tensors[i]);
      map[tensors[i].name] = file;
    }
    write_in_order(folder / file, part, o.spaces);
  }
  std::ofstream(folder / "model.safetensors.index.json") << nlohmann::json{{"weight_map", map}}.dump();
  return folder;
}

inline std::filesystem::path write_model(const std::filesystem::path& folder, const TinyModel& model,
                                         const DirectoryOptions& o = {}) {
  return write_model(folder, config_of(model), tensors_of(model), o);
}

/// Two layers, 64 hidden values, bf16, whose tokens are bytes.
inline void write_tiny_model(const std::filesystem::path& folder) {
  TinyModel model;
  model.heads = 4, model.kv_heads = 2;
  auto config = config_of(model);
  config["max_position_embeddings"] = 128;
  config["torch_dtype"] = "bfloat16";
  write_model(folder, config, tensors_of(model));
  std::ofstream(folder / "tokenizer_config.json") << R"({"tokenizer_class": "ByteTokenizer"})";
}

inline NamedTensor& tensor_named(std::vector<NamedTensor>& tensors, const std::string& name) {
  for (NamedTensor& t : tensors)
    if (t.name == name) return t;
  throw std::out_of_range(name);
}

/// Whether a tensor is the weight of a block's linear layer.
inline bool is_linear(const NamedTensor& t) { return t.name.ends_with("_proj.weight"); }

/// The name without ".weight".
inline std::string layer_name(const NamedTensor& t) { return t.name.substr(0, t.name.size() - 7); }

}  // namespace nibble::testing_support
