// Chat templates on their way into a GGUF file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nibble/format/gguf.h"

namespace nibble::inline NIBBLE_ABI::model {

/// tokenizer.chat_template, and for those with names tokenizer.chat_template.<name> and the list
/// tokenizer.chat_templates, as the gguf package writes them (all but letters and digits of a name become '_'; the one
/// named "default" is the first key). As in transformers the files chat_template.jinja and
/// additional_chat_templates/<name>.jinja come before tokenizer_config.json's "chat_template" (a text, or a list of
/// {name, template}); chat_template.json is last. Adds to `notes` what could not be taken.
GgufMetadata chat_templates(const std::filesystem::path& model, std::vector<std::string>& notes);

}  // namespace nibble::inline NIBBLE_ABI::model
