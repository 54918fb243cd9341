#include "llama/gguf/tokenizer.h"

#include <algorithm>
#include <array>

#include "format/files.h"
#include "llama/gguf/metadata.h"
#include "llama/gguf/sentencepiece_scores.h"
#include "llama/tokenizer/added_tokens.h"
#include "llama/tokenizer/bpe.h"
#include "llama/tokenizer/byte_alphabet.h"
#include "llama/tokenizer/load.h"
#include "llama/tokenizer/post_processor.h"
#include "llama/tokenizer/sentencepiece_model.h"

namespace nibble::llama {

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

void write_special_ids(const Config& config, GgufMetadata& out) {
  if (config.bos) out["tokenizer.ggml.bos_token_id"] = static_cast<std::uint32_t>(*config.bos);
  if (!config.eos.empty()) out["tokenizer.ggml.eos_token_id"] = static_cast<std::uint32_t>(config.eos.front());
}

GgufMetadata byte_metadata(const Config& config) {
  GgufMetadata out{{"tokenizer.ggml.model", std::string("gpt2")},
                   {"tokenizer.ggml.pre", std::string("gpt-2")},
                   {"tokenizer.ggml.merges", array_of(Strings())},
                   {"tokenizer.ggml.add_bos_token", false},
                   {"tokenizer.ggml.add_eos_token", false}};
  Vocabulary vocabulary;
  for (int b = 0; b < 256; ++b) vocabulary.set(b, written_byte(static_cast<unsigned char>(b)), TokenType::normal);
  vocabulary.write(config.vocab, out);
  write_special_ids(config, out);
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

GgufMetadata bpe_metadata(const Json& d, const Config& config) {
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
  vocabulary.write(config.vocab, out);
  Strings merges;
  for (const Json& m : array(model, "merges")) {
    const auto [left, right] = read_merge(m, "merge " + std::to_string(merges.size()));
    merges.push_back(left + " " + right);
  }
  out["tokenizer.ggml.merges"] = array_of(std::move(merges));
  write_special_ids(config, out);
  write_around(d, out);
  return out;
}

/// BPE with byte fallback, which is SentencePiece's BPE written as tokenizer.json.
GgufMetadata byte_fallback_metadata(const Json& d, const Config& config) {
  const bool prefix = adds_space_prefix(d);
  const auto scores = scores_of_merges(d);
  GgufMetadata out{{"tokenizer.ggml.model", std::string("llama")}, {"tokenizer.ggml.pre", std::string("default")}};
  const Json& model = member(d, "model");
  const Json& unknown = member(model, "unk_token");
  std::int32_t unknown_id = -1;
  Vocabulary vocabulary;
  std::vector<float> by_id(config.vocab, kUnmergedScore);
  for (const auto& [written, value] : member(model, "vocab").items()) {
    const std::int32_t id = token_id(value, written);
    vocabulary.set(id, written, is_byte_token(written) ? TokenType::byte : TokenType::normal);
    if (unknown == written) unknown_id = id;
    if (const auto it = scores.find(written); it != scores.end() && static_cast<std::size_t>(id) < by_id.size())
      by_id[static_cast<std::size_t>(id)] = it->second;
  }
  set_added_tokens(d, vocabulary);
  if (unknown_id >= 0) vocabulary.set(unknown_id, unknown.get<std::string>(), TokenType::unknown);
  vocabulary.write(config.vocab, out);
  out["tokenizer.ggml.scores"] = array_of(std::move(by_id));
  write_special_ids(config, out);
  write_around(d, out);
  if (unknown_id >= 0) out["tokenizer.ggml.unknown_token_id"] = static_cast<std::uint32_t>(unknown_id);
  out["tokenizer.ggml.add_space_prefix"] = prefix;
  out["tokenizer.ggml.remove_extra_whitespaces"] = false;
  return out;
}

GgufMetadata json_metadata(const Json& d, const Config& config) {
  const Json& model = member(d, "model");
  if (member(model, "type") == "Unigram")
    throw Error(ErrorCode::unsupported,
                "tokenizer.json holds a unigram model; llama.cpp's \"llama\" tokenizer merges as BPE does");
  return flag(model, "byte_fallback") ? byte_fallback_metadata(d, config) : bpe_metadata(d, config);
}

/// `beside`: the tokenizer.json of the same folder, or null. Tokens that a fine-tune added are only there.
GgufMetadata sentencepiece_metadata(const std::filesystem::path& file, AddedAround around, const Json& beside,
                                    const Config& config) {
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
  vocabulary.write(config.vocab, out);
  scores.resize(config.vocab, kUnmergedScore);
  out["tokenizer.ggml.scores"] = array_of(std::move(scores));
  write_special_ids(config, out);
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

/// The tokenizer.json that says the same.
Json bpe_description(const GgufFields& f, const Strings& tokens, const Strings& merges) {
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
      added.push_back(
          {{"id", i}, {"content", tokens[i]}, {"special", type == TokenType::control}, {"normalized", false}});
  }
  Json out{{"model", {{"type", "BPE"}, {"ignore_merges", pre->ignore_merges}, {"merges", merges}}},
           {"pre_tokenizer", Json::parse(pre->description)},
           {"normalizer", Json::parse(pre->normalizer)},
           {"added_tokens", added}};
  out["model"]["vocab"] = std::move(vocab);
  out["decoder"] = {{"type", "ByteLevel"}};
  Json single = Json::array({{{"Sequence", {{"id", "A"}}}}}), special = Json::object();
  const auto token = [&](const std::string& which, bool otherwise) -> Json {
    const auto id = f.number("tokenizer.ggml." + which + "_token_id");
    if (!id || !f.flag("tokenizer.ggml.add_" + which + "_token", otherwise)) return nullptr;
    if (*id >= tokens.size()) f.refuse("tokenizer.ggml." + which + "_token_id", "is no token");
    special[tokens[*id]] = {{"ids", {*id}}};
    return {{"SpecialToken", {{"id", tokens[*id]}}}};
  };
  if (const Json bos = token("bos", name == "llama-bpe"); !bos.is_null()) single.insert(single.begin(), bos);
  if (const Json eos = token("eos", false); !eos.is_null()) single.push_back(eos);
  out["post_processor"] = {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", special}};
  return out;
}

std::unique_ptr<Tokenizer> sentencepiece_of(const GgufFields& f, const Strings& tokens, const std::string& name) {
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
  return make_sentencepiece_tokenizer(
      std::move(model), name,
      {f.flag("tokenizer.ggml.add_bos_token", true), f.flag("tokenizer.ggml.add_eos_token", false)});
}

}  // namespace

GgufMetadata tokenizer_metadata(const std::filesystem::path& model, const Config& config) {
  const auto json = [](const std::filesystem::path& file) {
    Json document = Json::parse(format::read_text(file), nullptr, false);
    if (!document.is_object()) throw Error(ErrorCode::corrupt_file, "'" + file.string() + "' is not a JSON object");
    return document;
  };
  const auto settings = model / "tokenizer_config.json", file = model / "tokenizer.json",
             sentencepiece = model / "tokenizer.model";
  const Json config_json = std::filesystem::exists(settings) ? json(settings) : Json::object();
  if (config_json.value("tokenizer_class", Json()) == "ByteTokenizer") return byte_metadata(config);
  const bool has_json = std::filesystem::exists(file);
  if (std::filesystem::exists(sentencepiece))
    return sentencepiece_metadata(sentencepiece, read_added_around(config_json), has_json ? json(file) : Json(),
                                  config);
  if (has_json) {
    (void)load_json_tokenizer(file);  // refuses whatever is wrong with it
    return json_metadata(json(file), config);
  }
  throw Error(ErrorCode::not_found, "no tokenizer in '" + model.string() + "': a GGUF file carries one");
}

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const std::filesystem::path& path) {
  const GgufFile file(path);
  const GgufFields f(file.metadata(), path.string());
  const std::string model = f.text("tokenizer.ggml.model", "");
  const auto* tokens = f.array<std::string>("tokenizer.ggml.tokens");
  if (model != "gpt2" && model != "llama")
    f.refuse("tokenizer.ggml.model", "is '" + model + "'; gpt2 and llama are known", ErrorCode::unsupported);
  if (tokens == nullptr || tokens->empty()) f.refuse("tokenizer.ggml.tokens", "is missing");
  if (model == "llama") return sentencepiece_of(f, *tokens, path.string());
  const auto* merges = f.array<std::string>("tokenizer.ggml.merges");
  if (merges == nullptr) f.refuse("tokenizer.ggml.merges", "is missing");
  if (is_byte_vocabulary(*tokens, *merges)) return make_byte_tokenizer();
  return make_json_tokenizer(bpe_description(f, *tokens, *merges));
}

}  // namespace nibble::llama
