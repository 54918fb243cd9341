#include "linear_layers.h"

#include <algorithm>
#include <array>
#include <span>

#include "nibble/core/error.h"
#include "nibble/format/quantized_tensors.h"
#include "stored_weights.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

constexpr std::string_view kWeight = ".weight";

enum class Match : std::uint8_t { whole, begin, part };

/// The last part of a tensor's name before ".weight", and what that says of it.
struct NameRule {
  LeftAs as;
  Match match;
  std::string_view text;
};
constexpr std::array kRules{
    NameRule{LeftAs::head, Match::whole, "lm_head"},
    NameRule{LeftAs::head, Match::whole, "embed_out"},     // GPT-NeoX
    NameRule{LeftAs::head, Match::whole, "output"},        // Llama as published, InternLM
    NameRule{LeftAs::head, Match::whole, "output_layer"},  // ChatGLM
    NameRule{LeftAs::head, Match::whole, "score"},
    NameRule{LeftAs::head, Match::whole, "classifier"},
    NameRule{LeftAs::head, Match::whole, "qa_outputs"},
    NameRule{LeftAs::embedding, Match::part, "embed"},
    NameRule{LeftAs::embedding, Match::whole, "wte"},     // GPT-2
    NameRule{LeftAs::embedding, Match::whole, "wpe"},     // GPT-2
    NameRule{LeftAs::embedding, Match::whole, "shared"},  // T5
    NameRule{LeftAs::embedding, Match::whole, "relative_attention_bias"},
    NameRule{LeftAs::norm, Match::part, "norm"},
    NameRule{LeftAs::norm, Match::begin, "ln_"},
    NameRule{LeftAs::router, Match::whole, "gate"},  // Mixtral, Qwen-MoE, DeepSeek; an activation's is gate_proj
    NameRule{LeftAs::router, Match::whole, "wg"},
    NameRule{LeftAs::router, Match::whole, "shared_expert_gate"},
    NameRule{LeftAs::router, Match::part, "router"},
    NameRule{LeftAs::adapter, Match::part, "lora_"},
};

/// Models whose layers of these names are Conv1D of transformers: [inputs, outputs], so that groups of columns would
/// run along the wrong side, and readers of the quantized layer would turn it round.
constexpr std::array<std::string_view, 4> kTransposing{"gpt2", "openai-gpt", "imagegpt", "decision_transformer"};
constexpr std::array<std::string_view, 4> kTransposed{"c_attn", "c_proj", "c_fc", "q_attn"};

bool matches(const NameRule& rule, std::string_view part) {
  switch (rule.match) {
    case Match::whole: return part == rule.text;
    case Match::begin: return part.starts_with(rule.text);
    case Match::part: return part.find(rule.text) != std::string_view::npos;
  }
  return false;
}

std::string_view without_weight(std::string_view tensor) {
  if (tensor.ends_with(kWeight)) tensor.remove_suffix(kWeight.size());
  return tensor;
}

bool holds(std::span<const std::string_view> all, std::string_view one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

struct Words {
  const char *one, *more;
};
Words words_of(LeftAs as) {
  switch (as) {
    case LeftAs::vector: return {"vector", "vectors"};
    case LeftAs::embedding: return {"embedding", "embeddings"};
    case LeftAs::head: return {"head", "heads"};
    case LeftAs::norm: return {"norm", "norms"};
    case LeftAs::router: return {"router", "routers"};
    case LeftAs::adapter: return {"adapter", "adapters"};
    case LeftAs::transposed: return {"layer stored as inputs × outputs", "layers stored as inputs × outputs"};
    case LeftAs::other: break;
  }
  return {"other tensor", "other tensors"};
}

void require_alone(const Checkpoint& checkpoint, const LinearTensor& linear) {
  if (const auto unread = unread_tensors(checkpoint, linear.layer); !unread.empty())
    throw Error(ErrorCode::unsupported, "tensor '" + unread.front() + "' lies beside the weight of '" + linear.layer +
                                            "', and nothing here reads it: the weight may mean something else with it");
}

LinearLayers by_table(const Config& config) {
  LinearLayers out;
  const Architecture& architecture = config.architecture();
  for (std::size_t i = 0; i < config.layers; ++i)
    for (const BlockModule& m : architecture.modules(i, config.experts)) {
      const std::string tensor = m.name + std::string(kWeight);
      if (m->is_linear()) out.linears.push_back({tensor, m.name});
      else if (m->role == Role::router) out.left.push_back({tensor, LeftAs::router});
    }
  const std::string head(architecture.head.name);
  if (!config.tied_embeddings) out.heads.push_back({head + std::string(kWeight), head});
  return out;
}

}  // namespace

std::vector<std::string> LinearTensor::layers() const {
  if (matrices == 0) return {layer};
  std::vector<std::string> out;
  for (std::size_t i = 0; i < matrices; ++i) out.push_back(layer + "." + std::to_string(i));
  return out;
}

