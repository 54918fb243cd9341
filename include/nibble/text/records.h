// Records of instructions, chats and plain text, as samples to train on.
//
//   auto data = text::read_records("data.jsonl", *tokenizer, {.template_name = "alpaca"});
//   auto rows = train::pack_rows(data.samples, 1024, train::Packing::best_fit);
//
// A file by the name of .jsonl or .json is JSON lines, one record a line, each of one of these kinds; lines of white
// space are passed over, and keys that are not named here mean nothing:
//
//   {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}
//                                      by the template; also "conversations", "from", "value", "human" and "gpt"
//   {"instruction": …, "input": …, "output": …}
//                                      by the template; `input` may be left out, null or empty; also "context" for it
//                                      and "response" for the output
//   {"prompt": …, "completion": …}     one behind the other, as they stand
//   {"text": …}                        all of it is trained on
//
// A record with the keys of several is of the kind that stands first here. A file by another name is plain text:
// what lies between its form feeds, or all of it, are documents, without the line ends around them.
//
// The texts of a record are tokenized as they are. What names a special token there, such as "<|im_end|>", becomes that
// token where tokenizer.json has it among its added tokens, as it does when the model is asked; to a SentencePiece
// model and to bytes it is text like any other. So data from strangers can end a turn, or begin one.
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

/// How the parts of a record stand in the text. "{instruction}", "{input}" and "{content}" are replaced, each once:
/// what is put there is not looked at again.
struct PromptTemplate {
  std::string_view name;
  std::string_view with_input, without_input;    ///< Of an instruction; the output follows.
  std::string_view system, user, before_answer;  ///< Of a chat: a message of each, and what stands before an answer.
  std::string_view after_answer;                 ///< Ends an answer, and is trained on with it.
  std::string_view between;                      ///< From the end of an answer to the next message; not trained on.
};
/// "alpaca": headings "### Instruction:", "### Input:" and "### Response:", each above its text.
/// "alpaca-preamble": the same as Taori et al. 2023 have it, below a sentence that says what an instruction is.
/// "chatml": <|im_start|>role, the content, <|im_end|>, for vocabularies that hold these two.
/// "plain": the instruction, the input, the answer, each in a line of its own.
std::span<const PromptTemplate> prompt_templates();
/// Error{invalid_argument} lists them.
const PromptTemplate& find_prompt_template(std::string_view name);
/// What a model that was trained by this template is asked with: all that stands before the output.
std::string instruction_prompt(const PromptTemplate& form, std::string_view instruction, std::string_view input = {});

struct RecordOptions {
  std::string_view template_name = "alpaca";
  bool completion_only = true;  ///< Prompts are read and not trained on; otherwise everything is.
  /// Behind each answer and each text that does not end with it already, trained on; -1: none. In a template that ends
  /// answers by itself it stands behind the last answer alone.
  std::int32_t eos = -1;
  std::int32_t bos = -1;  ///< Before each sample where the tokenizer puts nothing; -1: none.
  bool skip_bad = false;  ///< Leave a bad record out and say so in `notes`, in place of an error.
  std::size_t max_line_bytes = std::size_t{16} << 20;  ///< Of a line, or of a document of plain text.
  Progress progress = {};
};

struct Records {
  std::vector<train::Sample> samples;    ///< One for each record that was not skipped.
  std::size_t records = 0, skipped = 0;  ///< All that the file holds, and those of them that were left out.
  std::vector<std::string> notes;        ///< What was skipped, by line and reason (the first ten); what looks odd.
};

/// The file is read line by line: in memory are one line and the samples. Error{corrupt_file} names the file, the line,
/// the key and what stands there: no JSON object, no kind of record, a value that is no string, a message of a role
/// that is none of system, user and assistant, a chat without an answer, an answer or a text that is empty, text that
/// is not UTF-8, a line beyond max_line_bytes. Error{invalid_argument} for a file without a record, and for an eos or
/// bos that the tokenizer does not know.
///
/// The tokens of prompt and answer are those of both as one text where the tokens of the prompt are its beginning;
/// otherwise the two are tokenized apart, as when the model is asked, and a note says how many records that befell.
/// In a chat each answer with all that stands between it and the one before is a text of its own, as it is for a
/// program that goes on from the tokens it has. What the tokenizer puts before a text stands before the first alone.
Records read_records(const std::filesystem::path& file, const Tokenizer& tokenizer, const RecordOptions& options = {});

}  // namespace nibble::inline NIBBLE_ABI::text
