#include "added_tokens.h"
#include "bpe.h"
#include "byte_alphabet.h"
#include "core/files.h"
#include "core/json.h"
#include "gguf_pre_tokenizers.h"
#include "gguf_sentencepiece.h"
#include "gguf_tokenizer.h"
#include "load.h"
#include "post_processor.h"
#include "sentencepiece_model.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

using Strings = std::vector<std::string>;

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
  const auto model = SentencePieceModel::parse(files::read_text(file), file.string());
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

}  // namespace

GgufMetadata tokenizer_metadata(const std::filesystem::path& model, const ModelTokens& tokens) {
  const auto object_in = [](const std::filesystem::path& file) {
    if (!files::exists(file)) return json::Document(Json::object());
    json::Document document = json::parse(files::read_text(file), file.string());
    if (!document->is_object()) throw Error(ErrorCode::corrupt_file, "'" + file.string() + "' is not a JSON object");
    return document;
  };
  const auto file = model / "tokenizer.json", sentencepiece = model / "tokenizer.model";
  const json::Document settings = object_in(model / "tokenizer_config.json"), document = object_in(file);
  if (settings->value("tokenizer_class", Json()) == "ByteTokenizer") return byte_metadata(tokens);
  const bool has_json = files::exists(file);
  if (files::exists(sentencepiece))
    return sentencepiece_metadata(sentencepiece, read_added_around(*settings), has_json ? *document : Json(), tokens);
  if (has_json) {
    (void)make_json_tokenizer(*document);  // refuses whatever is wrong with it
    return json_metadata(*document, tokens);
  }
  throw Error(ErrorCode::not_found, "no tokenizer in '" + model.string() + "': a GGUF file carries one");
}

}  // namespace nibble::inline NIBBLE_ABI::text
