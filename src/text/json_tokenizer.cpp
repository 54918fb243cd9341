// The pipeline that tokenizer.json describes: added tokens, normalizer, pre-tokenizer, model, the tokens that the
// template puts around; and the decoder for the way back.
#include <unordered_map>

#include "added_tokens.h"
#include "byte_alphabet.h"
#include "components.h"
#include "core/files.h"
#include "decoder.h"
#include "load.h"
#include "normalizer.h"
#include "post_processor.h"
#include "pre_tokenizer.h"
#include "token_model.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

class JsonTokenizer final : public Tokenizer {
 public:
  explicit JsonTokenizer(const Json& d)
      : normalizers_(read_normalizers(member(d, "normalizer"))),
        pre_tokenizers_(read_pre_tokenizers(member(d, "pre_tokenizer"))),
        model_(read_token_model(member(d, "model"))),
        around_(read_post_processor(member(d, "post_processor"))),
        decoders_(read_decoders(member(d, "decoder"))) {
    bool bytes = has_component(member(d, "decoder"), "decoders", "ByteLevel");
    if (decoders_.empty() && has_component(member(d, "pre_tokenizer"), "pretokenizers", "ByteLevel")) {
      decoders_ = read_decoders({{"type", "ByteLevel"}});
      bytes = true;
    }
    read_added(member(d, "added_tokens"), bytes);
  }

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, bool special,
                                                 const Progress& progress) const override {
    require_utf8(text);
    Watch watch(progress);
    std::vector<std::int32_t> ids;
    if (special) ids = around_.before;
    WordCache cache;
    raw_tokens_.split(
        text,
        [&](std::string_view raw, std::int32_t token) {
          if (token >= 0) return ids.push_back(token);
          append_raw(std::string(raw), raw.data() == text.data(), cache, ids, watch);
        },
        watch);
    if (special) ids.insert(ids.end(), around_.after.begin(), around_.after.end());
    return ids;
  }

  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const std::int32_t id : ids) {
      if (const auto added = added_by_id_.find(id); added != added_by_id_.end()) tokens.push_back(added->second);
      else if (const std::string* token = model_->vocabulary().find(id)) tokens.push_back(*token);
      else throw Error(ErrorCode::invalid_argument, "the vocabulary has no token " + std::to_string(id));
    }
    for (const Decoder& step : decoders_) tokens = step(std::move(tokens));
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (decoders_.empty() && i > 0) text += ' ';
      text += tokens[i];
    }
    return text;
  }

 private:
  using WordCache = std::unordered_map<std::string, std::vector<std::int32_t>>;

  /// `to_bytes`: the decoder takes tokens for written bytes.
  void read_added(const Json& list, bool to_bytes) {
    const Progress none;
    Watch watch(none);
    std::vector<AddedToken> raw, normal;
    for (AddedToken& token : read_added_tokens(list)) {
      if (const std::int32_t id = model_->vocabulary().find(token.content); id >= 0 && id != token.id)
        throw_bad_json("the added token \"" + token.content + "\" has the id " + std::to_string(token.id) +
                       "; in the vocabulary it has " + std::to_string(id));
      added_by_id_[token.id] = to_bytes ? written_bytes(token.content) : token.content;
      if (token.normalized) token.content = normalized(std::move(token.content), watch);
      (token.normalized ? normal : raw).push_back(std::move(token));
    }
    raw_tokens_ = AddedTokens(std::move(raw));
    normalized_tokens_ = AddedTokens(std::move(normal));
  }
  [[nodiscard]] std::string normalized(std::string text, Watch& watch) const {
    for (const Normalizer& step : normalizers_) text = step(std::move(text), watch);
    return text;
  }
  /// Text without raw added tokens.
  void append_raw(std::string raw, bool at_start, WordCache& cache, std::vector<std::int32_t>& ids,
                  Watch& watch) const {
    const std::string text = normalized(std::move(raw), watch);
    normalized_tokens_.split(
        text,
        [&](std::string_view piece, std::int32_t token) {
          if (token >= 0) return ids.push_back(token);
          pre_tokenize(
              pre_tokenizers_, {std::string(piece), at_start && piece.data() == text.data()},
              [&](std::string word) { append_word(std::move(word), cache, ids, watch); }, watch);
        },
        watch);
  }
  /// Text repeats its words: each is merged once a call.
  void append_word(std::string word, WordCache& cache, std::vector<std::int32_t>& ids, Watch& watch) const {
    watch.tick();
    constexpr std::size_t kLongestKept = 256;
    if (word.size() > kLongestKept) return model_->encode(word, ids, watch);
    const auto [entry, is_new] = cache.try_emplace(std::move(word));
    if (is_new) model_->encode(entry->first, entry->second, watch);
    ids.insert(ids.end(), entry->second.begin(), entry->second.end());
  }

  std::vector<Normalizer> normalizers_;
  std::vector<PreTokenizer> pre_tokenizers_;
  std::unique_ptr<TokenModel> model_;
  TokensAround around_;
  std::vector<Decoder> decoders_;
  AddedTokens raw_tokens_, normalized_tokens_;
  std::unordered_map<std::int32_t, std::string> added_by_id_;  ///< As the decoder takes them.
};

}  // namespace

std::unique_ptr<Tokenizer> load_json_tokenizer(const std::filesystem::path& file) {
  return make_json_tokenizer(*json::parse(files::read_text(file), file.string()));
}

std::unique_ptr<Tokenizer> make_json_tokenizer(const Json& description) {
  return std::make_unique<JsonTokenizer>(description);
}

}  // namespace nibble::inline NIBBLE_ABI::text
