// A PEFT folder read: adapter_config.json says what kind of adapter it is, adapter_model.safetensors holds the matrices
// as "base_model.model.<layer>.lora_A.weight", "….lora_B.weight" and "….lora_magnitude_vector".
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "adapter_files.h"
#include "adapter_patterns.h"
#include "core/files.h"
#include "core/json.h"
#include "nibble/core/error.h"
#include "nibble/core/impl/memory.h"
#include "nibble/core/visit_float.h"
#include "nibble/format/safetensors.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = "base_model.model.";

/// adapter_config.json; every error names the file, the key and its value.
class PeftConfig {
 public:
  explicit PeftConfig(const fs::path& path)
      : place_("'" + path.string() + "'"), document_(json::parse_ordered(files::read_text(path), path.string())) {
    if (!document_->is_object()) throw Error(ErrorCode::corrupt_file, place_ + " is not a JSON object");
    refuse_what_is_not_read();
    dora = flag("use_dora");
    rslora = flag("use_rslora");
    rank_ = rank_of("r", find("r"), 8);
    alpha_ = alpha_of("lora_alpha", find("lora_alpha"), 8);
    if (const Json* v = find("lora_dropout")) {
      dropout = v->is_number() ? v->get<double>() : -1;
      if (!(dropout >= 0 && dropout < 1)) refuse("lora_dropout", *v, "a number from 0 up to 1 is needed");
    }
    if (const Json* v = find("base_model_name_or_path")) {
      if (!v->is_string()) refuse("base_model_name_or_path", *v, "text is needed");
      base_model = v->get<std::string>();
    }
    ranks_ = patterns("rank_pattern", [&](const std::string& key, const Json& v) { (void)rank_of(key, &v, 0); });
    alphas_ = patterns("alpha_pattern", [&](const std::string& key, const Json& v) { (void)alpha_of(key, &v, 0); });
  }

  /// Gives each layer its α, and holds the rank it should have against that of its matrices.
  void apply(std::vector<AdapterLayer>& layers) const {
    std::size_t bytes = 0;
    for (const AdapterLayer& l : layers) bytes += l.name.size();
    if (ranks_) ranks_->check_work(layers.size(), bytes, place_ + ": \"rank_pattern\"");
    if (alphas_) alphas_->check_work(layers.size(), bytes, place_ + ": \"alpha_pattern\"");
    for (AdapterLayer& l : layers) {
      const double rank = ranks_ ? ranks_->find(l.name).value_or(rank_) : rank_;
      if (rank != static_cast<double>(l.rank))
        throw Error(ErrorCode::corrupt_file, place_ + ": \"r\" and \"rank_pattern\" say that the rank of '" + l.name +
                                                 "' is " + std::to_string(static_cast<std::size_t>(rank)) +
                                                 ", and its matrices have " + std::to_string(l.rank) +
                                                 "; of several patterns the first counts");
      l.alpha = alphas_ ? alphas_->find(l.name).value_or(alpha_) : alpha_;
      l.rslora = rslora;
      if (dora == l.magnitude.empty())
        throw Error(ErrorCode::corrupt_file, place_ + ": \"use_dora\" is " + (dora ? "true" : "false") + ", and '" +
                                                 l.name + "' has " + (dora ? "no" : "a") + " lora_magnitude_vector");
    }
  }

  std::string base_model;
  double dropout = 0;
  bool dora = false, rslora = false;

