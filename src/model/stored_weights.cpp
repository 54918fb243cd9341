#include "stored_weights.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "config_check.h"
#include "nibble/core/error.h"
#include "nibble/model/architecture.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

std::string block_prefix(std::size_t index) { return "model.layers." + std::to_string(index) + "."; }

/// The modules that must have a weight, of the first `blocks` blocks.
std::vector<std::string> promised_modules(const Config& c, std::size_t blocks) {
  std::vector<std::string> out{"model.embed_tokens"};
  for (std::size_t i = 0; i < blocks; ++i) {
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) out.push_back(block_prefix(i) + norm);
    for (const std::string& linear : block_linear_names(i)) out.push_back(linear);
  }
  out.emplace_back("model.norm");
  if (!c.tied_embeddings) out.emplace_back("lm_head");
  return out;
}

/// What stands before the part of a name that blocks have in common: "module.model." of
/// "module.model.layers.0.mlp.up_proj.weight". Nothing where the name has no such part.
std::optional<std::string> prefix_of(std::string_view tensor) {
  constexpr std::string_view block = "layers.0.";
  for (std::size_t at = tensor.find(block); at != std::string_view::npos; at = tensor.find(block, at + 1)) {
    if (at > 0 && tensor[at - 1] != '.') continue;
    for (const std::string& linear : block_linear_names(0)) {
      const std::string_view rest = std::string_view(linear).substr(std::string_view("model.").size());
      if (tensor.substr(at).starts_with(rest) && tensor.substr(at + rest.size()).starts_with('.'))
        return std::string(tensor.substr(0, at));
    }
  }
  return std::nullopt;
}

/// The tensors that belong to no promised module, in file order.
std::vector<std::string> unasked(const Checkpoint& checkpoint, const std::vector<std::string>& promised) {
  const std::set<std::string_view> known(promised.begin(), promised.end());
  std::vector<std::string> out;
  for (const TensorInfo& t : checkpoint.tensors()) {
    bool is_known = false;
    for (std::size_t dot = t.name.find('.'); dot != std::string::npos && !is_known; dot = t.name.find('.', dot + 1))
      is_known = known.contains(std::string_view(t.name).substr(0, dot));
    if (!is_known) out.push_back(t.name);
  }
  return out;
}

std::string instead(const std::vector<std::string>& unasked) {
  if (unasked.empty()) return "and there is nothing in their place";
  std::set<std::string> prefixes;
  for (const std::string& name : unasked)
    if (const auto prefix = prefix_of(name)) prefixes.insert(*prefix);
  if (prefixes.size() == 1) {
    const std::string& prefix = *prefixes.begin();
    return prefix.empty() ? "the weights carry no prefix where 'model.' is expected ('" + unasked.front() +
                                "'); rename them in the file"
                          : "the weights carry the prefix '" + prefix + "' where 'model.' is expected ('" +
                                unasked.front() + "'); rename them in the file";
  }
  constexpr std::size_t most = 3;
  std::string out = "there are tensors that no Llama model has:";
  for (std::size_t i = 0; i < std::min(most, unasked.size()); ++i) out += (i == 0 ? " '" : ", '") + unasked[i] + "'";
  if (unasked.size() > most) out += " and " + std::to_string(unasked.size() - most) + " more";
  return out;
}

void check_missing(const Checkpoint& checkpoint, const Config& config, const std::set<std::string>& quantized,
                   const std::string& from) {
  // No more blocks are looked for than there are tensors: the others are missing whatever a configuration says.
  const std::size_t blocks = std::min(config.layers, checkpoint.tensors().size());
  const std::size_t in_block = 2 + block_linear_names(0).size(), beyond = (config.layers - blocks) * in_block;
  const auto promised = promised_modules(config, blocks);
  std::vector<std::string> missing;
  for (const std::string& module : promised)
    if (!checkpoint.contains(module + ".weight") && !quantized.contains(module)) missing.push_back(module);
  if (missing.empty() && beyond == 0) return;
  constexpr std::size_t most = 3;
  std::string names;
  for (std::size_t i = 0; i < std::min(most, missing.size()); ++i)
    names += (i == 0 ? "'" : ", '") + missing[i] + ".weight'";
  const std::size_t count = missing.size() + beyond;
  if (count > most) names += " and " + std::to_string(count - most) + " more";
  throw Error(ErrorCode::not_found, "'" + from + "': of the " + std::to_string(promised.size() + beyond) +
                                        " weights that its configuration promises " + std::to_string(count) +
                                        " are missing: " + names + "; " + instead(unasked(checkpoint, promised)));
}

void check_linear(const Checkpoint& checkpoint, const LinearShape& linear, bool is_quantized) {
  if (const auto unread = unread_tensors(checkpoint, linear.name); !unread.empty())
    throw Error(ErrorCode::unsupported, "tensor '" + unread.front() + "' lies beside the weight of '" + linear.name +
                                            "', and nothing here reads it: the weight may mean something else with it");
  if (is_quantized) return;  // its shape shows when it is decoded
  const TensorInfo& t = checkpoint.info(linear.name + ".weight");
  if (t.shape == std::vector<std::size_t>{linear.out, linear.in}) return;
  std::string shape;
  for (const std::size_t d : t.shape) shape += (shape.empty() ? "" : " × ") + std::to_string(d);
  throw Error(ErrorCode::shape_mismatch, "tensor '" + t.name + "' is " + shape + "; the configuration needs " +
                                             std::to_string(linear.out) + " × " + std::to_string(linear.in));
}

}  // namespace

std::vector<LinearShape> block_linear_shapes(const Config& c, std::size_t index) {
  const std::size_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const auto names = block_linear_names(index);
  return {{names[0], q, c.hidden},
          {names[1], kv, c.hidden},
          {names[2], kv, c.hidden},
          {names[3], c.hidden, q},
          {names[4], c.intermediate, c.hidden},
          {names[5], c.intermediate, c.hidden},
          {names[6], c.hidden, c.intermediate}};
}

std::vector<std::string> check_stored_weights(const Checkpoint& checkpoint, const Config& config,
                                              const std::string& from) {
  check_config(config, checkpoint);
  std::vector<std::string> quantized;
  std::set<std::string> seen, found;
  for (const TensorInfo& t : checkpoint.tensors()) {
    const auto layer = layer_of_tensor(t.name);
    if (!layer || !seen.insert(*layer).second) continue;
    if (!layout_of(checkpoint, *layer)) continue;  // throws where nothing decodes it
    quantized.push_back(*layer);
    found.insert(*layer);
  }
  check_missing(checkpoint, config, found, from);
  for (std::size_t i = 0; i < config.layers; ++i)
    for (const LinearShape& linear : block_linear_shapes(config, i))
      check_linear(checkpoint, linear, found.contains(linear.name));
  return quantized;
}

void refuse_quantized(const std::vector<std::string>& quantized, const std::string& from) {
  if (quantized.empty()) return;
  throw Error(ErrorCode::invalid_argument,
              "'" + from + "': layer '" + quantized.front() + "' is quantized already" +
                  (quantized.size() > 1 ? ", and " + std::to_string(quantized.size() - 1) + " more are" : "") +
                  "; quantizing starts from a floating-point model: `nibble quantize --method bf16` decodes it, "
                  "`nibble convert` stores the same codes in another layout");
}

}  // namespace nibble::inline NIBBLE_ABI::model
