#include "gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "added_tokens.h"
#include "bpe.h"
#include "byte_alphabet.h"
#include "core/json.h"
#include "format/files.h"
#include "format/gguf_fields.h"
#include "gguf_sentencepiece.h"
#include "load.h"
#include "post_processor.h"
#include "sentencepiece_model.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

using Strings = std::vector<std::string>;

/// A pre-tokenizer that llama.cpp knows, as tokenizer.json describes it.
struct KnownPreTokenizer {
  const char* name;
  const char* description;  ///< JSON.
  const char* normalizer;   ///< JSON.
  bool ignore_merges;
};
constexpr std::array kKnown{
    KnownPreTokenizer{"gpt-2", R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})", "null", false},
    KnownPreTokenizer{
        "llama-bpe",
        R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Isolated", "invert": false,
            "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})",
        "null", true},
    KnownPreTokenizer{
        "qwen2",
        R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Isolated", "invert": false,
            "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})",
        R"({"type": "NFC"})", false},
    KnownPreTokenizer{"smollm",
                      R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
                          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]})",
                      "null", false},
};

/// Without the fields that do not change tokens.
Json essential(Json j) {
  if (j.is_object()) j.erase("trim_offsets");
  if (j.is_structured())
    for (Json& member : j) member = essential(member);
  return j;
}

const KnownPreTokenizer& known_pre_tokenizer(const Json& description, const Json& normalizer) {
  std::string names;
  for (const KnownPreTokenizer& k : kKnown) {
    if (essential(description) == Json::parse(k.description) && normalizer == Json::parse(k.normalizer)) return k;
    names += (names.empty() ? "" : ", ") + std::string(k.name);
  }
  throw Error(
      ErrorCode::unsupported,
      "tokenizer.json: its pre-tokenizer is none of those that this library has llama.cpp's name for: " + names);
}

template <class T>
GgufValue array_of(std::vector<T> elements) {
  return GgufArray{std::move(elements)};
}

/// Tokens being collected by id.
class Vocabulary {
 public:
  void set(std::int32_t id, std::string text, TokenType type) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= texts_.size()) {
      if (at > (1u << 24)) throw_bad_json("the id " + std::to_string(id) + " is too large for a vocabulary");
      texts_.resize(at + 1);
      types_.resize(at + 1, static_cast<std::int32_t>(TokenType::unused));
    }
    texts_[at] = std::move(text);
    types_[at] = static_cast<std::int32_t>(type);
  }
  void write(std::size_t size, GgufMetadata& out) {
    if (texts_.size() > size)
      throw Error(ErrorCode::corrupt_file, "the tokenizer has " + std::to_string(texts_.size()) +
                                               " tokens; the model's vocabulary has " + std::to_string(size));
    texts_.resize(size);
    types_.resize(size, static_cast<std::int32_t>(TokenType::unused));
    for (std::size_t i = 0; i < size; ++i)
      if (types_[i] == static_cast<std::int32_t>(TokenType::unused) && texts_[i].empty())
        texts_[i] = "[PAD" + std::to_string(i) + "]";
    out["tokenizer.ggml.tokens"] = array_of(texts_);
    out["tokenizer.ggml.token_type"] = array_of(types_);
  }

 private:
  Strings texts_;
  std::vector<std::int32_t> types_;
};

void write_special_ids(const ModelTokens& tokens, GgufMetadata& out) {
  if (tokens.bos) out["tokenizer.ggml.bos_token_id"] = static_cast<std::uint32_t>(*tokens.bos);
  if (!tokens.eos.empty()) out["tokenizer.ggml.eos_token_id"] = static_cast<std::uint32_t>(tokens.eos.front());
}

GgufMetadata byte_metadata(const ModelTokens& tokens) {
  GgufMetadata out{{"tokenizer.ggml.model", std::string("gpt2")},
                   {"tokenizer.ggml.pre", std::string("gpt-2")},
                   {"tokenizer.ggml.merges", array_of(Strings())},
                   {"tokenizer.ggml.add_bos_token", false},
                   {"tokenizer.ggml.add_eos_token", false}};
  Vocabulary vocabulary;
  for (int b = 0; b < 256; ++b) vocabulary.set(b, written_byte(static_cast<unsigned char>(b)), TokenType::normal);
  vocabulary.write(tokens.vocab, out);
  write_special_ids(tokens, out);
  return out;
}