std::vector<std::string> LinearLayers::left_layers() const {
  std::vector<std::string> out;
  for (const LeftTensor& t : left)
    if (t.as == LeftAs::router || t.as == LeftAs::adapter || t.as == LeftAs::transposed)
      out.emplace_back(without_weight(t.tensor));
  return out;
}

std::vector<std::string> LinearLayers::left_layers_and_heads() const {
  std::vector<std::string> out = left_layers();
  if (!by_rule) out.emplace_back("lm_head");
  else
    for (const LinearTensor& head : heads) out.push_back(head.layer);
  return out;
}

std::string LinearLayers::summary(const Outline& outline) const {
  std::string out =
      "model_type '" + outline.model_type +
      "' is not known here, so its linear layers were found by name and shape: " + std::to_string(linears.size()) +
      " tensors, '" + linears.front().layer + "' the first";
  std::string rest;
  for (const LeftAs as : {LeftAs::embedding, LeftAs::head, LeftAs::norm, LeftAs::router, LeftAs::adapter,
                          LeftAs::transposed, LeftAs::vector, LeftAs::other}) {
    const auto is = [&](const LeftTensor& t) { return t.as == as; };
    const auto first = std::find_if(left.begin(), left.end(), is);
    if (first == left.end()) continue;
    const auto count = std::count_if(left.begin(), left.end(), is);
    const Words words = words_of(as);
    rest += (rest.empty() ? "; left as they are: " : ", ") + std::to_string(count) + " " +
            (count == 1 ? words.one : words.more) + " (" + std::string(without_weight(first->tensor)) +
            (count == 1 ? ")" : ", …)");
  }
  return out + rest;
}

std::optional<LeftAs> left_as(const TensorInfo& t, std::string_view model_type) {
  const std::string_view name = without_weight(t.name);
  const std::string_view part = name.substr(name.rfind('.') + 1);  // npos + 1 is 0
  if (t.shape.size() < 2) return LeftAs::vector;
  for (const NameRule& rule : kRules)
    if (matches(rule, part)) return rule.as;
  // Of a tensor without elements a file can state any number of matrices.
  const bool empty = std::find(t.shape.begin(), t.shape.end(), std::size_t{0}) != t.shape.end();
  if (!is_matrix_type(t.type) || empty) return LeftAs::other;
  if (holds(kTransposing, model_type) && holds(kTransposed, part)) return LeftAs::transposed;
  const bool expert_stack = t.shape.size() == 3 && name.find("expert") != std::string_view::npos;
  const bool matrix = t.shape.size() == 2 && name.size() != t.name.size();
  return matrix || expert_stack ? std::nullopt : std::optional(LeftAs::other);
}

LinearLayers find_linear_layers(const Checkpoint& checkpoint, const Outline& outline, const std::string& from) {
  if (outline.config) {
    auto quantized = check_stored_weights(checkpoint, *outline.config, from);  // first: as many blocks as it says exist
    LinearLayers out = by_table(*outline.config);
    out.quantized = std::move(quantized);
    return out;
  }
  LinearLayers out;
  out.by_rule = true;
  out.quantized = quantized_layers(checkpoint);
  for (const TensorInfo& t : checkpoint.tensors()) {
    const LinearTensor tensor{t.name, std::string(without_weight(t.name)), t.shape.size() == 3 ? t.shape[0] : 0};
    const auto as = left_as(t, outline.model_type);
    const bool head = as == LeftAs::head && t.shape.size() == 2;
    if (!as || head) require_alone(checkpoint, tensor);
    if (as) out.left.push_back({t.name, *as});
    else out.linears.push_back(tensor);
    if (head) out.heads.push_back(tensor);
  }
  return out;
}

void require_linear_layers(const LinearLayers& layers, const Outline& outline, const std::string& from) {
  if (!layers.linears.empty()) return;
  std::string known;
  for (const Architecture* a : architectures()) known += (known.empty() ? "" : ", ") + std::string(a->model_type);
  throw Error(ErrorCode::invalid_argument,
              "'" + from + "': its model_type '" + outline.model_type +
                  "' is not known here, and no tensor has the name and shape of a linear layer: \"NAME.weight\", 2 "
                  "dimensions, F32, F16 or BF16. The architectures that are known: " +
                  known);
}

DType dtype_of_weights(const Checkpoint& checkpoint, const Outline& outline, const LinearLayers& layers) {
  if (outline.config) {
    const std::string embedding = std::string(outline.config->architecture().embedding.name) + std::string(kWeight);
    return checkpoint.contains(embedding) ? checkpoint.info(embedding).type : DType::bf16;
  }
  for (const LeftTensor& t : layers.left)
    if (t.as == LeftAs::embedding) return checkpoint.info(t.tensor).type;
  return DType::bf16;
}

}  // namespace nibble::inline NIBBLE_ABI::model
