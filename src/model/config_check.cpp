#include "config_check.h"

#include <algorithm>
#include <cstring>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

std::string weight_of(const EndModule& end) { return std::string(end.name) + ".weight"; }

[[noreturn]] void refuse(const std::string& why, ErrorCode code = ErrorCode::corrupt_file) { throw Error(code, why); }

void check_layers(const Config& c, const Checkpoint& in) {
  const std::string last = c.architecture().name(c.layers - 1, Role::attention_norm) + ".weight";
  if (!in.contains(last))
    refuse("\"num_hidden_layers\" is " + std::to_string(c.layers) + ", and there is no tensor '" + last + "'",
           ErrorCode::not_found);
}

/// Each expert of each block has a tensor at least, so that no more are looked for than there can be.
void check_experts(const Config& c, const Checkpoint& in) {
  if (c.experts <= in.tensors().size() / c.layers) return;
  for (const TensorInfo& t : in.tensors())
    if (t.shape.size() == 3)
      refuse("tensor '" + t.name + "' is a stack; each expert's weights are read from tensors of their own, '" +
                 c.architecture().linear_names(0, 1).back() + ".weight' say, as published files have them",
             ErrorCode::unsupported);
  refuse("there are " + std::to_string(c.experts) + " experts in each of " + std::to_string(c.layers) +
             " blocks, the configuration says, and only " + std::to_string(in.tensors().size()) + " tensors",
         ErrorCode::not_found);
}

/// The codes of a layer, of two bits at least, lie in its tensors.
void check_width(const Config& c, const Checkpoint& in) {
  const Module& query = c.architecture().query_module();
  const std::string layer = c.architecture().name(0, query);
  const std::size_t rows = c.elements(query.out);
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
  const std::string embedding = weight_of(c.architecture().embedding);
  if (!in.contains(embedding)) return;
  const TensorInfo& t = in.info(embedding);
  if (t.shape.size() == 2 && t.shape[0] != c.vocab)
    refuse("\"vocab_size\" is " + std::to_string(c.vocab) + ", and tensor '" + embedding + "' has " +
               std::to_string(t.shape[0]) + " rows",
           ErrorCode::shape_mismatch);
}

void check_biases(const Config& c, const Checkpoint& in) {
  const Architecture& a = c.architecture();
  for (std::size_t i = 0; i < c.layers; ++i)
    for (const BlockModule& m : a.modules(i, c.experts)) {
      if (!m->is_linear()) continue;
      const std::string name = m.name + ".bias", key = "\"" + std::string(m->bias_key) + "\"";
      if (c.bias_of(m->role) == Bias::none && in.contains(name))
        refuse("tensor '" + name + "' is a bias that " +
               (m->bias_key.empty() ? "no " + c.model_type + " model has, so that others leave it out; remove it"
                                    : "the configuration says nothing of, so that others leave it out; set " + key +
                                          " if it belongs to the model, or remove it"));
      if (c.bias_of(m->role) == Bias::needed && !in.contains(name))
        refuse("there is no tensor '" + name + "', though " + key + " is true");
    }
}

/// The same type and bytes, or the same numbers.
bool same_values(const Checkpoint& in, const std::string& one, const std::string& other) {
  const TensorInfo &first = in.info(one), &second = in.info(other);
  if (first.shape != second.shape) return false;
  if (first.type != second.type) return in.read_f32(one) == in.read_f32(other);
  const Buffer a = in.data(one), b = in.data(other);
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

void check_tie(const Config& c, const Checkpoint& in) {
  const std::string head = weight_of(c.architecture().head), embedding = weight_of(c.architecture().embedding);
  if (!c.tied_embeddings || !in.contains(head) || !in.contains(embedding) || !is_float(in.info(head).type)) return;
  if (!same_values(in, head, embedding))
    refuse("tensor '" + head + "' differs from '" + embedding +
           "', and \"tie_word_embeddings\" says that they are one: some readers take the first as the head, some the "
           "second; set it to false to keep both, or remove '" +
           head + "'");
}

}  // namespace

void check_config(const Config& config, const Checkpoint& checkpoint) {
  const auto& all = checkpoint.tensors();
  if (config.layers > all.size())
    refuse("\"num_hidden_layers\" is " + std::to_string(config.layers) + ", and there are " +
               std::to_string(all.size()) + " tensors",
           ErrorCode::not_found);
  check_experts(config, checkpoint);
  const auto in_block = [&](const TensorInfo& t) { return t.name.starts_with(config.architecture().block_prefix); };
  if (std::none_of(all.begin(), all.end(), in_block)) return;
  check_layers(config, checkpoint);
  check_width(config, checkpoint);
  check_vocabulary(config, checkpoint);
  check_biases(config, checkpoint);
  check_tie(config, checkpoint);
}

}  // namespace nibble::inline NIBBLE_ABI::model