/// What the template puts around a text, as GGUF can say it: at most one token on each side.
void write_around(const Json& d, GgufMetadata& out) {
  const TokensAround around = read_post_processor(member(d, "post_processor"));
  const auto write = [&](const std::vector<std::int32_t>& ids, const std::string& name) {
    if (ids.size() > 1)
      throw Error(ErrorCode::unsupported, "tokenizer.json: its post-processor puts " + std::to_string(ids.size()) +
                                              " tokens on one side of a text; GGUF has a place for one");
    out["tokenizer.ggml.add_" + name + "_token"] = !ids.empty();
    if (!ids.empty()) out["tokenizer.ggml." + name + "_token_id"] = static_cast<std::uint32_t>(ids.front());
  };
  write(around.before, "bos");
  write(around.after, "eos");
}

void set_added_tokens(const Json& d, Vocabulary& vocabulary) {
  for (const AddedToken& t : read_added_tokens(member(d, "added_tokens")))
    vocabulary.set(t.id, t.content, t.special ? TokenType::control : TokenType::user_defined);
}

GgufMetadata bpe_metadata(const Json& d, const ModelTokens& tokens) {
  const KnownPreTokenizer& pre = known_pre_tokenizer(member(d, "pre_tokenizer"), member(d, "normalizer"));
  const Json& model = member(d, "model");
  GgufMetadata out{{"tokenizer.ggml.model", std::string("gpt2")}, {"tokenizer.ggml.pre", std::string(pre.name)}};
  if (flag(model, "ignore_merges") != pre.ignore_merges)
    throw Error(ErrorCode::unsupported, "tokenizer.json: llama.cpp's pre-tokenizer " + std::string(pre.name) +
                                            " means \"ignore_merges\": " + (pre.ignore_merges ? "true" : "false") +
                                            "; here it is not");
  Vocabulary vocabulary;
  for (const auto& [written, id] : member(model, "vocab").items())
    vocabulary.set(token_id(id, written), written, TokenType::normal);
  set_added_tokens(d, vocabulary);
  vocabulary.write(tokens.vocab, out);
  Strings merges;
  for (const Json& m : array(model, "merges")) {
    const auto [left, right] = read_merge(m, "merge " + std::to_string(merges.size()));
    merges.push_back(left + " " + right);
  }
  out["tokenizer.ggml.merges"] = array_of(std::move(merges));
  write_special_ids(tokens, out);
  write_around(d, out);
  return out;
}

/// BPE with byte fallback, which is SentencePiece's BPE written as tokenizer.json.
GgufMetadata byte_fallback_metadata(const Json& d, const ModelTokens& tokens) {
  const bool prefix = adds_space_prefix(d);
  const auto scores = scores_of_merges(d);
  GgufMetadata out{{"tokenizer.ggml.model", std::string("llama")}, {"tokenizer.ggml.pre", std::string("default")}};
  const Json& model = member(d, "model");
  const Json& unknown = member(model, "unk_token");
  std::int32_t unknown_id = -1;
  Vocabulary vocabulary;
  std::vector<float> by_id(tokens.vocab, kUnmergedScore);
  for (const auto& [written, value] : member(model, "vocab").items()) {
    const std::int32_t id = token_id(value, written);
    vocabulary.set(id, written, is_byte_token(written) ? TokenType::byte : TokenType::normal);
    if (unknown == written) unknown_id = id;
    if (const auto it = scores.find(written); it != scores.end() && static_cast<std::size_t>(id) < by_id.size())
      by_id[static_cast<std::size_t>(id)] = it->second;
  }
  set_added_tokens(d, vocabulary);
  if (unknown_id >= 0) vocabulary.set(unknown_id, unknown.get<std::string>(), TokenType::unknown);
  vocabulary.write(tokens.vocab, out);
  out["tokenizer.ggml.scores"] = array_of(std::move(by_id));
  write_special_ids(tokens, out);
  write_around(d, out);
  if (unknown_id >= 0) out["tokenizer.ggml.unknown_token_id"] = static_cast<std::uint32_t>(unknown_id);
  out["tokenizer.ggml.add_space_prefix"] = prefix;
  out["tokenizer.ggml.remove_extra_whitespaces"] = false;
  return out;
}

GgufMetadata json_metadata(const Json& d, const ModelTokens& tokens) {
  const Json& model = member(d, "model");
  if (member(model, "type") == "Unigram")
    throw Error(ErrorCode::unsupported,
                "tokenizer.json holds a unigram model; llama.cpp's \"llama\" tokenizer merges as BPE does");
  return flag(model, "byte_fallback") ? byte_fallback_metadata(d, tokens) : bpe_metadata(d, tokens);
}

