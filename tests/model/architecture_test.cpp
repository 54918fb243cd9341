#include "nibble/model/architecture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "nibble/engine/block.h"
#include "nibble/model/config.h"
#include "tests/support/expect_error.h"

namespace nibble::inline NIBBLE_ABI::model {
namespace {

using testing_support::expect_error;

class Table : public testing::TestWithParam<const Architecture*> {
 protected:
  const Architecture& table_ = *GetParam();
};

TEST_P(Table, HasEachRoleAndNameOnce) {
  std::set<Role> roles;
  std::set<std::string_view> names, gguf_names;
  for (const Module& m : table_.block) {
    EXPECT_TRUE(roles.insert(m.role).second) << m.name;
    EXPECT_TRUE(names.insert(m.name).second) << m.name;
    EXPECT_TRUE(gguf_names.insert(m.gguf_name).second) << m.gguf_name;
  }
  EXPECT_EQ(&find_architecture(table_.model_type), &table_);
  const Architecture* found = find_gguf_architecture(table_.gguf_architecture, table_.has_experts());
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->gguf_architecture, table_.gguf_architecture);
  EXPECT_EQ(found->has_experts(), table_.has_experts());
}

// GPTQ and AWQ go through the layers in this order, and reports list them in it.
TEST_P(Table, HasLinearLayersInTheOrderOfTheForwardPass) {
  std::vector<Role> parts;
  const auto linears = table_.linears();
  for (const Module& m : linears) {
    if (m.role == Role::query_key_value) parts.insert(parts.end(), {Role::query, Role::key, Role::value});
    else if (m.role == Role::gate_up) parts.insert(parts.end(), {Role::gate, Role::up});
    else parts.push_back(m.role);
  }
  ASSERT_EQ(parts.size(), 7u);
  for (std::size_t i = 0; i < parts.size(); ++i) EXPECT_EQ(static_cast<std::size_t>(parts[i]), i);
  std::size_t count = 0;
  for (std::size_t i = 0; i < kInputs; ++i)
    for (const Module& m : table_.linears(static_cast<Input>(i))) EXPECT_EQ(m.role, linears[count++].role);
  EXPECT_EQ(count, linears.size());
}

// What AWQ divides one by one are the channels that the layers see; of values each serves several heads.
TEST_P(Table, FoldsAnInputIntoWhatHasItsChannels) {
  for (const Module& m : table_.linears()) {
    EXPECT_EQ(m.folds_into, table_.linears(m.input).front().folds_into) << m.name;
    EXPECT_EQ(m.in, table_.linears(m.input).front().in) << m.name;
    const Module& source = table_.module(m.folds_into);
    EXPECT_EQ(source.out, source.role == Role::value             ? Size::keys
                          : source.role == Role::query_key_value ? Size::queries_keys_values
                          : source.role == Role::gate_up         ? Size::gates_ups
                                                                 : m.in)
        << m.name;
    const bool values = source.role == Role::value || source.role == Role::query_key_value;
    EXPECT_EQ(values, m.input == Input::heads) << m.name;
    if (values) EXPECT_EQ(m.in, Size::queries);
  }
}

TEST_P(Table, IsRunByTheEngine) { EXPECT_NO_THROW(engine::check_architecture(table_)); }

TEST_P(Table, NamesTensorsThereAndBack) {
  for (const Module& m : table_.block) {
    const std::string name = table_.name(12, m), gguf = "blk.12." + std::string(m.gguf_name);
    if (!m.is_expert()) EXPECT_EQ(name, "model.layers.12." + std::string(m.name));
    EXPECT_EQ(table_.expert_of(name + ".weight"), m.is_expert() ? std::optional<std::size_t>(0) : std::nullopt);
    EXPECT_EQ(table_.gguf_name(name + ".weight"), gguf + ".weight");
    EXPECT_EQ(table_.gguf_name(name + ".bias"), gguf + ".bias");
    EXPECT_EQ(table_.is_linear_weight(name + ".weight"), m.is_linear()) << name;
    EXPECT_FALSE(table_.is_linear_weight(name + ".bias"));
    EXPECT_FALSE(table_.is_linear_weight(name + ".weight.absmax"));
    EXPECT_FALSE(table_.is_linear_weight("other." + name + ".weight"));
    const bool turned = m.role == Role::query || m.role == Role::key;
    EXPECT_EQ(table_.is_interleaved(name + ".weight"), turned && table_.gguf_interleaved_rope) << name;
    EXPECT_EQ(table_.is_interleaved(name + ".bias"), turned && table_.gguf_interleaved_rope) << name;
  }
  EXPECT_EQ(table_.gguf_name("model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(table_.gguf_name("model.norm.weight"), "output_norm.weight");
  EXPECT_EQ(table_.gguf_name("lm_head.weight"), "output.weight");
  for (const char* none : {"", "lm_head", "model.layers.", "model.layers.3", "model.layers.3.mlp.weight",
                           "model.layers.3.strange_proj.weight", "blk.3.attn_q.weight"})
    EXPECT_EQ(table_.gguf_name(none), "") << none;
}

INSTANTIATE_TEST_SUITE_P(All, Table, testing::ValuesIn(architectures().begin(), architectures().end()),
                         [](const auto& p) { return std::string(p.param->model_type); });

TEST(Architectures, AreFoundByNameOrTheErrorListsThem) {
  EXPECT_EQ(find_architecture("mistral").class_name, "MistralForCausalLM");
  EXPECT_EQ(find_gguf_architecture("llama"), &find_architecture("llama"));  // not Mistral's, which shares it
  EXPECT_EQ(find_gguf_architecture("llama", true), &find_architecture("mixtral"));
  EXPECT_EQ(find_gguf_architecture("qwen3moe"), nullptr);
  EXPECT_EQ(find_gguf_architecture("gpt2"), nullptr);
  expect_error(ErrorCode::unsupported,
               "model_type 'gpt2' is not one that this library computes with, which are llama, mistral, qwen2",
               [] { (void)find_architecture("gpt2"); });
  expect_error(ErrorCode::not_found, "'llama' have no module",
               [] { (void)find_architecture("llama").module(Role::query_norm); });
}

TEST(Architectures, ExpertsHaveANumberInTheirNames) {
  const Architecture& table = find_architecture("mixtral");
  const std::string one = table.name(3, table.module(Role::up), 17);
  EXPECT_EQ(one, "model.layers.3.block_sparse_moe.experts.17.w3");
  EXPECT_EQ(table.expert_of(one + ".weight"), 17u);
  EXPECT_EQ(table.gguf_name(one + ".weight"), "blk.3.ffn_up_exps.weight");
  EXPECT_TRUE(table.is_linear_weight(one + ".weight"));
  const std::string router = table.name(3, Role::router) + ".weight";
  EXPECT_EQ(table.gguf_name(router), "blk.3.ffn_gate_inp.weight");
  EXPECT_FALSE(table.is_linear_weight(router) || table.is_norm_weight(router));
  for (const char* none : {"*", "", "017", "-1", "1.5", "x", "99999999999999999999"}) {
    const std::string tensor = "model.layers.3.block_sparse_moe.experts." + std::string(none) + ".w3.weight";
    EXPECT_EQ(table.expert_of(tensor), std::nullopt) << none;
    EXPECT_EQ(table.gguf_name(tensor), "") << none;
  }
}

// Calibration and reports have groups of layers in this order.
TEST(Architectures, ExpertsFollowOneAnotherWhereTheyShareAnInput) {
  const Architecture& table = find_architecture("qwen3_moe");
  std::vector<std::string> names = table.linear_names(0, 2);
  names.erase(names.begin(), names.begin() + 4);  // attention
  for (std::string& name : names) name.erase(0, std::string("model.layers.0.mlp.experts.").size());
  EXPECT_EQ(names, (std::vector<std::string>{"0.gate_proj", "0.up_proj", "1.gate_proj", "1.up_proj", "0.down_proj",
                                             "1.down_proj"}));
  EXPECT_EQ(table.modules(5, 2).size(), table.block.size() + 3);
  EXPECT_EQ(table.linear_names(0).size(), 4u);
}

TEST(Architectures, SizesAreThoseOfTheConfiguration) {
  Config c;
  c.hidden = 10, c.heads = 4, c.kv_heads = 2, c.head_dim = 6, c.intermediate = 30;
  EXPECT_EQ(c.elements(Size::hidden), 10u);
  EXPECT_EQ(c.elements(Size::queries), 24u);
  EXPECT_EQ(c.elements(Size::keys), 12u);
  EXPECT_EQ(c.elements(Size::head), 6u);
  EXPECT_EQ(c.elements(Size::intermediate), 30u);
  EXPECT_EQ(c.elements(Size::queries_keys_values), 48u);
  EXPECT_EQ(c.elements(Size::gates_ups), 60u);
  c.experts = 7, c.expert_intermediate = 5;
  EXPECT_EQ(c.elements(Size::experts), 7u);
  EXPECT_EQ(c.elements(Size::expert_intermediate), 5u);
}

// A norm's weights are in the order of the values that it norms.
TEST(Architectures, NormsOfQueriesAndKeysFollowTheirRows) {
  const std::vector<Module> norms{{Role::query_norm, "q_norm", "attn_q_norm", Size::head},
                                  {Role::key_norm, "k_norm", "attn_k_norm", Size::head},
                                  {Role::ffn_norm, "norm", "ffn_norm", Size::hidden}};
  Architecture table = find_architecture("llama");
  table.block = norms;
  EXPECT_TRUE(table.is_interleaved("model.layers.0.q_norm.weight"));
  EXPECT_TRUE(table.is_interleaved("model.layers.0.k_norm.weight"));
  EXPECT_FALSE(table.is_interleaved("model.layers.0.norm.weight"));
  table.gguf_interleaved_rope = false;
  EXPECT_FALSE(table.is_interleaved("model.layers.0.q_norm.weight"));
}

// A table that asks for what the engine does not do is refused, not run as something else.
TEST(Architectures, TheEngineRefusesWhatItDoesNotRun) {
  const Architecture& llama = find_architecture("llama");
  const auto refused = [&](const std::string& says, const auto& change) {
    std::vector<Module> block(llama.block.begin(), llama.block.end());
    change(block);
    Architecture changed = llama;
    changed.model_type = "changed";
    changed.block = block;
    expect_error(ErrorCode::unsupported, "'changed': " + says, [&] { engine::check_architecture(changed); });
  };
  const auto of = [](std::vector<Module>& block, Role role) -> Module& {
    return *std::find_if(block.begin(), block.end(), [&](const Module& m) { return m.role == role; });
  };
  for (const auto& [role, what] :
       {std::pair{Role::gate, "gate layer"}, std::pair{Role::ffn_norm, "norm before the feed-forward"}})
    refused(std::string("its blocks have no ") + what,
            [role = role](auto& block) { std::erase_if(block, [&](const Module& m) { return m.role == role; }); });
  refused("queries and keys are normed both or neither", [](auto& block) {
    block.push_back({Role::query_norm, "self_attn.q_norm", "attn_q_norm", Size::head});
  });
  refused("its norm of keys 'k_norm' has another shape", [](auto& block) {
    block.push_back({Role::query_norm, "q_norm", "attn_q_norm", Size::head});
    block.push_back({Role::key_norm, "k_norm", "attn_k_norm", Size::keys});
  });
  refused("its query layer is a part of another layer, too", [](auto& block) {
    block.push_back({Role::query_key_value, "qkv", "attn_qkv", Size::queries_keys_values});
  });
  refused("its layer of gates and what they multiply 'gate_up' has another shape", [](auto& block) {
    std::erase_if(block, [](const Module& m) { return m.role == Role::gate || m.role == Role::up; });
    block.push_back({Role::gate_up, "gate_up", "ffn_up", Size::intermediate, Size::hidden, Input::ffn});
  });
  refused("its value layer 'self_attn.v_proj' has another shape",
          [&](auto& block) { of(block, Role::value).out = Size::queries; });
  refused("its up layer 'mlp.up_proj' multiplies another input",
          [&](auto& block) { of(block, Role::up).input = Input::attention; });
  refused("its gate layer 'mlp.gate_proj' is not each expert's own, and there is a router", [](auto& block) {
    block.push_back({Role::router, "gate", "ffn_gate_inp", Size::experts});
  });
  refused("its value layer 'v.*' is of experts", [&](auto& block) { of(block, Role::value).name = "v.*"; });
  refused("its router 'gate' has another shape", [&](auto& block) {
    for (const Role role : {Role::gate, Role::up, Role::down}) of(block, role).name = "experts.*";
    block.push_back({Role::router, "gate", "ffn_gate_inp", Size::experts, Size::intermediate});
  });
}

}  // namespace
}  // namespace nibble::inline NIBBLE_ABI::model
