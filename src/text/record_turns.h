// The text of a record: what is asked, and what is answered, in turn.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "nibble/text/records.h"

namespace nibble::inline NIBBLE_ABI::text {

struct Turn {
  std::string prompt;  ///< Everything since the answer before.
  std::string answer;  ///< With what ends it; empty for what stands behind the last answer.
};

struct RecordTurns {
  std::vector<Turn> turns;
  bool by_template = false;  ///< Whether the template says what ends an answer.
};

/// A prompt, which may be empty, and its answer.
RecordTurns one_turn(std::string prompt, std::string answer, bool by_template = false);

/// The turns of one line of JSON. `where` names it in errors: "data.jsonl, line 7". Error{corrupt_file}.
RecordTurns turns_of_line(std::string_view line, const PromptTemplate& form, const std::string& where);

/// Error{corrupt_file} unless the text is UTF-8.
void require_utf8_at(std::string_view text, const std::string& where);

}  // namespace nibble::inline NIBBLE_ABI::text
