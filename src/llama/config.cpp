#include "nibble/llama/config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/json.h"
#include "format/files.h"
#include "format/recognise.h"
#include "llama/gguf/weights.h"
#include "nibble/core/error.h"

namespace nibble::llama {

namespace {

using Json = nlohmann::json;

/// A value in a message: what it is, where it holds others.
std::string shown(const Json& v) {
  if (v.is_structured()) return std::string("an ") + v.type_name();
  return v.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60);
}

/// Typed access to one JSON object, with errors that name the field.
class Fields {
 public:
  Fields(const Json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const Json* find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  std::size_t size(const char* field, std::optional<std::size_t> fallback = std::nullopt) const {
    const Json* v = find(field);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) refuse(field, "is missing");
    constexpr std::uint64_t most = 1u << 28;
    if (!v->is_number_unsigned() || v->get<std::uint64_t>() == 0 || v->get<std::uint64_t>() > most)
      refuse(field, "is " + shown(*v) + "; a positive whole number is needed");
    return v->get<std::size_t>();
  }
  double number(const char* field, double fallback) const {
    const Json* v = find(field);
    if (v == nullptr) return fallback;
    if (!v->is_number() || !(v->get<double>() > 0)) refuse(field, "is " + shown(*v) + "; a positive number is needed");
    return v->get<double>();
  }
  bool flag(const char* field, bool fallback) const {
    const Json* v = find(field);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) refuse(field, "is " + shown(*v) + "; true or false is needed");
    return v->get<bool>();
  }
  std::string text(const char* field, const std::string& fallback) const {
    const Json* v = find(field);
    if (v == nullptr) return fallback;
    if (!v->is_string()) refuse(field, "is not text");
    return v->get<std::string>();
  }
  /// A token id or a list of them.
  std::vector<std::int32_t> tokens(const char* field) const {
    std::vector<std::int32_t> out;
    const Json* v = find(field);
    if (v == nullptr) return out;
    const auto add = [&](const Json& id) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > 0x7FFFFFFF)
        refuse(field, "holds " + shown(id) + "; token ids are needed");
      out.push_back(id.get<std::int32_t>());
    };
    if (v == nullptr) return out;
    if (!v->is_array()) add(*v);
    else
      for (const Json& id : *v) add(id);
    return out;
  }
  [[noreturn]] void refuse(const char* field, const std::string& why) const {
    throw Error(ErrorCode::corrupt_file, "'" + name_ + "': \"" + field + "\" " + why);
  }

 private:
  const Json& object_;
  std::string name_;
};

/// Both the classic style (rope_theta beside rope_scaling) and the newer one (all inside rope_parameters).
void parse_rope(const Fields& fields, const std::string& name, Config& c) {
  c.rope_theta = fields.number("rope_theta", c.rope_theta);
  const Json* object = fields.find("rope_parameters");
  if (object == nullptr) object = fields.find("rope_scaling");
  if (object == nullptr) return;
  if (!object->is_object()) fields.refuse("rope_scaling", "is not an object");
  const Fields rope(*object, name);
  c.rope_theta = rope.number("rope_theta", c.rope_theta);
  const std::string kind = rope.text("rope_type", rope.text("type", "default"));
  if (kind == "default") return;
  RopeScaling s;
  s.factor = rope.number("factor", 1);
  if (kind == "llama3") {
    s.kind = RopeScaling::Kind::llama3;
    s.low_freq_factor = rope.number("low_freq_factor", 1);
    s.high_freq_factor = rope.number("high_freq_factor", 4);
    s.original_context = rope.number("original_max_position_embeddings", 8192);
    if (s.high_freq_factor <= s.low_freq_factor) rope.refuse("high_freq_factor", "must be above low_freq_factor");
  } else if (kind != "linear") {
    throw Error(ErrorCode::unsupported,
                "'" + name + "': rope_type '" + kind + "' is not known; default, linear and llama3 are");
  }
  c.rope_scaling = s;
}

}  // namespace

Config Config::parse(std::string_view text, const std::string& name) {
  const json::Document document = json::parse(text, name);
  if (!document->is_object()) throw Error(ErrorCode::corrupt_file, "'" + name + "' is not a JSON object");
  const Fields f(*document, name);
  Config c;
  c.model_type = f.text("model_type", "");
  if (c.model_type != "llama" && c.model_type != "mistral" && c.model_type != "qwen2")
    throw Error(ErrorCode::unsupported, "'" + name + "': model_type '" + c.model_type +
                                            "' is not a Llama-family model this engine knows: llama, mistral, qwen2");
  if (const std::string act = f.text("hidden_act", "silu"); act != "silu")
    throw Error(ErrorCode::unsupported, "'" + name + "': hidden_act '" + act + "' is not supported; silu is");
  c.hidden = f.size("hidden_size");
  c.intermediate = f.size("intermediate_size");
  c.layers = f.size("num_hidden_layers");
  c.heads = f.size("num_attention_heads");
  c.kv_heads = f.size("num_key_value_heads", c.heads);
  if (c.heads % c.kv_heads != 0) f.refuse("num_key_value_heads", "must divide num_attention_heads");
  if (f.find("head_dim") == nullptr && c.hidden % c.heads != 0)
    f.refuse("num_attention_heads", "must divide hidden_size");
  c.head_dim = f.size("head_dim", c.hidden / c.heads);
  if (c.head_dim % 2 != 0) f.refuse("head_dim", "must be even: rotary embeddings turn pairs");
  c.vocab = f.size("vocab_size");
  c.context = f.size("max_position_embeddings", 2048);
  c.rms_eps = f.number("rms_norm_eps", 1e-6);
  c.tied_embeddings = f.flag("tie_word_embeddings", false);
  // Qwen2 states a window it does not use unless told to.
  if (f.flag("use_sliding_window", c.model_type != "qwen2"))
    c.sliding_window = f.find("sliding_window") != nullptr ? f.size("sliding_window") : 0;
  parse_rope(f, name, c);
  if (const Json* q = f.find("quantization_config")) c.quantization = q->dump();
  if (const auto bos = f.tokens("bos_token_id"); !bos.empty()) c.bos = bos.front();
  c.eos = f.tokens("eos_token_id");
  return c;
}

std::vector<double> Config::inverse_frequencies() const {
  std::vector<double> out(head_dim / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    double f = std::pow(rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope_scaling && rope_scaling->kind == RopeScaling::Kind::factors) {
      f /= static_cast<double>(rope_scaling->factors[i]);
    } else if (rope_scaling) {
      const RopeScaling& s = *rope_scaling;
      // Llama 3: long wavelengths are stretched, short ones kept, those between blended.
      const double turns = s.original_context * f / (2 * std::numbers::pi);
      double kept = 0;
      if (s.kind == RopeScaling::Kind::llama3)
        kept = turns > s.high_freq_factor  ? 1
               : turns < s.low_freq_factor ? 0
                                           : (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = (1 - kept) * f / s.factor + kept * f;
    }
    out[i] = f;
  }
  return out;
}

Config Config::load(const std::filesystem::path& model) {
  format::refuse_no_model(model);
  if (is_gguf(model)) return GgufWeights(model).config();
  if (std::filesystem::is_regular_file(model))
    throw Error(ErrorCode::invalid_argument, "'" + model.string() +
                                                 "' is one file of a model; give the directory that holds it and "
                                                 "config.json, or a GGUF file");
  const auto path = model / "config.json";
  return parse(format::read_text(path), path.string());
}

}  // namespace nibble::llama
