#include "format/files.h"
#include "llama/tokenizer/load.h"
#include "llama/tokenizer/unicode.h"
#include "nibble/core/error.h"

#ifdef NIBBLE_WITH_SENTENCEPIECE

#include <sentencepiece_processor.h>

namespace nibble::llama {

namespace {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& model, const std::string& name, bool add_bos) : add_bos_(add_bos) {
    if (const auto status = processor_.LoadFromSerializedProto(model); !status.ok())
      throw Error(ErrorCode::corrupt_file, "cannot read the SentencePiece model '" + name + "': " + status.ToString());
  }

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    require_utf8(text);
    std::vector<int> ids;
    if (const auto status = processor_.Encode({text.data(), text.size()}, &ids); !status.ok())
      throw Error(ErrorCode::invalid_argument, "SentencePiece cannot encode the text: " + status.ToString());
    if (special && add_bos_ && processor_.bos_id() >= 0) ids.insert(ids.begin(), processor_.bos_id());
    return {ids.begin(), ids.end()};
  }

  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids)
      if (id < 0 || id >= processor_.GetPieceSize())
        throw Error(ErrorCode::invalid_argument, "the vocabulary has no token " + std::to_string(id));
    std::string text;
    if (const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text); !status.ok())
      throw Error(ErrorCode::invalid_argument, "SentencePiece cannot decode: " + status.ToString());
    return text;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  bool add_bos_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& file, bool add_bos) {
  return make_sentencepiece_tokenizer(format::read_text(file), file.string(), add_bos);
}

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& model, const std::string& name,
                                                        bool add_bos) {
  return std::make_unique<SentencePieceTokenizer>(model, name, add_bos);
}

}  // namespace nibble::llama

#else

namespace nibble::llama {

std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& file, bool add_bos) {
  return make_sentencepiece_tokenizer({}, file.string(), add_bos);
}

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& /*model*/, const std::string& name,
                                                        bool /*add_bos*/) {
  throw Error(ErrorCode::unsupported, "'" + name +
                                          "' needs SentencePiece, which this build lacks: install libsentencepiece-dev "
                                          "and build again");
}

}  // namespace nibble::llama

#endif
