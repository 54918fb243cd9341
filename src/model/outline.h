// A model as those see it who compute nothing with it: its type, and the rest of its configuration where that is known.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "nibble/model/config.h"

namespace nibble::inline NIBBLE_ABI::model {

struct Outline {
  std::string model_type;        ///< Empty if config.json states none.
  std::optional<Config> config;  ///< Of an architecture that is known, which then must hold true.
  bool tied_embeddings = false;

  /// A directory with a config.json, whatever its model_type, or a GGUF file of a known architecture. Errors as
  /// Config::load where the architecture is known; else Error{corrupt_file} for a config.json that is none.
  static Outline load(const std::filesystem::path& model);
};

}  // namespace nibble::inline NIBBLE_ABI::model
