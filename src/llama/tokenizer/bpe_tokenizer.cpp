// The pipeline that tokenizer.json describes: added tokens, normalizer, pre-tokenizer, byte-pair encoding, and the
// tokens that the template puts around.
#include <unordered_map>

#include "format/files.h"
#include "llama/tokenizer/added_tokens.h"
#include "llama/tokenizer/bpe.h"
#include "llama/tokenizer/load.h"
#include "llama/tokenizer/pre_tokenizer.h"
#include "llama/tokenizer/unicode.h"

namespace nibble::llama {

namespace {

void read_normalizer(const Json& d, std::vector<Normalization>& forms, int depth = 0) {
  if (d.is_null()) return;
  if (depth > 8) throw_bad_json("normalizers nest more than 8 deep");
  const std::string type = text(d, "type");
  if (type == "NFC") return forms.push_back(Normalization::nfc);
  if (type == "NFD") return forms.push_back(Normalization::nfd);
  if (type == "NFKC") return forms.push_back(Normalization::nfkc);
  if (type == "NFKD") return forms.push_back(Normalization::nfkd);
  if (type != "Sequence") throw_unsupported("normalizer", type);
  for (const Json& step : array(d, "normalizers")) read_normalizer(step, forms, depth + 1);
}

/// Special tokens before and after one text.
struct Template {
  std::vector<std::int32_t> before, after;
};

void read_single_template(const Json& d, Template& out) {
  bool seen_text = false;
  for (const Json& item : array(d, "single")) {
    if (item.is_object() && item.contains("Sequence")) {
      seen_text = true;
      continue;
    }
    const std::string name = text(member(item, "SpecialToken"), "id");
    const Json& ids = array(member(member(d, "special_tokens"), name.c_str()), "ids");
    for (const Json& id : ids) (seen_text ? out.after : out.before).push_back(token_id(id, name));
  }
}

void read_post_processor(const Json& d, Template& out, int depth = 0) {
  if (d.is_null()) return;
  if (depth > 8) throw_bad_json("post-processors nest more than 8 deep");
  const std::string type = text(d, "type");
  if (type == "ByteLevel") return;  // changes offsets only
  if (type == "TemplateProcessing") return read_single_template(d, out);
  if (type != "Sequence") throw_unsupported("post-processor", type);
  for (const Json& step : array(d, "processors")) read_post_processor(step, out, depth + 1);
}

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(const Json& d)
      : pre_tokenizer_(read_pre_tokenizer(member(d, "pre_tokenizer"))), bpe_(member(d, "model")) {
    read_normalizer(member(d, "normalizer"), normalizer_);
    read_post_processor(member(d, "post_processor"), template_);
    for (AddedToken& token : read_added_tokens(member(d, "added_tokens"))) {
      added_by_id_[token.id] = token.content;
      AddedTokens& tokens = token.normalized ? normalized_tokens_ : raw_tokens_;
      if (token.normalized) token.content = normalized(token.content);
      tokens.add(std::move(token));
    }
  }

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    require_utf8(text);
    std::vector<std::int32_t> ids;
    if (special) ids = template_.before;
    WordCache cache;
    raw_tokens_.split(text, [&](std::string_view raw, std::int32_t token) {
      if (token >= 0) return ids.push_back(token);
      normalized_tokens_.split(normalized(std::string(raw)), [&](std::string_view piece, std::int32_t found) {
        if (found >= 0) return ids.push_back(found);
        pre_tokenize(pre_tokenizer_, std::string(piece),
                     [&](std::string word) { append(std::move(word), cache, ids); });
      });
    });
    if (special) ids.insert(ids.end(), template_.after.begin(), template_.after.end());
    return ids;
  }

  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) {
      if (const auto added = added_by_id_.find(id); added != added_by_id_.end()) text += added->second;
      else if (const std::string* bytes = bpe_.find(id)) text += *bytes;
      else throw Error(ErrorCode::invalid_argument, "the vocabulary has no token " + std::to_string(id));
    }
    return text;
  }

 private:
  using WordCache = std::unordered_map<std::string, std::vector<std::int32_t>>;

  [[nodiscard]] std::string normalized(std::string text) const {
    for (const Normalization form : normalizer_) text = normalize(form, text);
    return text;
  }
  /// Text repeats its words: each is merged once a call.
  void append(std::string word, WordCache& cache, std::vector<std::int32_t>& ids) const {
    const auto [entry, is_new] = cache.try_emplace(std::move(word));
    if (is_new) bpe_.encode(entry->first, entry->second);
    ids.insert(ids.end(), entry->second.begin(), entry->second.end());
  }

  std::vector<Normalization> normalizer_;
  std::vector<PreTokenizer> pre_tokenizer_;
  BytePairEncoding bpe_;
  Template template_;
  AddedTokens raw_tokens_, normalized_tokens_;
  std::unordered_map<std::int32_t, std::string> added_by_id_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_bpe_tokenizer(const std::filesystem::path& file) {
  const json::Document description = json::parse(format::read_text(file), file.string());
  return make_bpe_tokenizer(*description);
}

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const Json& description) {
  return std::make_unique<BpeTokenizer>(description);
}

}  // namespace nibble::llama