 private:
  [[nodiscard]] const Json* find(const char* key) const {
    const auto it = document_->find(key);
    return it == document_->end() || it->is_null() ? nullptr : &*it;
  }
  [[noreturn]] void refuse(const std::string& key, const Json& value, const std::string& why,
                           ErrorCode code = ErrorCode::corrupt_file) const {
    // Not the text of nested values, which may be as long as the file is.
    const std::string text = value.is_structured()
                                 ? std::string("an ") + value.type_name() + " of " + std::to_string(value.size())
                                 : value.dump(-1, ' ', false, Json::error_handler_t::replace);
    throw Error(code, place_ + ": \"" + key + "\" is " + text.substr(0, 80) + "; " + why);
  }
  [[nodiscard]] bool flag(const char* key) const {
    const Json* v = find(key);
    if (v == nullptr) return false;
    if (!v->is_boolean()) refuse(key, *v, "true or false is needed");
    return v->get<bool>();
  }
  double rank_of(const std::string& key, const Json* v, double fallback) const {
    if (v == nullptr) return fallback;
    const double rank = v->is_number_integer() ? v->get<double>() : 0;
    if (!(rank >= 1 && rank <= static_cast<double>(kMaxRank)))
      refuse(key, *v, "a whole number from 1 to " + std::to_string(kMaxRank) + " is needed");
    return rank;
  }
  double alpha_of(const std::string& key, const Json* v, double fallback) const {
    if (v == nullptr) return fallback;
    const double alpha = v->is_number() ? v->get<double>() : NAN;
    if (!(std::fabs(alpha) <= 1e30)) refuse(key, *v, "a number is needed");
    return alpha;
  }
  template <class Check>
  std::optional<AdapterPatterns> patterns(const char* key, const Check& check) const {
    const Json* object = find(key);
    if (object == nullptr) return std::nullopt;
    if (!object->is_object()) refuse(key, *object, "an object of patterns is needed");
    for (const auto& [name, value] : object->items()) {
      const std::string where = std::string(key) + "\": \"" + name.substr(0, 200);
      if (value.is_null()) refuse(where, value, "a number is needed");
      check(where, value);
    }
    return AdapterPatterns(*object, place_ + ": \"" + key + "\"");
  }

  static bool says_nothing(const Json& v) {
    if (v.is_string()) return v.get_ref<const std::string&>().empty();
    return v.is_null() || v == false || (v.is_structured() && v.empty());
  }

  /// What would make another model of it. Keys that only choose layers or guide the training pass: which layers there
  /// are the tensors say.
  void refuse_what_is_not_read() const {
    constexpr auto unsupported = ErrorCode::unsupported;
    const Json* type = find("peft_type");
    if (type == nullptr)
      throw Error(ErrorCode::corrupt_file, place_ + " has no \"peft_type\"; is it the file of a PEFT adapter?");
    if (*type != "LORA") refuse("peft_type", *type, "LORA is read", unsupported);
    if (const Json* v = find("bias"); v != nullptr && *v != "none")
      refuse("bias", *v, "trained biases are not read; \"none\" is", unsupported);
    if (const Json* v = find("init_lora_weights");
        v != nullptr && !v->is_boolean() && *v != "gaussian" && *v != "eva" && *v != "orthogonal" && *v != "mica")
      refuse("init_lora_weights", *v,
             "such an adapter belongs to a base whose weights were changed with it; have PEFT convert it "
             "(save_pretrained with path_initial_model_for_weight_conversion)",
             unsupported);
    constexpr const char* changing[][2] = {
        {"lora_bias", "biases of LoRA matrices are not read"},
        {"modules_to_save", "modules that were trained whole are not read; merge the adapter with PEFT"},
        {"target_parameters", "parameters that are no linear layer are not read"},
        {"layer_replication", "replicated layers are not read"},
        {"trainable_token_indices", "trained embeddings are not read; merge the adapter with PEFT"},
        {"alora_invocation_tokens", "an adapter that is at work only behind certain tokens is not read"},
        {"arrow_config", "routing between adapters is not read"},
        {"kasa_config", "KaSA changes the base's weights, and is not read"},
        {"monteclora_config", "MonteCLoRA is not read"},
        {"velora_config", "VeLoRA is not read"}};
    for (const auto& [key, why] : changing)
      if (const Json* v = find(key); v != nullptr && !says_nothing(*v)) refuse(key, *v, why, unsupported);
    // A newer PEFT's variants are switched on by such flags; whatever they do, it is not done here.
    for (const auto& [key, value] : document_->items())
      if (key.starts_with("use_") && key != "use_dora" && key != "use_rslora" && !says_nothing(value))
        refuse(key.substr(0, 200), value, "this variant of LoRA is not read", unsupported);
  }

