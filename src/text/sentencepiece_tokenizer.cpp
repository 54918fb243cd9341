#include "core/files.h"
#include "load.h"
#include "nibble/core/error.h"
#include "sentencepiece.h"
#include "unicode.h"

namespace nibble::inline NIBBLE_ABI::text {

SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceModel::Normalizer& spec, bool whitespace_as_suffix,
                                                 const std::string& name)
    : map_(spec.character_map, "'" + name + "'"),
      dummy_prefix_(spec.add_dummy_prefix),
      remove_extra_(spec.remove_extra_whitespace),
      escape_(spec.escape_whitespace),
      suffix_(whitespace_as_suffix) {}

CharacterMap::Match SentencePieceNormalizer::step(std::string_view text,
                                                  const SentencePieceVocabulary* vocabulary) const {
  if (vocabulary != nullptr)
    if (const std::size_t length = vocabulary->user_defined(text); length > 0) return {length, text.substr(0, length)};
  if (const auto match = map_.longest(text); match.length > 0) return match;
  std::size_t length = 0;
  if (!is_character(text, length)) return {1, "\xEF\xBF\xBD"};
  return {length, text.substr(0, length)};
}

std::string SentencePieceNormalizer::normalize(std::string_view text, const SentencePieceVocabulary* vocabulary,
                                               Watch& watch) const {
  if (remove_extra_)
    while (!text.empty()) {
      const auto [length, becomes] = step(text, vocabulary);
      if (becomes != " ") break;
      text.remove_prefix(length);
    }
  if (text.empty()) return {};

  const std::string_view space = escape_ ? kSpaceSymbol : " ";
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  if (dummy_prefix_ && !suffix_) out += space;
  bool after_space = remove_extra_;
  while (!text.empty()) {
    watch.tick();
    auto [length, becomes] = step(text, vocabulary);
    while (after_space && becomes.starts_with(' ')) becomes.remove_prefix(1);
    if (!becomes.empty()) after_space = remove_extra_ && becomes.ends_with(' ');
    for (const char c : becomes)
      if (c == ' ') out += space;
      else out += c;
    text.remove_prefix(length);
  }
  while (remove_extra_ && out.ends_with(space)) out.erase(out.size() - space.size());
  if (dummy_prefix_ && suffix_) out += space;
  return out;
}

namespace {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceModel model, const std::string& name, AddedAround around)
      : model_(std::move(model)),
        vocabulary_(model_, name),
        normalizer_(model_.normalizer, model_.whitespace_as_suffix, name),
        denormalizer_(model_.denormalizer, model_.whitespace_as_suffix, name) {
    const auto control = [&](bool wanted, const std::string& piece) {
      const std::int32_t id = vocabulary_.id_of(piece);
      return wanted && vocabulary_.type(id) == TokenType::control ? id : -1;
    };
    bos_ = control(around.bos, model_.bos_piece);
    eos_ = control(around.eos, model_.eos_piece);
  }

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, bool special,
                                                 const Progress& progress) const override {
    require_utf8(text);
    Watch watch(progress);
    const std::string normalized = normalizer_.normalize(text, &vocabulary_, watch);
    std::vector<std::int32_t> ids;
    if (special && bos_ >= 0) ids.push_back(bos_);
    bool after_unknown = false;
    for (const Segment& s : model_.is_bpe ? best_pieces_by_bpe(vocabulary_, normalized, watch)
                                          : best_pieces_by_unigram(vocabulary_, normalized, watch)) {
      const bool unknown = s.id == vocabulary_.unk();
      if (unknown && model_.byte_fallback)
        for (const char c : s.text) ids.push_back(vocabulary_.byte(static_cast<unsigned char>(c)));
      else if (!unknown || !after_unknown) ids.push_back(s.id);  // a run of unknown pieces is one token
      after_unknown = unknown;
    }
    if (special && eos_ >= 0) ids.push_back(eos_);
    return ids;
  }

  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text, bytes;
    // A space that the dummy prefix put there is taken away again: of the first piece that is not invisible.
    bool at_start = true, prefix_seen = false;
    for (const std::int32_t given : ids) {
      if (given < 0 || static_cast<std::size_t>(given) >= model_.pieces.size())
        throw Error(ErrorCode::invalid_argument, "the vocabulary has no token " + std::to_string(given));
      const std::string_view piece = vocabulary_.piece(given).text;
      const std::int32_t id = vocabulary_.id_of(piece);  // a reserved piece wins over a normal one of the same text
      if (vocabulary_.type(id) == TokenType::byte) {
        bytes.push_back(byte_of(piece));
        continue;
      }
      append_bytes(bytes, text);
      if (prefix_seen || !text.empty()) at_start = false;
      prefix_seen = append_piece(piece, id, at_start, text);
    }
    append_bytes(bytes, text);
    if (!model_.denormalizer.character_map.empty()) {
      const Progress none;
      Watch watch(none);
      text = denormalizer_.normalize(text, nullptr, watch);
    }
    return text;
  }

 private:
  static char byte_of(std::string_view piece) {  // "<0x4F>", checked by the vocabulary
    return static_cast<char>(std::stoi(std::string(piece.substr(3, 2)), nullptr, 16));
  }
  /// Whole characters as they are, each byte that belongs to none as U+FFFD.
  static void append_bytes(std::string& bytes, std::string& text) {
    for (std::size_t at = 0; at < bytes.size();) {
      std::size_t length = 1;
      if (is_character(std::string_view(bytes).substr(at), length)) text.append(bytes, at, length);
      else text += "\xEF\xBF\xBD", length = 1;
      at += length;
    }
    bytes.clear();
  }
  /// Whether the piece began with the dummy prefix, which was left out.
  bool append_piece(std::string_view piece, std::int32_t id, bool at_start, std::string& text) const {
    if (vocabulary_.type(id) == TokenType::control) return false;
    if (vocabulary_.type(id) == TokenType::unknown) {
      text += vocabulary_.piece(id).text == piece ? model_.unk_surface : std::string(piece);
      return false;
    }
    bool had_prefix = false;
    const auto& spec = model_.normalizer;
    if (at_start && (spec.add_dummy_prefix || spec.remove_extra_whitespace) && piece.starts_with(kSpaceSymbol)) {
      piece.remove_prefix(kSpaceSymbol.size());
      had_prefix = !spec.remove_extra_whitespace;  // otherwise those of the next pieces go, too
    }
    for (std::size_t at = 0; at < piece.size();) {
      const bool is_space = piece.substr(at).starts_with(kSpaceSymbol);
      text += is_space ? ' ' : piece[at];
      at += is_space ? kSpaceSymbol.size() : 1;
    }
    return had_prefix;
  }

  SentencePieceModel model_;
  SentencePieceVocabulary vocabulary_;
  SentencePieceNormalizer normalizer_, denormalizer_;
  std::int32_t bos_ = -1, eos_ = -1;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& file, AddedAround around) {
  return make_sentencepiece_tokenizer(SentencePieceModel::parse(files::read_text(file), file.string()), file.string(),
                                      around);
}

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceModel model, const std::string& name,
                                                        AddedAround around) {
  return std::make_unique<SentencePieceTokenizer>(std::move(model), name, around);
}

}  // namespace nibble::inline NIBBLE_ABI::text
