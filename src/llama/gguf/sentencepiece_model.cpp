#include "llama/gguf/sentencepiece_model.h"

#include <bit>
#include <cstring>

#include "nibble/core/error.h"

namespace nibble::llama {

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

void parse_trainer(Message m, SentencePieceModel& out) {
  while (m.next()) {
    const auto id = static_cast<std::int32_t>(m.number());
    if (m.field() == 3) out.is_bpe = m.number() == 2;
    if (m.field() == 40) out.unk = id;
    if (m.field() == 41) out.bos = id;
    if (m.field() == 42) out.eos = id;
    if (m.field() == 43) out.pad = id;
  }
}

void parse_normalizer(Message m, SentencePieceModel& out) {
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

}  // namespace

SentencePieceModel SentencePieceModel::parse(std::string_view bytes, const std::string& name) {
  SentencePieceModel out;
  Message m(bytes, name);
  while (m.next()) {
    if (m.field() == 1) out.pieces.push_back(parse_piece(Message(m.text(), name)));
    if (m.field() == 2) parse_trainer(Message(m.text(), name), out);
    if (m.field() == 3) parse_normalizer(Message(m.text(), name), out);
  }
  return out;
}

std::string SentencePieceModel::serialize() const {
  Writer out;
  bool has_bytes = false;
  for (const Piece& p : pieces) {
    has_bytes = has_bytes || p.type == TokenType::byte;
    const auto type = static_cast<std::uint64_t>(p.type);
    out.text(1, Writer().text(1, p.text).single(2, p.score).number(3, type).bytes());
  }
  Writer trainer, normalizer;
  trainer.number(3, is_bpe ? 2 : 1).number(35, has_bytes ? 1 : 0).id(40, unk).id(41, bos).id(42, eos).id(43, pad);
  normalizer.text(1, "identity").text(2, character_map).number(3, add_dummy_prefix ? 1 : 0);
  normalizer.number(4, remove_extra_whitespace ? 1 : 0).number(5, escape_whitespace ? 1 : 0);
  return out.text(2, trainer.bytes()).text(3, normalizer.bytes()).bytes();
}

}  // namespace nibble::llama
