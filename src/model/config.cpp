#include "nibble/model/config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "config_check.h"
#include "config_rope.h"
#include "core/files.h"
#include "core/json.h"
#include "format/recognise.h"
#include "gguf_weights.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

const Architecture& architecture_of(const std::string& type, const std::string& name) {
  try {
    return find_architecture(type);
  } catch (const Error& e) {
    throw Error(e.code(), "'" + name + "': " + e.what());
  }
}

/// layer_types: for each layer whether it sees everything; empty if the file does not say.
std::vector<bool> parse_layer_types(const Fields& f, std::size_t layers) {
  std::vector<bool> out;
  const Json* types = f.find("layer_types");
  if (types == nullptr) return out;
  if (!types->is_array() || types->size() != layers)
    f.refuse("layer_types", "must be a list of " + std::to_string(layers) + ", one for each layer");
  for (const Json& type : *types) {
    if (type != "full_attention" && type != "sliding_attention")
      f.unsupported("layer_types", "holds " + Fields::shown(type) + "; full_attention and sliding_attention are known");
    out.push_back(type == "full_attention");
  }
  return out;
}

/// compressed-tensors' W8A8 is meant for activations that are rounded to 8 bits too, which happens nowhere here.
void note_rounded_activations(const Json& quantization, Config& c) {
  if (!quantization.is_object()) return;  // said where it is read
  const auto groups = quantization.find("config_groups");
  if (groups == quantization.end() || !groups->is_object()) return;
  for (const Json& group : *groups) {
    if (!group.is_object() || !group.contains("input_activations") || group["input_activations"].is_null()) continue;
    c.notes.emplace_back(
        "its \"input_activations\" say that activations are rounded as well, as the engines that it was made for do; "
        "here they are not, so that the results are those of the weights alone");
    return;
  }
}

/// Which layers have a window, as the model's own type decides.
void parse_windows(const Fields& f, const Architecture& architecture, Config& c) {
  const std::string model = "a " + c.model_type + " model";
  std::vector<bool> full = parse_layer_types(f, c.layers);
  auto layers_with_window = std::count(full.begin(), full.end(), false);
  const bool stated = f.find("sliding_window") != nullptr;
  if (architecture.windows == Windows::never) {
    if (layers_with_window != 0) f.unsupported("layer_types", "has windows, which " + model + " knows nothing of");
    if (stated)
      c.notes.push_back("\"sliding_window\" is " + Fields::shown(*f.find("sliding_window")) +
                        ", which counts for nothing in " + model + ": every token sees all before it");
    return;
  }
  const bool if_used = architecture.windows == Windows::if_used;
  const bool used = f.flag("use_sliding_window", !if_used);
  if (!if_used && !used && stated)
    f.refuse("use_sliding_window", "is false, which " + model + " knows nothing of, and \"sliding_window\" is " +
                                       std::to_string(f.size("sliding_window")) + "; remove one");
  const bool none = !used || (f.states("sliding_window") && !stated);  // null: no window
  if (!none) c.sliding_window = f.size("sliding_window", architecture.window);
  if (none && layers_with_window != 0) f.refuse("layer_types", "has windows, and \"sliding_window\" says none");
  if (none && architecture.windows == Windows::pattern && full.empty())
    f.unsupported("sliding_window", "says none, and " + model + " has a window in most of its layers");
  if (full.empty() && architecture.windows == Windows::pattern) {
    const std::string key(architecture.window_pattern_key);
    const std::size_t every =
        key.empty() ? architecture.window_pattern : f.size(key.c_str(), architecture.window_pattern);
    for (std::size_t i = 0; i < c.layers; ++i) full.push_back((i + 1) % every == 0);
    layers_with_window = std::count(full.begin(), full.end(), false);
  }
  if (full.empty()) {
    if (if_used && architecture.full_layers != 0)
      c.full_layers = std::min(f.size_or_zero("max_window_layers", architecture.full_layers), c.layers);
    if (c.full_layers == c.layers) c.sliding_window = 0;
  } else if (layers_with_window == 0) {
    c.sliding_window = 0;
  } else if (static_cast<std::size_t>(layers_with_window) != full.size()) {
    c.full_attention = std::move(full);
  }
  if (c.sliding_window == 0) c.full_layers = 0;
}

