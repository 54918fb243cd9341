#include "gguf_directory.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/pending.h"
#include "directory.h"
#include "format/gguf_fields.h"
#include "gguf_weights.h"
#include "text/gguf_tokenizer.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Llama 3's scaling, whose factors are written in full in a GGUF file: the frequency bounds that its models use, with
/// the factor that they show and the original context that gives these factors, if one does. It is a power of two.
std::optional<Json> llama3_scaling(const Config& c) {
  Config guess = c;
  RopeScaling& s = *guess.rope_scaling;
  s.kind = RopeScaling::Kind::llama3;
  s.factor = static_cast<double>(*std::max_element(s.factors.begin(), s.factors.end()));
  s.low_freq_factor = 1;
  s.high_freq_factor = 4;
  const auto wanted = c.inverse_frequencies();
  for (std::size_t context = 32; context <= std::size_t{1} << 20; context *= 2) {
    s.original_context = static_cast<double>(context);
    const auto got = guess.inverse_frequencies();
    const auto same = [](double a, double b) { return std::abs(a - b) <= 1e-6 * b; };  // the factors are fp32
    if (std::equal(got.begin(), got.end(), wanted.begin(), same))
      return Json{{"rope_type", "llama3"},
                  {"factor", s.factor},
                  {"low_freq_factor", s.low_freq_factor},
                  {"high_freq_factor", s.high_freq_factor},
                  {"original_max_position_embeddings", context}};
  }
  return std::nullopt;
}

Json rope_scaling(const Config& c, const std::string& file) {
  if (!c.rope_scaling) return nullptr;
  if (c.rope_scaling->kind == RopeScaling::Kind::linear)
    return {{"rope_type", "linear"}, {"factor", c.rope_scaling->factor}};
  if (const auto scaling = llama3_scaling(c)) return *scaling;
  throw Error(ErrorCode::unsupported,
              "'" + file +
                  "': the factors in 'rope_freqs.weight' are not those of Llama 3's scaling, and "
                  "config.json has no other word for them");
}

/// Of those that share the GGUF architecture, the one that has a sliding window if the file states one.
const Architecture& architecture_of(const Config& c) {
  const Architecture& first = c.architecture();
  for (const Architecture* a : architectures())
    if (a->gguf_architecture == first.gguf_architecture && a->has_experts() == first.has_experts() &&
        c.sliding_window != 0 && a->windows != Windows::never)
      return *a;
  return first;
}

/// The share of a head that is turned, such that int(head_dim·share) is what it was taken from.
double rotary_factor(const Config& c) {
  const auto turned = static_cast<double>(c.turned_dim()), all = static_cast<double>(c.head_dim);
  const double share = turned / all;
  return all * share < turned ? std::nextafter(share, 1.0) : share;
}

/// What Config::parse would take otherwise, were it not said.
void write_scores(const Config& c, Json& out) {
  const Architecture& a = c.architecture();
  if (c.windows_differ()) {
    out["layer_types"] = Json::array();
    for (std::size_t i = 0; i < c.layers; ++i)
      out["layer_types"].push_back(c.window_of(i) == 0 ? "full_attention" : "sliding_attention");
  }
  if (c.window_rope_theta != 0) out["rope_local_base_freq"] = c.window_rope_theta;
  if (a.query_pre_attn_scalar != 0) out["query_pre_attn_scalar"] = c.query_pre_attn_scalar;
  const auto cap = [&](const char* key, const std::optional<double>& known, double value) {
    if (known) out[key] = value != 0 ? Json(value) : Json(nullptr);
  };
  cap("attn_logit_softcapping", a.attention_cap, c.attention_cap);
  cap("final_logit_softcapping", a.logit_cap, c.logit_cap);
}

void write_experts(const Config& c, Json& out) {
  const Architecture& a = c.architecture();
  out[std::string(a.experts_key)] = c.experts;
  out["num_experts_per_tok"] = c.experts_per_token;
  if (a.expert_intermediate != 0) out["moe_intermediate_size"] = c.expert_intermediate;
  if (a.norm_topk_prob) out["norm_topk_prob"] = c.normalizes_experts;
}

std::string config_of(const fs::path& path) {
  const GgufWeights weights(path);
  const Config& c = weights.config();
  const Architecture& architecture = architecture_of(c);
  Json out{{"architectures", Json::array({architecture.class_name})},
           {"model_type", architecture.model_type},
           {std::string(architecture.activation_key), name_of(architecture.activation)},
           {"hidden_size", c.hidden},
           {"intermediate_size", c.intermediate},
           {"num_hidden_layers", c.layers},
           {"num_attention_heads", c.heads},
           {"num_key_value_heads", c.kv_heads},
           {"head_dim", c.head_dim},
           {"vocab_size", c.vocab},
           {"max_position_embeddings", c.context},
           {"rms_norm_eps", c.rms_eps},
           {"rope_theta", c.rope_theta}};
  if (const Json scaling = rope_scaling(c, path.string()); !scaling.is_null()) out["rope_scaling"] = scaling;
  if (architecture.partial_rotary_factor != 0) out["partial_rotary_factor"] = rotary_factor(c);
  out["tie_word_embeddings"] = c.tied_embeddings;
  if (c.sliding_window != 0) out["sliding_window"] = c.sliding_window;
  write_scores(c, out);
  if (architecture.has_experts()) write_experts(c, out);
  if (architecture.windows == Windows::if_used) out["use_sliding_window"] = c.sliding_window != 0;
  for (const Module& m : architecture.linears())
    if (const std::string key(m.bias_key); !key.empty() && !out.contains(key))
      out[key] = weights.contains(architecture.name(0, m) + ".bias");
  if (c.bos) out["bos_token_id"] = *c.bos;
  if (!c.eos.empty()) out["eos_token_id"] = c.eos.front();
  out["torch_dtype"] = "float32";
  return out.dump(2) + "\n";
}

}  // namespace

std::string config_json(const fs::path& model) {
  return is_gguf(model) ? config_of(model) : files::read_text(model / "config.json");
}

SideFiles write_side_files(const fs::path& model, const fs::path& to) {
  if (!is_gguf(model)) return {copy_side_files(model, to), {}};
  try {
    for (const auto& [name, text] : text::tokenizer_files(model)) files::write_file(to / name, text);
    return {};
  } catch (const Error& e) {
    if (e.code() != ErrorCode::unsupported && e.code() != ErrorCode::corrupt_file) throw;
    return {{}, {std::string("no tokenizer was written; put the model's own beside the weights: ") + e.what()}};
  }
}

}  // namespace nibble::inline NIBBLE_ABI::model
