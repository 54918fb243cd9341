// The embedded model, and texts for it: its tokens are bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

namespace nibble::testing_support {

inline constexpr const char* kEmbeddedModel = NIBBLE_EXAMPLE_DATA "/austen-5m";

/// Of a file beside it, at most so many tokens.
inline std::vector<std::int32_t> text_ids(const char* file, std::size_t most) {
  std::ifstream in(std::filesystem::path(NIBBLE_EXAMPLE_DATA) / file, std::ios::binary);
  std::vector<std::int32_t> ids;
  for (char c; ids.size() < most && in.get(c);) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace nibble::testing_support