void parse_biases(const Fields& f, const Architecture& architecture, Config& c) {
  bool always = false;  // biases that are there whatever a file says of them
  std::set<std::string_view> known;
  for (const Module& m : architecture.linears()) {
    Bias& bias = c.biases[static_cast<std::size_t>(m.role)];
    bias = m.bias;
    always = always || m.bias == Bias::as_stored;
    if (m.bias_key.empty()) continue;
    known.insert(m.bias_key);
    bias = f.flag(std::string(m.bias_key).c_str(), m.bias == Bias::needed) ? Bias::needed : Bias::none;
  }
  for (const char* field : {"attention_bias", "mlp_bias"})
    if (f.flag(field, false) && !known.contains(field) && !always)
      f.unsupported(field, "is true, and a " + c.model_type + " model has no such bias");
}

/// What becomes of scores and logits, where the architecture does anything to them.
void parse_scores(const Fields& f, const Architecture& architecture, Config& c) {
  if (architecture.query_pre_attn_scalar != 0)
    c.query_pre_attn_scalar =
        f.number("query_pre_attn_scalar", static_cast<double>(architecture.query_pre_attn_scalar));
  const auto cap = [&](const char* key, const std::optional<double>& otherwise) {
    const bool none = f.states(key) && f.find(key) == nullptr;  // null
    return !otherwise || none ? 0 : f.number(key, *otherwise);
  };
  c.attention_cap = cap("attn_logit_softcapping", architecture.attention_cap);
  c.logit_cap = cap("final_logit_softcapping", architecture.logit_cap);
}

/// The activation that is named is the architecture's, under any of its names.
void check_activation(const Fields& f, const std::string& name, const Architecture& architecture) {
  const std::string usual(name_of(architecture.activation)), key(architecture.activation_key);
  const std::string_view other = architecture.activation == GatedActivation::silu        ? "swish"
                                 : architecture.activation == GatedActivation::gelu_tanh ? "gelu_new"
                                                                                         : "gelu_python";
  const std::string stated = f.text(key.c_str(), usual);
  if (stated != usual && stated != other)
    throw Error(ErrorCode::unsupported, "'" + name + "': " + key + " '" + stated + "' is not supported in a " +
                                            std::string(architecture.model_type) + " model; " + usual + " is");
}

/// The number of experts goes by two names, which transformers takes for one.
void parse_experts(const Fields& f, const Architecture& architecture, Config& c) {
  if (!architecture.has_experts()) return;
  const auto count = [&](const char* key) { return f.size(key, architecture.experts); };
  const char *local = "num_local_experts", *all = "num_experts";
  c.experts = count(f.find(local) != nullptr ? local : all);
  if (f.find(local) != nullptr && f.find(all) != nullptr && count(all) != c.experts)
    f.refuse(all, "is " + std::to_string(count(all)) + ", and \"num_local_experts\" " + std::to_string(c.experts));
  c.experts_per_token = f.size("num_experts_per_tok", architecture.experts_per_token);
  if (c.experts_per_token > c.experts)
    f.refuse("num_experts_per_tok",
             "is " + std::to_string(c.experts_per_token) + ", of " + std::to_string(c.experts) + " experts");
  if (architecture.expert_intermediate != 0)
    c.expert_intermediate = f.size("moe_intermediate_size", architecture.expert_intermediate);
  if (architecture.norm_topk_prob) c.normalizes_experts = f.flag("norm_topk_prob", *architecture.norm_topk_prob);
}

}  // namespace

