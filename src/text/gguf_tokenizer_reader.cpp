#include <optional>

#include "byte_alphabet.h"
#include "core/json.h"
#include "format/gguf_fields.h"
#include "gguf_pre_tokenizers.h"
#include "gguf_tokenizer.h"
#include "load.h"
#include "sentencepiece_model.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

using Strings = std::vector<std::string>;

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
  const KnownPreTokenizer* pre = find_pre_tokenizer(name);
  if (pre == nullptr)
    f.refuse("tokenizer.ggml.pre", "is '" + name + "'; known are " + pre_tokenizer_names(), ErrorCode::unsupported);
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
