#include "nibble/model/architecture.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>

#include "model/architectures/list.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

/// A tensor of a block, taken apart: "model.layers." "3" "." "self_attn.q_proj" ".weight".
struct BlockTensor {
  std::string_view index;
  const Module* module;
  std::string_view kind;
  std::size_t expert = 0;
};

/// The number at the place that a module's name has for it, as name() writes it; 0 for a name without one. Nothing
/// where the name is another.
std::optional<std::size_t> match(const Module& module, std::string_view name) {
  const std::size_t place = module.name.find('*');
  if (place == std::string_view::npos) return module.name == name ? std::optional<std::size_t>(0) : std::nullopt;
  const std::string_view before = module.name.substr(0, place), behind = module.name.substr(place + 1);
  if (name.size() < module.name.size() || !name.starts_with(before) || !name.ends_with(behind)) return std::nullopt;
  const std::string_view digits = name.substr(place, name.size() - before.size() - behind.size());
  std::size_t expert = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), expert);
  const bool plain = digits.size() == 1 || digits.front() != '0';
  return error == std::errc() && end == digits.data() + digits.size() && plain ? std::optional(expert) : std::nullopt;
}

/// Nothing for a tensor that belongs to no module of a block.
std::optional<BlockTensor> parse(const Architecture& architecture, std::string_view tensor) {
  if (!tensor.starts_with(architecture.block_prefix)) return std::nullopt;
  tensor.remove_prefix(architecture.block_prefix.size());
  const std::size_t dot = tensor.find('.'), last = tensor.rfind('.');
  if (dot == last) return std::nullopt;
  const std::string_view name = tensor.substr(dot + 1, last - dot - 1);
  for (const Module& m : architecture.block)
    if (const auto expert = match(m, name)) return BlockTensor{tensor.substr(0, dot), &m, tensor.substr(last), *expert};
  return std::nullopt;
}

}  // namespace

std::string_view name_of(GatedActivation activation) {
  switch (activation) {
    case GatedActivation::silu: return "silu";
    case GatedActivation::gelu_tanh: return "gelu_pytorch_tanh";
    case GatedActivation::gelu: return "gelu";
  }
  return "";
}

const Module* Architecture::find(Role role) const {
  const auto it = std::find_if(block.begin(), block.end(), [&](const Module& m) { return m.role == role; });
  return it == block.end() ? nullptr : &*it;
}

const Module& Architecture::module(Role role) const {
  if (const Module* m = find(role)) return *m;
  throw Error(ErrorCode::not_found, "the blocks of the architecture '" + std::string(model_type) +
                                        "' have no module of the role " + std::to_string(static_cast<int>(role)));
}

const Module& Architecture::query_module() const {
  return module(has(Role::query_key_value) ? Role::query_key_value : Role::query);
}

std::vector<Module> Architecture::linears() const {
  std::vector<Module> out;
  std::copy_if(block.begin(), block.end(), std::back_inserter(out), [](const Module& m) { return m.is_linear(); });
  return out;
}

std::vector<Module> Architecture::linears(Input input) const {
  std::vector<Module> out = linears();
  std::erase_if(out, [&](const Module& m) { return m.input != input; });
  return out;
}

std::vector<BlockModule> Architecture::modules(std::size_t index, std::size_t expert_count) const {
  std::vector<BlockModule> out;
  for (std::size_t m = 0; m < block.size();) {
    std::size_t end = m + 1;
    while (block[m].is_expert() && end < block.size() && block[end].is_expert() && block[end].input == block[m].input)
      ++end;
    for (std::size_t e = 0; e < (block[m].is_expert() ? expert_count : 1); ++e)
      for (std::size_t i = m; i < end; ++i) out.push_back({&block[i], e, name(index, block[i], e)});
    m = end;
  }
  return out;
}

std::string Architecture::name(std::size_t index, const Module& module, std::size_t expert) const {
  std::string out = std::string(block_prefix) + std::to_string(index) + ".";
  const std::size_t place = module.name.find('*');
  out += module.name.substr(0, place);
  if (place != std::string_view::npos) (out += std::to_string(expert)) += module.name.substr(place + 1);
  return out;
}

std::vector<std::string> Architecture::linear_names(std::size_t index, std::size_t expert_count) const {
  std::vector<std::string> out;
  for (BlockModule& m : modules(index, expert_count))
    if (m->is_linear()) out.push_back(std::move(m.name));
  return out;
}

bool Architecture::is_linear_weight(std::string_view tensor) const {
  const auto part = parse(*this, tensor);
  return part && part->module->is_linear() && part->kind == ".weight";
}

bool Architecture::is_norm_weight(std::string_view tensor) const {
  if (tensor == std::string(final_norm.name) + ".weight") return true;
  const auto part = parse(*this, tensor);
  return part && part->module->is_norm() && part->kind == ".weight";
}

std::string Architecture::gguf_name(std::string_view tensor) const {
  const std::string_view module = tensor.substr(0, tensor.rfind('.')), kind = tensor.substr(module.size());
  for (const EndModule& end : {embedding, final_norm, head})
    if (end.name == module && !kind.empty()) return std::string(end.gguf_name) + std::string(kind);
  const auto part = parse(*this, tensor);
  if (!part) return {};
  return std::string(gguf_block_prefix) + std::string(part->index) + "." + std::string(part->module->gguf_name) +
         std::string(part->kind);
}

std::optional<std::size_t> Architecture::expert_of(std::string_view tensor) const {
  const auto part = parse(*this, tensor);
  return part && part->module->is_expert() ? std::optional(part->expert) : std::nullopt;
}

bool Architecture::is_interleaved(std::string_view tensor) const {
  if (!gguf_interleaved_rope) return false;
  const auto part = parse(*this, tensor);
  if (!part) return false;
  const Role role = part->module->role;
  return role == Role::query || role == Role::key || role == Role::query_norm || role == Role::key_norm;
}

std::span<const Architecture* const> architectures() { return tables::kAll; }

const Architecture& find_architecture(std::string_view model_type) {
  std::string names;
  for (const Architecture* a : architectures()) {
    if (a->model_type == model_type) return *a;
    names += (names.empty() ? "" : ", ") + std::string(a->model_type);
  }
  throw Error(ErrorCode::unsupported, "model_type '" + std::string(model_type) +
                                          "' is not one that this library computes with, which are " + names +
                                          "; quantizing by rounding, converting and inspecting need no known one");
}

const Architecture* find_gguf_architecture(std::string_view gguf_architecture, bool experts) {
  for (const Architecture* a : architectures())
    if (a->gguf_architecture == gguf_architecture && a->has_experts() == experts) return a;
  return nullptr;
}

}  // namespace nibble::inline NIBBLE_ABI::model
