#include "stored_weights.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "config_check.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// The modules that must have a weight, of the first `blocks` blocks.
std::vector<std::string> promised_modules(const Config& c, std::size_t blocks) {
  const Architecture& a = c.architecture();
  std::vector<std::string> out{std::string(a.embedding.name)};
  for (std::size_t i = 0; i < blocks; ++i)
    for (BlockModule& m : a.modules(i, c.experts)) out.push_back(std::move(m.name));
  out.emplace_back(a.final_norm.name);
  if (!c.tied_embeddings) out.emplace_back(a.head.name);
  return out;
}

/// What stands before the part of a name that blocks have in common: "module.model." of
/// "module.model.layers.0.mlp.up_proj.weight". Nothing where the name has no such part.
std::optional<std::string> prefix_of(const Architecture& architecture, std::string_view tensor) {
  constexpr std::string_view block = "layers.0.";
  for (std::size_t at = tensor.find(block); at != std::string_view::npos; at = tensor.find(block, at + 1)) {
    if (at > 0 && tensor[at - 1] != '.') continue;
    for (const std::string& linear : architecture.linear_names(0, 1)) {
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

std::string instead(const Architecture& architecture, const std::vector<std::string>& unasked) {
  if (unasked.empty()) return "and there is nothing in their place";
  std::set<std::string> prefixes;
  for (const std::string& name : unasked)
    if (const auto prefix = prefix_of(architecture, name)) prefixes.insert(*prefix);
  if (prefixes.size() == 1) {
    const std::string& prefix = *prefixes.begin();
    return prefix.empty() ? "the weights carry no prefix where 'model.' is expected ('" + unasked.front() +
                                "'); rename them in the file"
                          : "the weights carry the prefix '" + prefix + "' where 'model.' is expected ('" +
                                unasked.front() + "'); rename them in the file";
  }
  constexpr std::size_t most = 3;
  std::string out = "there are tensors that no " + std::string(architecture.model_type) + " model has:";
  for (std::size_t i = 0; i < std::min(most, unasked.size()); ++i) out += (i == 0 ? " '" : ", '") + unasked[i] + "'";
  if (unasked.size() > most) out += " and " + std::to_string(unasked.size() - most) + " more";
  return out;
}

void check_missing(const Checkpoint& checkpoint, const Config& config, const std::set<std::string>& quantized,
                   const std::string& from) {
  // No more blocks are looked for than there are tensors: the others are missing whatever a configuration says.
  const std::size_t blocks = std::min(config.layers, checkpoint.tensors().size());
  const Architecture& architecture = config.architecture();
  const std::size_t beyond = (config.layers - blocks) * architecture.modules(0, config.experts).size();
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
                                        " are missing: " + names + "; " +
                                        instead(architecture, unasked(checkpoint, promised)));
}

/// A linear layer of a block, as the configuration shapes it.
struct LinearShape {
  std::string name;
  std::size_t out = 0, in = 0;
};

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

std::vector<std::string> quantized_layers(const Checkpoint& checkpoint) {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (const TensorInfo& t : checkpoint.tensors()) {
    const auto layer = layer_of_tensor(t.name);
    if (layer && seen.insert(*layer).second && layout_of(checkpoint, *layer)) out.push_back(*layer);
  }
  return out;
}

std::vector<std::string> check_stored_weights(const Checkpoint& checkpoint, const Config& config,
                                              const std::string& from) {
  check_config(config, checkpoint);
  std::vector<std::string> quantized = quantized_layers(checkpoint);
  const std::set<std::string> found(quantized.begin(), quantized.end());
  check_missing(checkpoint, config, found, from);
  const Architecture& architecture = config.architecture();
  for (std::size_t i = 0; i < config.layers; ++i)
    for (const BlockModule& m : architecture.modules(i, config.experts)) {
      const LinearShape linear{m.name, config.elements(m->out), config.elements(m->in)};
      if (m->is_linear()) check_linear(checkpoint, linear, found.contains(linear.name));
      else if (m->role == Role::router) check_linear(checkpoint, linear, false);
    }
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
