#include "config_check.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "nibble/core/error.h"
#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

std::string norm_of_block(std::size_t index) {
  return "model.layers." + std::to_string(index) + ".input_layernorm.weight";
}

[[noreturn]] void refuse(const std::string& why, ErrorCode code = ErrorCode::corrupt_file) { throw Error(code, why); }

void check_layers(const Config& c, const Checkpoint& in) {
  const std::string last = norm_of_block(c.layers - 1);
  if (!in.contains(last))
    refuse("\"num_hidden_layers\" is " + std::to_string(c.layers) + ", and there is no tensor '" + last + "'",
           ErrorCode::not_found);
}

/// The codes of a layer, of two bits at least, lie in its tensors.
void check_width(const Config& c, const Checkpoint& in) {
  const std::string layer = block_linear_names(0).front();
  const std::size_t rows = c.heads * c.head_dim;
  const auto refuse_width = [&](const std::string& why) {
    refuse("\"head_dim\" is " + std::to_string(c.head_dim) + " for " + std::to_string(c.heads) +
               " heads, so that tensor '" + layer + ".weight' would have " + std::to_string(rows) + " rows; " + why,
           ErrorCode::shape_mismatch);
  };
  if (in.contains(layer + ".weight") && !layout_of(in, layer)) {  // codes may lie in elements of a float type
    const TensorInfo& t = in.info(layer + ".weight");
    if (is_float(t.type) && t.shape.size() == 2 && t.shape[0] != rows)
      refuse_width("it has " + std::to_string(t.shape[0]));
  }
  std::size_t bytes = 0;
  for (const TensorInfo& t : in.tensors())
    if (t.name.starts_with(layer + ".")) bytes += t.bytes;
  if (bytes == 0) return;  // a weight that is missing is named where all of them are counted
  if (rows / 4 > bytes) refuse_width("all that is stored of it are " + std::to_string(bytes) + " bytes");
}

void check_vocabulary(const Config& c, const Checkpoint& in) {
  if (!in.contains(kEmbedding)) return;
  const TensorInfo& t = in.info(kEmbedding);
  if (t.shape.size() == 2 && t.shape[0] != c.vocab)
    refuse("\"vocab_size\" is " + std::to_string(c.vocab) + ", and tensor '" + kEmbedding + "' has " +
               std::to_string(t.shape[0]) + " rows",
           ErrorCode::shape_mismatch);
}

void check_biases(const Config& c, const Checkpoint& in) {
  const std::array<Bias, 7> wanted{c.qkv_bias, c.qkv_bias, c.qkv_bias, c.o_bias, c.mlp_bias, c.mlp_bias, c.mlp_bias};
  for (std::size_t i = 0; i < c.layers; ++i) {
    const auto names = block_linear_names(i);
    for (std::size_t l = 0; l < names.size(); ++l) {
      const std::string name = names[l] + ".bias";
      if (wanted[l] == Bias::none && in.contains(name))
        refuse("tensor '" + name + "' is a bias that the configuration says nothing of, so that others leave it out; " +
               "set \"" + (l < 4 ? "attention_bias" : "mlp_bias") + "\" if it belongs to the model, or remove it");
      if (wanted[l] == Bias::needed && !in.contains(name))
        refuse("there is no tensor '" + name + "', though \"" + (l < 4 ? "attention_bias" : "mlp_bias") + "\" is true");
    }
  }
}

/// The same type and bytes, or the same numbers.
bool same_values(const Checkpoint& in) {
  const TensorInfo &head = in.info(kHead), &embedding = in.info(kEmbedding);
  if (head.shape != embedding.shape) return false;
  if (head.type != embedding.type) return in.read_f32(kHead) == in.read_f32(kEmbedding);
  const Buffer a = in.data(kHead), b = in.data(kEmbedding);
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

void check_tie(const Config& c, const Checkpoint& in) {
  if (!c.tied_embeddings || !in.contains(kHead) || !in.contains(kEmbedding) || !is_float(in.info(kHead).type)) return;
  if (!same_values(in))
    refuse(std::string("tensor '") + kHead + "' differs from '" + kEmbedding +
           "', and \"tie_word_embeddings\" says that they are one: some readers take the first as the head, some the "
           "second; set it to false to keep both, or remove '" +
           kHead + "'");
}

}  // namespace

void check_config(const Config& config, const Checkpoint& checkpoint) {
  const auto& all = checkpoint.tensors();
  if (config.layers > all.size())
    refuse("\"num_hidden_layers\" is " + std::to_string(config.layers) + ", and there are " +
               std::to_string(all.size()) + " tensors",
           ErrorCode::not_found);
  if (std::none_of(all.begin(), all.end(), [](const TensorInfo& t) { return t.name.starts_with("model.layers."); }))
    return;
  check_layers(config, checkpoint);
  check_width(config, checkpoint);
  check_vocabulary(config, checkpoint);
  check_biases(config, checkpoint);
  check_tie(config, checkpoint);
}

}  // namespace nibble::inline NIBBLE_ABI::model