Config Config::parse(std::string_view text, const std::string& name) {
  const json::Document document = json::parse(text, name);
  if (!document->is_object()) throw Error(ErrorCode::corrupt_file, "'" + name + "' is not a JSON object");
  const Fields f(*document, name);
  Config c;
  c.model_type = f.text("model_type", "");
  const Architecture& architecture = architecture_of(c.model_type, name);
  f.check_known(KeyStyle::config_json, architecture);
  check_activation(f, name, architecture);
  c.hidden = f.size("hidden_size");
  c.intermediate = f.size("intermediate_size");
  c.layers = f.size("num_hidden_layers");
  c.heads = f.size("num_attention_heads");
  const bool named = f.states("num_key_value_heads");  // null: as many as heads
  c.kv_heads = f.size("num_key_value_heads", named || architecture.kv_heads == 0 ? c.heads : architecture.kv_heads);
  if (c.heads % c.kv_heads != 0) f.refuse("num_key_value_heads", "must divide num_attention_heads");
  if (f.find("head_dim") == nullptr && architecture.head_dim == 0 && c.hidden % c.heads != 0)
    f.refuse("num_attention_heads", "must divide hidden_size");
  c.head_dim = f.size("head_dim", architecture.head_dim != 0 ? architecture.head_dim : c.hidden / c.heads);
  if (c.head_dim % 2 != 0) f.refuse("head_dim", "must be even: rotary embeddings turn pairs");
  if (c.head_dim > kMaxSize / c.heads)
    f.refuse("head_dim", "is " + std::to_string(c.head_dim) + ", which no matrix has for each of " +
                             std::to_string(c.heads) + " heads");
  c.vocab = f.size("vocab_size");
  c.context = f.size("max_position_embeddings", architecture.context);
  c.rms_eps = f.number("rms_norm_eps", architecture.rms_eps, true);
  c.tied_embeddings = f.flag("tie_word_embeddings", architecture.tied_embeddings);
  parse_experts(f, architecture, c);
  parse_windows(f, architecture, c);
  parse_biases(f, architecture, c);
  parse_scores(f, architecture, c);
  parse_rope(f, name, architecture, c);
  for (const char* key : {"quantization_config", "compression_config"})
    if (const Json* q = f.find(key)) note_rounded_activations(*q, c);
  if (const auto bos = f.tokens("bos_token_id"); !bos.empty()) c.bos = bos.front();
  c.eos = f.tokens("eos_token_id");
  return c;
}

std::size_t Config::elements(Size size) const {
  switch (size) {
    case Size::hidden: return hidden;
    case Size::queries: return heads * head_dim;
    case Size::keys: return kv_heads * head_dim;
    case Size::head: return head_dim;
    case Size::intermediate: return intermediate;
    case Size::queries_keys_values: return (heads + 2 * kv_heads) * head_dim;
    case Size::gates_ups: return 2 * intermediate;
    case Size::experts: return experts;
    case Size::expert_intermediate: return expert_intermediate;
  }
  throw Error(ErrorCode::invalid_argument, "there is no size " + std::to_string(static_cast<int>(size)));
}

std::size_t Config::window_of(std::size_t index) const {
  const bool full = full_attention.empty() ? index < full_layers : full_attention[index];
  return full ? 0 : sliding_window;
}

bool Config::windows_repeat(std::size_t every) const {
  if (sliding_window == 0 || every == 0) return false;
  for (std::size_t i = 0; i < layers; ++i)
    if ((window_of(i) == 0) != ((i + 1) % every == 0)) return false;
  return true;
}

float Config::attention_scale() const {
  const double by = query_pre_attn_scalar != 0 ? query_pre_attn_scalar : static_cast<double>(head_dim);
  return 1 / std::sqrt(static_cast<float>(by));
}

void require_directory(const std::filesystem::path& model) {
  format::refuse_no_model(model);
  if (!is_gguf(model) && files::is_regular_file(model))
    throw Error(ErrorCode::invalid_argument, "'" + model.string() +
                                                 "' is one file of a model; give the directory that holds it and "
                                                 "config.json, or a GGUF file");
}

Config Config::load(const std::filesystem::path& model) {
  require_directory(model);
  if (is_gguf(model)) return GgufWeights(model).config();
  const auto path = model / "config.json";
  return parse(files::read_text(path), path.string());
}

}  // namespace nibble::inline NIBBLE_ABI::model
