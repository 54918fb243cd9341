#include "gguf_pre_tokenizers.h"

#include <array>

#include "nibble/core/error.h"

namespace nibble::inline NIBBLE_ABI::text {

namespace {

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

}  // namespace

const KnownPreTokenizer* find_pre_tokenizer(std::string_view name) {
  for (const KnownPreTokenizer& k : kKnown)
    if (k.name == name) return &k;
  return nullptr;
}

const KnownPreTokenizer& known_pre_tokenizer(const Json& description, const Json& normalizer) {
  for (const KnownPreTokenizer& k : kKnown)
    if (essential(description) == Json::parse(k.description) && normalizer == Json::parse(k.normalizer)) return k;
  throw Error(ErrorCode::unsupported,
              "tokenizer.json: its pre-tokenizer is none of those that this library has llama.cpp's name for: " +
                  pre_tokenizer_names());
}

std::string pre_tokenizer_names() {
  std::string names;
  for (const KnownPreTokenizer& k : kKnown) names += (names.empty() ? "" : ", ") + std::string(k.name);
  return names;
}

}  // namespace nibble::inline NIBBLE_ABI::text