/// `beside`: the tokenizer.json of the same folder, or null. Tokens that a fine-tune added are only there.
GgufMetadata sentencepiece_metadata(const std::filesystem::path& file, AddedAround around, const Json& beside,
                                    const ModelTokens& tokens) {
  const auto model = SentencePieceModel::parse(format::read_text(file), file.string());
  if (!model.is_bpe)
    throw Error(ErrorCode::unsupported,
                "'" + file.string() + "' is a unigram model; llama.cpp's \"llama\" tokenizer merges as BPE does");
  GgufMetadata out{{"tokenizer.ggml.model", std::string("llama")}, {"tokenizer.ggml.pre", std::string("default")}};
  Vocabulary vocabulary;
  std::vector<float> scores;
  for (const auto& piece : model.pieces) {
    vocabulary.set(static_cast<std::int32_t>(scores.size()), piece.text, piece.type);
    scores.push_back(piece.score);
  }
  if (beside.is_object())
    for (const AddedToken& t : read_added_tokens(member(beside, "added_tokens")))
      if (static_cast<std::size_t>(t.id) >= model.pieces.size())
        vocabulary.set(t.id, t.content, t.special ? TokenType::control : TokenType::user_defined);
  vocabulary.write(tokens.vocab, out);
  scores.resize(tokens.vocab, kUnmergedScore);
  out["tokenizer.ggml.scores"] = array_of(std::move(scores));
  write_special_ids(tokens, out);
  const auto id = [&](const char* key, std::int32_t value) {
    if (value >= 0) out[key] = static_cast<std::uint32_t>(value);
  };
  id("tokenizer.ggml.bos_token_id", model.bos);
  id("tokenizer.ggml.eos_token_id", model.eos);
  id("tokenizer.ggml.unknown_token_id", model.unk);
  id("tokenizer.ggml.padding_token_id", model.pad);
  out["tokenizer.ggml.add_bos_token"] = around.bos && model.bos >= 0;
  out["tokenizer.ggml.add_eos_token"] = around.eos && model.eos >= 0;
  out["tokenizer.ggml.add_space_prefix"] = model.normalizer.add_dummy_prefix;
  out["tokenizer.ggml.remove_extra_whitespaces"] = model.normalizer.remove_extra_whitespace;
  if (!model.normalizer.character_map.empty()) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(model.normalizer.character_map.data());
    out["tokenizer.ggml.precompiled_charsmap"] =
        array_of(std::vector<std::uint8_t>(bytes, bytes + model.normalizer.character_map.size()));
  }
  return out;
}

bool is_byte_vocabulary(const Strings& tokens, const Strings& merges) {
  if (tokens.size() != 256 || !merges.empty()) return false;
  for (std::size_t b = 0; b < 256; ++b)
    if (tokens[b] != written_byte(static_cast<unsigned char>(b))) return false;
  return true;
}

/// ByteLevel steps with the field that only the library of tokenizer.json wants.
Json with_offsets(Json j) {
  if (j.is_object() && j.value("type", Json()) == "ByteLevel") j["trim_offsets"] = true;
  if (j.is_structured())
    for (Json& member : j) member = with_offsets(member);
  return j;
}