  std::string place_;
  json::OrderedDocument document_;
  double rank_ = 0, alpha_ = 0;
  std::optional<AdapterPatterns> ranks_, alphas_;
};

/// Where a tensor belongs.
struct Part {
  std::string layer;
  LoraHalves::Matrix LoraHalves::*half;
};

std::optional<Part> part_of(std::string_view tensor) {
  if (!tensor.starts_with(kPrefix)) return std::nullopt;
  tensor.remove_prefix(kPrefix.size());
  const std::pair<std::string_view, LoraHalves::Matrix LoraHalves::*> ends[] = {
      {".lora_A.weight", &LoraHalves::a},
      {".lora_B.weight", &LoraHalves::b},
      {".lora_magnitude_vector", &LoraHalves::magnitude}};
  for (const auto& [end, half] : ends)
    if (tensor.ends_with(end) && tensor.size() > end.size())
      return Part{std::string(tensor.substr(0, tensor.size() - end.size())), half};
  return std::nullopt;
}

std::vector<float> floats(const SafetensorsFile& file, const TensorInfo& t) {
  const Buffer data = file.data(t);
  Buffer aligned = Buffer::allocate(t.bytes);
  if (t.bytes > 0) std::memcpy(aligned.writable<std::byte>(), data.data(), t.bytes);
  std::vector<float> out(t.bytes / size_of(t.type));
  upcast_floats(t.type, aligned.data(), out.size(), out.data());
  file.release(t);
  return out;
}

std::map<std::string, LoraHalves> read_tensors(const fs::path& path) {
  const SafetensorsFile file(path);
  const std::string place = "'" + path.string() + "': tensor '";
  std::map<std::string, LoraHalves> out;
  for (const TensorInfo& t : file.tensors()) {  // first, so that nothing is read for an adapter that is refused
    if (t.name.size() > 1024)
      throw Error(ErrorCode::corrupt_file,
                  place + t.name.substr(0, 100) + "…' has a name of " + std::to_string(t.name.size()) + " bytes");
    const auto part = part_of(t.name);
    if (!part)
      throw Error(ErrorCode::unsupported,
                  place + t.name +
                      "' is no part of a LoRA pair of a linear layer, which are base_model.model."
                      "<layer>.lora_A.weight and lora_B.weight; without it the adapter would be "
                      "another");
    if (!is_matrix_type(t.type))
      throw Error(ErrorCode::unsupported,
                  place + t.name + "' is of " + std::string(name_of(t.type)) + "; F32, F16 and BF16 are read");
    LoraHalves::Matrix& half = out[part->layer].*part->half;
    half.tensor = t.name;
    half.shape = t.shape;
  }
  for (const TensorInfo& t : file.tensors()) {
    const auto part = part_of(t.name);
    needing_memory([&] { return "tensor '" + t.name + "'"; }, t.bytes,
                   [&] { (out[part->layer].*part->half).values = floats(file, t); });
  }
  file.require_intact();
  return out;
}

}  // namespace

Adapter read_peft(const fs::path& folder) {
  const fs::path config_path = folder / "adapter_config.json", weights = folder / "adapter_model.safetensors";
  std::error_code error;
  if (!fs::exists(config_path, error))
    throw Error(
        ErrorCode::not_found,
        "'" + folder.string() + "' holds no adapter_config.json; a folder that PEFT saved an adapter to has one");
  const PeftConfig config(config_path);
  if (!fs::exists(weights, error)) {
    if (fs::exists(folder / "adapter_model.bin", error))
      throw Error(ErrorCode::unsupported, "'" + (folder / "adapter_model.bin").string() +
                                              "' is a pickle, which is not read; save the adapter as safetensors");
    throw Error(ErrorCode::not_found, "'" + folder.string() + "' holds no adapter_model.safetensors");
  }
  Adapter out;
  out.base_model = config.base_model;
  out.dropout = config.dropout;
  auto halves = read_tensors(weights);
  out.layers = layers_of(halves, weights.string());
  config.apply(out.layers);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
