// Small models of tests/golden, made fit for what a test needs.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace nibble::testing_support {

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(NIBBLE_TEST_DATA "/golden") / name;
}

/// A golden model with a tokenizer for its 96 tokens, which it needs for export.
inline void copy_with_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to) {
  using Json = nlohmann::json;
  std::filesystem::create_directories(to);
  for (const char* file : {"config.json", "model.safetensors"}) std::filesystem::copy_file(from / file, to / file);
  Json d = Json::parse(std::ifstream(golden("gpt2") / "tokenizer.json"));
  d["added_tokens"] = Json::array();
  d["model"]["merges"] = Json::array();
  d["model"]["vocab"] = Json::object();
  for (int i = 0; i < 90; ++i) d["model"]["vocab"][std::string(1, static_cast<char>('!' + i))] = i;
  std::ofstream(to / "tokenizer.json") << d;
}

}  // namespace nibble::testing_support
