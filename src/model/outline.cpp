#include "outline.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config_check.h"
#include "core/json.h"
#include "gguf_directory.h"
#include "gguf_weights.h"
#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

bool is_known(const std::string& model_type) {
  const auto all = architectures();
  return std::any_of(all.begin(), all.end(), [&](const Architecture* a) { return a->model_type == model_type; });
}

/// Whether config.json says that the head is the embedding; models of several parts say it of the text's.
bool ties(const nlohmann::json& config) {
  const auto says = [](const nlohmann::json& j) {
    const auto it = j.find("tie_word_embeddings");
    return it != j.end() && it->is_boolean() && it->get<bool>();
  };
  const auto text = config.find("text_config");
  return says(config) || (text != config.end() && text->is_object() && says(*text));
}

}  // namespace

Outline Outline::load(const std::filesystem::path& model) {
  require_directory(model);
  Outline out;
  if (!is_gguf(model)) {
    const std::string name = (model / "config.json").string();
    const json::Document config = json::parse(config_json(model), name);
    if (!config->is_object()) throw Error(ErrorCode::corrupt_file, "'" + name + "' is not a JSON object");
    const auto type = config->find("model_type");
    if (type != config->end() && type->is_string()) out.model_type = type->get<std::string>();
    out.tied_embeddings = ties(*config);
    if (!is_known(out.model_type)) return out;
  }
  out.config = Config::load(model);
  out.model_type = out.config->model_type;
  out.tied_embeddings = out.config->tied_embeddings;
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