/// The tokenizer.json that says the same.
Json bpe_description(const format::GgufFields& f, const Strings& tokens, const Strings& merges) {
  const std::string name = f.text("tokenizer.ggml.pre", "default");
  const auto pre = std::find_if(kKnown.begin(), kKnown.end(), [&](const auto& k) { return k.name == name; });
  if (pre == kKnown.end())
    f.refuse("tokenizer.ggml.pre", "is '" + name + "'; gpt-2, llama-bpe, qwen2 and smollm are known",
             ErrorCode::unsupported);
  const auto* types = f.array<std::int32_t>("tokenizer.ggml.token_type");
  Json vocab = Json::object(), added = Json::array();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto type = types != nullptr && i < types->size() ? static_cast<TokenType>((*types)[i]) : TokenType::normal;
    if (type != TokenType::unused && !tokens[i].empty()) vocab[tokens[i]] = i;
    if ((type == TokenType::control || type == TokenType::user_defined) && !tokens[i].empty())
      added.push_back({{"id", i},
                       {"content", tokens[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type == TokenType::control}});
  }
  Json out{{"version", "1.0"},
           {"truncation", nullptr},
           {"padding", nullptr},
           {"model",
            {{"type", "BPE"},
             {"dropout", nullptr},
             {"unk_token", nullptr},
             {"continuing_subword_prefix", nullptr},
             {"end_of_word_suffix", nullptr},
             {"fuse_unk", false},
             {"byte_fallback", false},
             {"ignore_merges", pre->ignore_merges},
             {"merges", merges}}},
           {"pre_tokenizer", with_offsets(Json::parse(pre->description))},
           {"post_processor", nullptr},
           {"decoder", with_offsets({{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}})},
           {"normalizer", Json::parse(pre->normalizer)},
           {"added_tokens", added}};
  out["model"]["vocab"] = std::move(vocab);
  Json special = Json::object();
  const auto token = [&](const std::string& which, bool otherwise) -> std::optional<std::string> {
    const auto id = f.number("tokenizer.ggml." + which + "_token_id");
    if (!id || !f.flag("tokenizer.ggml.add_" + which + "_token", otherwise)) return std::nullopt;
    if (*id >= tokens.size()) f.refuse("tokenizer.ggml." + which + "_token_id", "is no token");
    const std::string& text = tokens[*id];
    special[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
    return text;
  };
  const auto bos = token("bos", name == "llama-bpe"), eos = token("eos", false);
  /// A text with what stands around it.
  const auto add_text = [&](Json& to, const char* text, int side) {
    if (bos) to.push_back({{"SpecialToken", {{"id", *bos}, {"type_id", side}}}});
    to.push_back({{"Sequence", {{"id", text}, {"type_id", side}}}});
    if (eos) to.push_back({{"SpecialToken", {{"id", *eos}, {"type_id", side}}}});
  };
  Json single = Json::array(), pair = Json::array();
  add_text(single, "A", 0);
  add_text(pair, "A", 0);
  add_text(pair, "B", 1);
  out["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  return out;
}

SentencePieceModel sentencepiece_of(const format::GgufFields& f, const Strings& tokens) {
  const auto* scores = f.array<float>("tokenizer.ggml.scores");
  const auto* types = f.array<std::int32_t>("tokenizer.ggml.token_type");
  if (scores == nullptr || scores->size() != tokens.size())
    f.refuse("tokenizer.ggml.scores", "must hold a score for each of the " + std::to_string(tokens.size()) + " tokens");
  SentencePieceModel model;
  model.is_bpe = true;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int32_t type = types != nullptr && i < types->size() ? (*types)[i] : 1;
    if (type < 1 || type > 6) f.refuse("tokenizer.ggml.token_type", "holds " + std::to_string(type));
    model.pieces.push_back({tokens[i], (*scores)[i], static_cast<TokenType>(type)});
    model.byte_fallback = model.byte_fallback || type == static_cast<std::int32_t>(TokenType::byte);
  }
  const auto id = [&](const char* key, std::int32_t fallback) {
    const auto value = f.number(key);
    if (value && *value >= tokens.size()) f.refuse(key, "is no token");
    return value ? static_cast<std::int32_t>(*value) : fallback;
  };
  model.unk = id("tokenizer.ggml.unknown_token_id", 0);
  model.bos = id("tokenizer.ggml.bos_token_id", 1);
  model.eos = id("tokenizer.ggml.eos_token_id", 2);
  model.pad = id("tokenizer.ggml.padding_token_id", -1);
  const auto text_of = [&](std::int32_t token, std::string& piece) {
    if (token >= 0 && static_cast<std::size_t>(token) < tokens.size()) piece = tokens[static_cast<std::size_t>(token)];
  };
  text_of(model.bos, model.bos_piece);
  text_of(model.eos, model.eos_piece);
  model.normalizer.add_dummy_prefix = f.flag("tokenizer.ggml.add_space_prefix", true);
  model.normalizer.remove_extra_whitespace = f.flag("tokenizer.ggml.remove_extra_whitespaces", false);
  if (const auto* map = f.array<std::uint8_t>("tokenizer.ggml.precompiled_charsmap"))
    model.normalizer.character_map.assign(map->begin(), map->end());
  return model;
}

/// What a GGUF file's tokenizer is in a directory: one of the three.
struct Described {
  std::optional<SentencePieceModel> sentencepiece;
  bool bytes = false;
  Json bpe;
};

Described describe(const format::GgufFields& f) {
  const std::string model = f.text("tokenizer.ggml.model", "");
  const auto* tokens = f.array<std::string>("tokenizer.ggml.tokens");
  if (model != "gpt2" && model != "llama")
    f.refuse("tokenizer.ggml.model", "is '" + model + "'; gpt2 and llama are known", ErrorCode::unsupported);
  if (tokens == nullptr || tokens->empty()) f.refuse("tokenizer.ggml.tokens", "is missing");
  if (model == "llama") return {sentencepiece_of(f, *tokens), false, {}};
  const auto* merges = f.array<std::string>("tokenizer.ggml.merges");
  if (merges == nullptr) f.refuse("tokenizer.ggml.merges", "is missing");
  if (is_byte_vocabulary(*tokens, *merges)) return {std::nullopt, true, {}};
  return {std::nullopt, false, bpe_description(f, *tokens, *merges)};
}

AddedAround added_around(const format::GgufFields& f) {
  return {f.flag("tokenizer.ggml.add_bos_token", true), f.flag("tokenizer.ggml.add_eos_token", false)};
}

/// tokenizer_config.json: the class, the special tokens by name, the chat template.
Json settings_of(const format::GgufFields& f, const Described& d) {
  Json out{{"tokenizer_class", d.bytes           ? "ByteTokenizer"
                               : d.sentencepiece ? "LlamaTokenizer"
                                                 : "PreTrainedTokenizerFast"}};
  const auto* tokens = f.array<std::string>("tokenizer.ggml.tokens");
  for (const auto& [name, key] :
       {std::pair{"bos_token", "tokenizer.ggml.bos_token_id"}, std::pair{"eos_token", "tokenizer.ggml.eos_token_id"},
        std::pair{"unk_token", "tokenizer.ggml.unknown_token_id"},
        std::pair{"pad_token", "tokenizer.ggml.padding_token_id"}})
    if (const auto id = f.number(key); id && *id < tokens->size() && !d.bytes) out[name] = (*tokens)[*id];
  if (d.sentencepiece) {
    out["add_bos_token"] = added_around(f).bos;
    out["add_eos_token"] = added_around(f).eos;
  }
  if (const std::string chat = f.text("tokenizer.chat_template", ""); !chat.empty()) out["chat_template"] = chat;
  return out;
}

}  // namespace

