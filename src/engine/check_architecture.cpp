#include <optional>

#include "nibble/core/error.h"
#include "nibble/engine/block.h"

namespace nibble::inline NIBBLE_ABI::engine {

namespace {

using model::Input;
using model::Module;
using model::Role;
using model::Size;

/// A module as BlockPass uses it.
struct Use {
  Role role;
  const char* what;
  Size out, in;
  std::optional<Input> input;  ///< None: a norm.
  bool may_lack = false;
  std::optional<Role> within = {};  ///< The layer that a block may have in place of it and others.
};
constexpr Use kUses[] = {
    {Role::query, "query layer", Size::queries, Size::hidden, Input::attention, false, Role::query_key_value},
    {Role::key, "key layer", Size::keys, Size::hidden, Input::attention, false, Role::query_key_value},
    {Role::value, "value layer", Size::keys, Size::hidden, Input::attention, false, Role::query_key_value},
    {Role::query_key_value, "layer of queries, keys and values", Size::queries_keys_values, Size::hidden,
     Input::attention, true},
    {Role::attention_output, "layer behind attention", Size::hidden, Size::queries, Input::heads},
    {Role::gate, "gate layer", Size::intermediate, Size::hidden, Input::ffn, false, Role::gate_up},
    {Role::up, "up layer", Size::intermediate, Size::hidden, Input::ffn, false, Role::gate_up},
    {Role::gate_up, "layer of gates and what they multiply", Size::gates_ups, Size::hidden, Input::ffn, true},
    {Role::down, "down layer", Size::hidden, Size::intermediate, Input::gated},
    {Role::attention_norm, "norm before attention", Size::hidden, Size::hidden, {}},
    {Role::ffn_norm, "norm before the feed-forward layer", Size::hidden, Size::hidden, {}},
    {Role::attention_post_norm, "norm behind attention", Size::hidden, Size::hidden, {}, true},
    {Role::ffn_post_norm, "norm behind the feed-forward layer", Size::hidden, Size::hidden, {}, true},
    {Role::router, "router", Size::experts, Size::hidden, {}, true},
    {Role::query_norm, "norm of queries", Size::head, Size::hidden, {}, true},
    {Role::key_norm, "norm of keys", Size::head, Size::hidden, {}, true},
};

}  // namespace

void check_architecture(const model::Architecture& architecture) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::unsupported,
                "this engine does not run the architecture '" + std::string(architecture.model_type) + "': " + why);
  };
  if (architecture.has(Role::query_norm) != architecture.has(Role::key_norm))
    refuse("queries and keys are normed both or neither");
  // Experts may have an inner width of their own.
  const auto width = [&](Size size) {
    const Module* down = architecture.find(Role::down);
    return size == Size::intermediate && architecture.has_experts() && down != nullptr &&
                   down->in == Size::expert_intermediate
               ? down->in
               : size;
  };
  for (const Use& use : kUses) {
    const Module* m = architecture.find(use.role);
    const bool elsewhere = use.within && architecture.has(*use.within);
    if (m != nullptr && elsewhere) refuse(std::string("its ") + use.what + " is a part of another layer, too");
    if (m == nullptr && (use.may_lack || elsewhere)) continue;
    if (m == nullptr) refuse(std::string("its blocks have no ") + use.what);
    const std::string named = std::string("its ") + use.what + " '" + std::string(m->name) + "'";
    const bool matrix = use.input || use.role == Role::router;
    if (m->out != width(use.out) || (matrix && m->in != width(use.in)))
      refuse(named + " has another shape than Llama's");
    const bool ffn = use.input == Input::ffn || use.input == Input::gated;
    if (m->is_expert() != (ffn && architecture.has_experts()))
      refuse(named + (m->is_expert() ? " is of experts" : " is not each expert's own, and there is a router"));
    if (use.input && m->input != *use.input) refuse(named + " multiplies another input than Llama's");
  }
}

}  // namespace nibble::inline NIBBLE_ABI::engine
