// Records of instructions, chats and plain text, as samples to train on.
//
//   auto data = text::read_records("data.jsonl", *tokenizer, {.template_name = "alpaca"});
//   auto rows = train::pack_rows(data.samples, 1024, train::Packing::best_fit);
//
// A file is JSON lines, one record a line, of one of these kinds; or, by another name than .jsonl or .json, plain text,
// whose paragraphs between form feeds, or all of it, are documents:
//
//   {"instruction": …, "input": …, "output": …}     by the template; `input` may be left out or empty
//   {"prompt": …, "completion": …}                  one behind the other, as they stand
//   {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}   also "conversations"
//   {"text": …}                                     all of it is trained on
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/core/progress.h"
#include "nibble/text/tokenizer.h"
#include "nibble/train/rows.h"

namespace nibble::inline NIBBLE_ABI::text {

/// How the parts of a record stand in the text. "{instruction}", "{input}", "{content}" and so on are replaced.
struct PromptTemplate {
  std::string_view name;
  std::string_view with_input, without_input;    ///< Of an instruction; the output follows.
  std::string_view system, user, before_answer;  ///< Of a chat: a message of each, and what stands before an answer.
  std::string_view after_answer;
};
/// "alpaca" (Taori et al. 2023; the lesson's), "chatml" (<|im_start|>…), "plain" (Instruction, a line, the answer).
std::span<const PromptTemplate> prompt_templates();
/// Error{invalid_argument} lists them.
const PromptTemplate& find_prompt_template(std::string_view name);

struct RecordOptions {
  std::string_view template_name = "alpaca";
  bool completion_only = true;  ///< Prompts are read and not trained on; otherwise everything is.
  std::int32_t eos = -1;        ///< Behind each answer, trained on; -1: none.
  std::int32_t bos = -1;        ///< Before each sample where the tokenizer puts none; -1: none.
  bool skip_bad = false;        ///< Leave a bad record out and say so in `notes`, in place of an error.
  std::size_t max_line_bytes = std::size_t{16} << 20;
  Progress progress;
};

struct Records {
  std::vector<train::Sample> samples;
  std::size_t records = 0, skipped = 0;
  std::vector<std::string> notes;  ///< What was skipped, by line and reason (the first ten); what looks odd.
};

/// Error{corrupt_file} names the file, the line, the key and what stands there; {invalid_argument} for a file without
/// a record. The tokens of prompt and answer are those of the whole text where the tokens of the prompt are its
/// beginning; otherwise the two are tokenized apart, and a note says how many records that befell.
Records read_records(const std::filesystem::path& file, const Tokenizer& tokenizer, const RecordOptions& options = {});

}  // namespace nibble::inline NIBBLE_ABI::text
