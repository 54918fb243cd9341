#include "tests/cuda_ptx/lexer.h"

#include <cctype>

namespace nibble::cuda_ptx {

namespace {

bool is_word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
}

/// The end of the comment or string that begins at `at`, or `at` if none does.
std::size_t skip(std::string_view text, std::size_t at) {
  const std::string_view rest = text.substr(at);
  std::size_t end = std::string_view::npos;
  if (rest.starts_with("//")) end = rest.find('\n');
  else if (rest.starts_with("/*")) {
    end = rest.find("*/");
    if (end != std::string_view::npos) end += 2;
  } else if (rest.starts_with("\"")) {
    end = rest.find('"', 1);
    if (end != std::string_view::npos) ++end;
  } else return at;
  return end == std::string_view::npos ? text.size() : at + end;
}

}  // namespace

bool Token::is_word() const { return is_word_character(text[0]); }

std::vector<Token> tokenize(std::string_view text) {
  std::vector<Token> out;
  for (std::size_t i = 0; i < text.size();) {
    if (std::isspace(static_cast<unsigned char>(text[i])) != 0) {
      ++i;
    } else if (const std::size_t next = skip(text, i); next != i) {
      i = next;
    } else if (is_word_character(text[i])) {
      std::size_t end = i;
      while (end < text.size() && (is_word_character(text[end]) || text.substr(end, 2) == "::"))
        end += text[end] == ':' ? 2 : 1;
      out.push_back({std::string(text.substr(i, end - i))});
      i = end;
    } else {
      out.push_back({std::string(1, text[i++])});
    }
  }
  return out;
}

}  // namespace nibble::cuda_ptx
