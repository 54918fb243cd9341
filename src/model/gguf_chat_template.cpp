#include "gguf_chat_template.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json.h"
#include "nibble/core/printable.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Templates = std::map<std::string, std::string>;  ///< By name; "default" is the model's own.

constexpr const char* kDefault = "default";

std::string clean(std::string name) {
  for (char& c : name) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    c = plain ? c : '_';
  }
  return name;
}

class Search {
 public:
  Search(const fs::path& model, std::vector<std::string>& notes) : model_(model), notes_(notes) {}

  Templates find() {
    Templates out;
    if (files::exists(model_ / "chat_template.jinja")) add(out, kDefault, "chat_template.jinja");
    add_named(out);
    const Templates configured = from_json("tokenizer_config.json");
    if (out.contains(kDefault) && configured.contains(kDefault) && out[kDefault] != configured.at(kDefault))
      notes_.emplace_back(
          "chat_template.jinja and tokenizer_config.json hold two different chat templates; the file's is taken, as "
          "transformers does");
    if (!out.contains(kDefault)) out.insert(configured.begin(), configured.end());
    if (out.empty()) out = from_json("chat_template.json");
    return out;
  }

 private:
  void add(Templates& out, const std::string& name, const fs::path& file) {
    std::string text = files::read_text(model_ / file);
    if (is_utf8(text)) out.emplace(clean(name), std::move(text));
    else notes_.push_back(file.string() + " is not UTF-8 text; that chat template is left out");
  }

  void add_named(Templates& out) {
    std::error_code error;
    std::vector<fs::path> found;
    for (fs::path& file : files::list_folder(model_ / "additional_chat_templates", error))
      if (file.extension() == ".jinja") found.push_back(std::move(file));
    std::sort(found.begin(), found.end());
    for (const fs::path& file : found)
      add(out, file.stem().string(), fs::path("additional_chat_templates") / file.filename());
  }

  Templates from_json(const std::string& file) {
    Templates out;
    if (!files::exists(model_ / file)) return out;
    const json::Document document = json::parse(files::read_text(model_ / file), (model_ / file).string());
    if (!document->is_object())
      throw Error(ErrorCode::corrupt_file, "'" + (model_ / file).string() + "' is not a JSON object");
    const auto it = document->find("chat_template");
    if (it == document->end() || it->is_null()) return out;
    const auto complain = [&](const std::string& what) { notes_.push_back(file + ": " + what + "; it is left out"); };
    if (it->is_string()) out.emplace(kDefault, it->get<std::string>());
    else if (!it->is_array()) complain("chat_template is neither a text nor a list");
    else
      for (const Json& entry : *it) {
        const bool whole = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                           entry.contains("template") && entry["template"].is_string();
        if (!whole) complain("an entry of chat_template is not {\"name\": text, \"template\": text}");
        else if (!out.emplace(clean(entry["name"].get<std::string>()), entry["template"].get<std::string>()).second)
          complain("a second chat template is named '" + entry["name"].get<std::string>() + "'");
      }
    return out;
  }

  const fs::path& model_;
  std::vector<std::string>& notes_;
};

}  // namespace

GgufMetadata chat_templates(const fs::path& model, std::vector<std::string>& notes) {
  GgufMetadata out;
  std::vector<std::string> names;
  for (auto& [name, text] : Search(model, notes).find()) {
    if (name.empty()) continue;
    if (name != kDefault) names.push_back(name);
    out[name == kDefault ? "tokenizer.chat_template" : "tokenizer.chat_template." + name] = text;
  }
  if (!names.empty()) out["tokenizer.chat_templates"] = GgufArray{std::move(names)};
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
