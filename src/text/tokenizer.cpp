#include "nibble/text/tokenizer.h"

#include <algorithm>

#include "core/files.h"
#include "json.h"
#include "load.h"
#include "nibble/format/gguf.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

class ByteTokenizer final : public Tokenizer {
 public:
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, bool /*special*/,
                                                 const Progress& /*progress*/) const override {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) {
      if (id < 0 || id > 255)
        throw Error(ErrorCode::invalid_argument, "a byte-level token is 0 … 255, not " + std::to_string(id));
      text.push_back(static_cast<char>(id));
    }
    return text;
  }
};

json::Document read_config(const std::filesystem::path& file) {
  if (!files::exists(file)) return json::Document(Json::object());
  json::Document config = json::parse(files::read_text(file), file.string());
  if (!config->is_object()) throw Error(ErrorCode::corrupt_file, "'" + file.string() + "' is not a JSON object");
  return config;
}

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

AddedAround read_added_around(const Json& config) {
  const auto said = [&](const char* key, bool otherwise) {
    const Json value = config.value(key, Json(otherwise));
    return value.is_boolean() ? value.get<bool>() : otherwise;
  };
  return {said("add_bos_token", true), said("add_eos_token", false)};
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model) {
  if (is_gguf(model)) return load_gguf_tokenizer(model);
  const json::Document config = read_config(model / "tokenizer_config.json");
  if (member(*config, "tokenizer_class") == "ByteTokenizer") return make_byte_tokenizer();
  const auto json = model / "tokenizer.json", sentencepiece = model / "tokenizer.model";
  const bool has_sentencepiece = files::exists(sentencepiece);
  if (files::exists(json)) {
    try {
      return load_json_tokenizer(json);
    } catch (const Error& e) {
      // Both forms of one tokenizer often lie together.
      if (e.code() != ErrorCode::unsupported || !has_sentencepiece) throw;
    }
  }
  if (has_sentencepiece) return load_sentencepiece_tokenizer(sentencepiece, read_added_around(*config));
  throw Error(ErrorCode::not_found,
              "no tokenizer in '" + model.string() + "': put tokenizer.json or tokenizer.model of the model there");
}

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const std::int32_t> prompt) : tokenizer_(tokenizer) {
  // A character of the prompt's end may be several tokens, which mean something only together.
  for (std::size_t n = 1; n <= std::min<std::size_t>(prompt.size(), 8); ++n) {
    ids_.assign(prompt.end() - static_cast<std::ptrdiff_t>(n), prompt.end());
    if (const std::string text = tokenizer_.decode(ids_);
        cut_character(text) == 0 && text.find(kReplacement) == text.npos)
      break;
  }
  given_ = ids_.size();
}

std::string TextStream::next(std::int32_t id) {
  ids_.push_back(id);
  const std::string before = tokenizer_.decode(std::span(ids_).first(given_)), all = tokenizer_.decode(ids_);
  // Some decoders show a cut character as U+FFFD. A token that truly is one is given out with the next.
  if (cut_character(all) != 0 || all.ends_with(kReplacement) || all.size() < before.size()) return {};
  std::string fresh = all.substr(before.size());
  // What shows nothing by itself, such as spaces at the beginning of a text, would not do as what went before.
  if (!tokenizer_.decode(std::span(ids_).subspan(given_)).empty())
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(given_));
  given_ = ids_.size();
  return fresh;
}

}  // namespace nibble::inline NIBBLE_ABI::text
