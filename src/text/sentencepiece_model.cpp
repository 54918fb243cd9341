#include "sentencepiece_model.h"

#include <bit>
#include <cstring>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

/// The fields of one protobuf message, one after another.
class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  /// Moves to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const std::uint64_t tag = varint();
    field_ = tag >> 3;
    number_ = 0;
    text_ = {};
    switch (tag & 7) {
      case 0: number_ = varint(); break;
      case 1: text_ = take(8); break;
      case 2: text_ = take(varint()); break;
      case 5: text_ = take(4); break;
      default: refuse("wire type " + std::to_string(tag & 7));
    }
    return true;
  }
  std::uint64_t field() const { return field_; }
  std::uint64_t number() const { return number_; }
  std::string_view text() const { return text_; }
  float single() const {
    if (text_.size() != 4) refuse("a score that is no float");
    float value;
    std::memcpy(&value, text_.data(), 4);
    return value;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::corrupt_file,
                "'" + name_ + "' is no SentencePiece model: " + what + " at byte " + std::to_string(at_));
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) refuse("it is cut off");
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number of more than 64 bits");
  }
  std::string_view take(std::uint64_t n) {
    if (n > bytes_.size() - at_) refuse("a field of " + std::to_string(n) + " bytes");
    const auto out = bytes_.substr(at_, static_cast<std::size_t>(n));
    at_ += out.size();
    return out;
  }

  std::string_view bytes_;
  const std::string& name_;
  std::size_t at_ = 0;
  std::uint64_t field_ = 0, number_ = 0;
  std::string_view text_;
};

SentencePieceModel::Piece parse_piece(Message m) {
  SentencePieceModel::Piece piece;
  while (m.next()) {
    if (m.field() == 1) piece.text = m.text();
    if (m.field() == 2) piece.score = m.single();
    if (m.field() == 3) {
      if (m.number() < 1 || m.number() > 6) m.refuse("a piece of type " + std::to_string(m.number()));
      piece.type = static_cast<TokenType>(m.number());
    }
  }
  return piece;
}

void parse_trainer(Message m, SentencePieceModel& out, const std::string& name) {
  while (m.next()) {
    const auto id = static_cast<std::int32_t>(m.number());
    switch (m.field()) {
      case 3:
        if (m.number() != 1 && m.number() != 2)
          throw Error(ErrorCode::unsupported, "'" + name + "' is a SentencePiece model of type " +
                                                  std::to_string(m.number()) + "; 1 (unigram) and 2 (BPE) are known");
        out.is_bpe = m.number() == 2;
        break;
      case 24: out.whitespace_as_suffix = m.number() != 0; break;
      case 35: out.byte_fallback = m.number() != 0; break;
      case 40: out.unk = id; break;
      case 41: out.bos = id; break;
      case 42: out.eos = id; break;
      case 43: out.pad = id; break;
      case 44: out.unk_surface = m.text(); break;
      case 46: out.bos_piece = m.text(); break;
      case 47: out.eos_piece = m.text(); break;
      default: break;
    }
  }
}

void parse_normalizer(Message m, SentencePieceModel::Normalizer& out) {
  while (m.next()) {
    if (m.field() == 2) out.character_map = m.text();
    if (m.field() == 3) out.add_dummy_prefix = m.number() != 0;
    if (m.field() == 4) out.remove_extra_whitespace = m.number() != 0;
    if (m.field() == 5) out.escape_whitespace = m.number() != 0;
  }
}

class Writer {
 public:
  Writer& number(std::uint64_t field, std::uint64_t value) {
    varint(field << 3);
    varint(value);
    return *this;
  }
  Writer& flag(std::uint64_t field, bool value) { return number(field, value ? 1 : 0); }
  /// Protobuf sign-extends an int32 to 64 bits.
  Writer& id(std::uint64_t field, std::int32_t value) {
    return number(field, static_cast<std::uint64_t>(std::int64_t{value}));
  }
  Writer& text(std::uint64_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Writer& single(std::uint64_t field, float value) {
    varint(field << 3 | 5);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    bytes_.append(reinterpret_cast<const char*>(&bits), 4);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

std::string serialize_normalizer(const SentencePieceModel::Normalizer& n) {
  return Writer()
      .text(1, "identity")
      .text(2, n.character_map)
      .flag(3, n.add_dummy_prefix)
      .flag(4, n.remove_extra_whitespace)
      .flag(5, n.escape_whitespace)
      .bytes();
}

}  // namespace

SentencePieceModel SentencePieceModel::parse(std::string_view bytes, const std::string& name) {
  SentencePieceModel out;
  Message m(bytes, name);
  while (m.next()) {
    if (m.field() == 1) out.pieces.push_back(parse_piece(Message(m.text(), name)));
    if (m.field() == 2) parse_trainer(Message(m.text(), name), out, name);
    if (m.field() == 3) parse_normalizer(Message(m.text(), name), out.normalizer);
    if (m.field() == 5) parse_normalizer(Message(m.text(), name), out.denormalizer);
  }
  return out;
}

std::string SentencePieceModel::serialize() const {
  Writer out, trainer;
  for (const Piece& p : pieces)
    out.text(1, Writer().text(1, p.text).single(2, p.score).number(3, static_cast<std::uint64_t>(p.type)).bytes());
  trainer.number(3, is_bpe ? 2 : 1).flag(24, whitespace_as_suffix).flag(35, byte_fallback);
  trainer.id(40, unk).id(41, bos).id(42, eos).id(43, pad);
  trainer.text(44, unk_surface).text(46, bos_piece).text(47, eos_piece);
  out.text(2, trainer.bytes()).text(3, serialize_normalizer(normalizer));
  return out.text(5, serialize_normalizer(denormalizer)).bytes();
}

}  // namespace nibble::inline NIBBLE_ABI::text