GgufMetadata tokenizer_metadata(const std::filesystem::path& model, const ModelTokens& tokens) {
  const auto object_in = [](const std::filesystem::path& file) {
    if (!std::filesystem::exists(file)) return json::Document(Json::object());
    json::Document document = json::parse(format::read_text(file), file.string());
    if (!document->is_object()) throw Error(ErrorCode::corrupt_file, "'" + file.string() + "' is not a JSON object");
    return document;
  };
  const auto file = model / "tokenizer.json", sentencepiece = model / "tokenizer.model";
  const json::Document settings = object_in(model / "tokenizer_config.json"), document = object_in(file);
  if (settings->value("tokenizer_class", Json()) == "ByteTokenizer") return byte_metadata(tokens);
  const bool has_json = std::filesystem::exists(file);
  if (std::filesystem::exists(sentencepiece))
    return sentencepiece_metadata(sentencepiece, read_added_around(*settings), has_json ? *document : Json(), tokens);
  if (has_json) {
    (void)make_json_tokenizer(*document);  // refuses whatever is wrong with it
    return json_metadata(*document, tokens);
  }
  throw Error(ErrorCode::not_found, "no tokenizer in '" + model.string() + "': a GGUF file carries one");
}

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const std::filesystem::path& path) {
  const GgufFile file(path);
  const format::GgufFields f(file.metadata(), path.string());
  Described d = describe(f);
  if (d.sentencepiece) return make_sentencepiece_tokenizer(*std::move(d.sentencepiece), path.string(), added_around(f));
  return d.bytes ? make_byte_tokenizer() : make_json_tokenizer(d.bpe);
}

std::vector<std::pair<std::string, std::string>> tokenizer_files(const std::filesystem::path& gguf) {
  const GgufFile file(gguf);
  const format::GgufFields f(file.metadata(), gguf.string());
  const Described d = describe(f);
  std::vector<std::pair<std::string, std::string>> out{{"tokenizer_config.json", settings_of(f, d).dump(2) + "\n"}};
  if (d.sentencepiece) out.emplace_back("tokenizer.model", d.sentencepiece->serialize());
  else if (!d.bytes) out.emplace_back("tokenizer.json", d.bpe.dump(1) + "\n");
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::text
